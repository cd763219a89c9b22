"""Checks of addresses before a connection. Feeds are written by strangers and must not reach into our own network.

The check is made on the addresses a name resolves to, and the connection is made to the very address that was checked,
so neither a redirect nor a name that resolves differently the second time gets past it.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urljoin, urlsplit

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected


def check_url(url: str) -> str:
    """Return ``url`` if it is http(s) with a host, else raise `Rejected`. Where the host lies is not checked here."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise Rejected(RejectReason.BAD_REDIRECT, f"{url[:200]!r} is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise Rejected(RejectReason.BAD_REDIRECT, f"{url[:200]!r} is not an http or https address")
    return url


def absolute(base_url: str, url: str) -> str:
    """Return ``url`` resolved against ``base_url``; what is no address stays as it is, for `check_url` to refuse."""
    try:
        return urljoin(base_url, url.strip())
    except ValueError:
        return url.strip()


def is_public(address: str) -> bool:
    """Whether an IP address is on the open internet."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # Addresses that carry an IPv4 one lead where that one leads.
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if embedded is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
    return ip.is_global and not ip.is_multicast


def resolve(host: str, port: int, *, allow_private: bool) -> list[tuple]:
    """Return ``getaddrinfo`` rows of ``host``; `Rejected` if an address is not public and ``allow_private`` is off.

    Raises `OSError` where the name does not resolve.
    """
    rows = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    if not rows:
        raise OSError(f"{host}: the name resolves to nothing")
    if not allow_private:
        for row in rows:
            if not is_public(row[4][0]):
                raise Rejected(
                    RejectReason.PRIVATE_ADDRESS,
                    f"{host} is at {row[4][0]}, not on the open internet; set allow_private_hosts if that is meant",
                )
    return rows
