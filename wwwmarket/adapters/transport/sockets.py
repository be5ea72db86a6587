"""Socket addresses as text: ``host:port``, ``[v6]:port``."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

from wwwmarket.domain.errors import Malformed


def split(text: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        Malformed: not of this form, or no such port.
    """
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and 0 <= int(port) <= 65_535):
        raise Malformed(f"{text!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(text: str) -> bool:
    """Whether a numeric socket address is this machine's own, IPv4 mapped into IPv6 included."""
    address = ipaddress.ip_address(split(text)[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_unspecified(text: str) -> bool:
    """Whether a numeric socket address is that of every interface."""
    return ipaddress.ip_address(split(text)[0]).is_unspecified


async def resolve(hints: Iterable[str]) -> list[str]:
    """Numeric socket addresses for hints; those that are malformed, or name nothing, are left out: hints only help."""
    found: list[str] = []
    for hint in hints:
        try:
            host, port = split(hint)
            infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except (Malformed, OSError, UnicodeError):
            continue
        found += [join(str(info[4][0]), port) for info in infos]
    return list(dict.fromkeys(found))
