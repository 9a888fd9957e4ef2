"""Which proxy the environment names for a server: the decision of every part of Graftline that calls a server.

gRPC, httpx and urllib read the same variables by different rules, and none of them leaves out this machine: with
`http_proxy` set, a process asks the proxy for 127.0.0.1 (grpc #29718, #15942). One decision is made here instead: never
a proxy for this machine, and otherwise the variables in the order of gRPC or of urllib. Standard library only.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from typing import NamedTuple

LOOPBACK = ("localhost", "127.0.0.1", "::1")
# What gRPC's http_proxy_mapper.cc reads, in its order. gRPC ignores the names in upper case.
_GRPC = ("grpc_proxy", "https_proxy", "http_proxy")
_HARMLESS = (
    *("GRPC_VERBOSITY", "GRPC_TRACE", "GRPC_DNS_RESOLVER"),
    *("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "GRPC_SSL_CIPHER_SUITES"),
)
_NO_GRPC = ("no_grpc_proxy", "no_proxy")


class Proxy(NamedTuple):
    """A proxy's URL, which may hold a password, and the variable of the environment that names it."""

    variable: str
    url: str


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine. No name is looked up."""
    name = host.strip("[]").rstrip(".").lower()
    if name in ("localhost", "ip6-localhost", "ip6-loopback") or name.endswith(".localhost"):
        return True
    if (address := _address(name)) is None:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified  # to connect to 0.0.0.0 or :: is to connect to this machine


def of_grpc(host: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """Return the proxy that gRPC goes by for a host; None for none."""
    exempt = next((value for name in _NO_GRPC if (value := environment.get(name))), "")
    return _first(_GRPC, environment, host, exempt)


def of_http(scheme: str, host: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """Return the proxy for an `http` or `https` URL at a host; None for none. Lower case goes first, as in curl."""
    names = [f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"]
    if "REQUEST_METHOD" in environment:  # in a CGI program a client sets HTTP_PROXY by a header: https://httpoxy.org
        names.remove(f"{scheme}_proxy".upper())
    return _first(names, environment, host, environment.get("no_proxy") or environment.get("NO_PROXY") or "")


def drop_settings_of_grpc(environment: MutableMapping[str, str]) -> None:
    """Remove what tells gRPC how to work: with GRPC_POLL_STRATEGY=none clients and servers abort.

    A program of Graftline calls it before it uses gRPC. Variables about logs, names of hosts and TLS stay.
    """
    for name in [name for name in environment if name.startswith("GRPC_") and name not in _HARMLESS]:
        del environment[name]


def drop_unusable_key_log(environment: MutableMapping[str, str]) -> str:
    """Remove SSLKEYLOGFILE if it cannot be written, and return a note; "" for none.

    Python raises an OSError for it wherever a library prepares TLS, some of them when they are imported.
    """
    path = environment.get("SSLKEYLOGFILE", "")
    if not path:
        return ""
    try:
        open(path, "ab").close()
    except OSError as error:
        del environment["SSLKEYLOGFILE"]
        return f"SSLKEYLOGFILE is {path}, which cannot be written ({error.strerror}): it is passed over"
    return ""


def exempt_loopback(environment: MutableMapping[str, str]) -> None:
    """Add this machine's names to the hosts that libraries in this process and its children ask without a proxy."""
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        before = environment.get(name) or (environment.get("no_proxy", "") if name == "no_grpc_proxy" else "")
        listed = [part.strip() for part in before.split(",") if part.strip()]
        environment[name] = ",".join([*listed, *(host for host in LOOPBACK if host not in listed)])


def _first(names: Sequence[str], environment: Mapping[str, str], host: str, exempt: str) -> Proxy | None:
    if is_loopback(host) or _is_exempt(host, exempt):
        return None
    return next((Proxy(name, value) for name in names if (value := environment.get(name))), None)


def _is_exempt(host: str, listed: str) -> bool:
    """Return whether a list such as `*.corp, 10.0.0.0/8, [fd00::1], host:8080` names the host."""
    name = host.strip("[]").rstrip(".").lower()
    address = _address(name)
    for entry in listed.split(","):
        entry = entry.strip().lower().partition("://")[2] or entry.strip().lower()
        if entry == "*":
            return True
        entry = entry[1:].partition("]")[0] if entry.startswith("[") else entry
        if entry.count(":") == 1:
            entry = entry.partition(":")[0]
        if not entry:
            continue
        if address is not None:
            try:
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            except (ValueError, TypeError):
                pass
        suffix = entry.removeprefix("*").lstrip(".").rstrip(".")
        if suffix and (name == suffix or name.endswith(f".{suffix}")):
            return True
    return False


def _address(name: str) -> "ipaddress.IPv4Address | ipaddress.IPv6Address | None":
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    try:
        # Short forms such as 127.1, which the C library takes.
        return ipaddress.ip_address(socket.inet_aton(name)) if name[:1].isdigit() else None
    except (OSError, ValueError):
        return None
