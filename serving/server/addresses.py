"""Addresses to listen on, and whether other machines reach them. Standard library only."""

import ipaddress
import socket
from typing import Any


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return the family and the socket address of --host and a port. Raises OSError and UnicodeError.

    `socket.bind` alone would drop the zone of an address such as fe80::1%eth0.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][4]


def parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a text is, with or without a zone; None for a name."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Return whether an address, or a name that resolves to addresses, is reached from this machine only."""
    try:
        found = [host] if parse(host) else [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):  # an unknown name: the server cannot listen there
        return False
    return all((address := parse(each)) is not None and address.is_loopback for each in found)
