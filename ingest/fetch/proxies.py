"""Proxies of the environment: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``, as curl and pip read them.

Behind a proxy it is the proxy that resolves names and connects, so an address cannot be checked up to the connection:
what is known of it here is checked, and the rest is for the proxy's own rules.
"""

from __future__ import annotations

import ipaddress
import urllib.request
from urllib.parse import urlsplit

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch import addresses


def proxy_for(url: str) -> str | None:
    """Return the address of the http(s) proxy that ``url`` is to be asked through; None: it is asked directly.

    Loopback is always asked directly. SOCKS proxies are not used.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    found = urllib.request.getproxies()
    proxy = found.get(parts.scheme) or found.get("all") or ""
    if not proxy or _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    return proxy if proxy.startswith(("http://", "https://")) else None


def check_target(url: str, *, allow_private: bool) -> None:
    """Raise `Rejected` for an address that a proxy must not be asked for: one that is known here not to be public."""
    parts = urlsplit(url)
    if allow_private:
        return
    if _is_loopback(parts.hostname or ""):
        detail = f"{parts.hostname} is this machine; set allow_private_hosts if that is meant"
        raise Rejected(RejectReason.PRIVATE_ADDRESS, detail)
    try:
        addresses.resolve(parts.hostname or "", parts.port or 443, allow_private=False)
    except OSError:
        return  # the name is for the proxy to resolve, as is usual behind one


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
