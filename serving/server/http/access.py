"""Which web pages may use the HTTP port, and under which names it is known.

A browser on this machine reaches a server on localhost for every page that it shows. Two things give such a request
away: its `Origin` or `Sec-Fetch-Site` header names another site, or (DNS rebinding) its `Host` header is a name that a
stranger has pointed at this machine. An address in `Host` cannot be rebound.
"""

import re
import socket
from collections.abc import Iterable, Mapping, Sequence

from graftline.serving.server import addresses
from graftline.serving.server.errors import Code, ServingError

ANY = "*"
_AUTHORITY = re.compile(r"(?P<name>\[[0-9a-f:.%]+\]|[^\s:\[\]@/]*)(?::[0-9]*)?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?P<authority>[^/]+)")


def _name(authority: str) -> str | None:
    """Return the name or address of HOST[:PORT] without brackets; None when it is malformed."""
    match = _AUTHORITY.fullmatch(authority.lower())
    return match["name"].strip("[]").rstrip(".") if match else None


class Access:
    """Checks the `Host`, `Origin` and `Sec-Fetch-*` headers of a request.

    A server on loopback is known as localhost, as a loopback address, and by the names in `allowed`. A server on
    another address is known by every address too, and programs may use any name, because it has many in a cluster; a
    web page may not. `*` in `allowed` turns the checks off.
    """

    def __init__(self, host: str, allowed: Sequence[str] = ()) -> None:
        self._allowed = {each.lower().strip("[]").rstrip(".") for each in allowed}
        self._names = {"localhost", host.lower(), socket.gethostname().lower(), *self._allowed}
        self._loopback = addresses.is_loopback(host)

    def check(self, method: str, authority: str | None, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raise PERMISSION_DENIED for a request of a foreign page or to a name that is not this server's.

        `authority` is that of the request's target, if it is a whole URL (RFC 9112, section 3.2.2). Otherwise the
        `Host` header counts.
        """
        if ANY in self._allowed:
            return
        values: dict[bytes, str] = {}
        for name, value in headers:
            values[name] = f"{values[name]}, {value.decode('latin-1')}" if name in values else value.decode("latin-1")
        host = values.get(b"host", "") if authority is None else authority
        origin = values.get(b"origin")
        if host and not self._knows(host) and (self._loopback or origin is not None):
            raise _denied(f"Host: {host} is not a name of this server", "localhost, an address", _name(host))
        if origin is not None:
            self._check_origin(origin.lower(), host.lower())
        elif _is_foreign(method, values):
            raise ServingError(Code.PERMISSION_DENIED, "a page of another site may not use this server")

    def _knows(self, authority: str) -> bool:
        name = _name(authority)
        if not name:
            return False
        if address := addresses.parse(name):
            return address.is_loopback or not self._loopback or name in self._names
        return name in self._names or name.endswith(".localhost")

    def _check_origin(self, origin: str, host: str) -> None:
        match = _ORIGIN.fullmatch(origin)
        authority = match["authority"] if match else ""
        if not (host and authority == host) and _name(authority) not in self._allowed - {""}:
            raise _denied(f"Origin: {origin} is another site", "the server's own page", _name(authority))


def _is_foreign(method: str, headers: Mapping[bytes, str]) -> bool:
    """Return whether a browser says that another site sends the request. A link to this server may be followed."""
    if headers.get(b"sec-fetch-site", "none").lower() in ("none", "same-origin"):
        return False
    followed = headers.get(b"sec-fetch-mode", "").lower() == "navigate" and method in ("GET", "HEAD")
    return not followed or headers.get(b"sec-fetch-dest", "").lower() in ("object", "embed", "iframe", "frame")


def _denied(fault: str, choice: str, name: str | None) -> ServingError:
    flag = f", or start the server with --allowed-hosts {name}" if name else ""
    return ServingError(Code.PERMISSION_DENIED, f"{fault}: use {choice}{flag}")
