"""Connections of the HTTP client: to checked addresses only, with a time limit on headers."""

from __future__ import annotations

import functools
import os
import ssl
import time

import httpcore
import httpx

from triforce.ingest.config import Settings
from triforce.ingest.fetch import addresses
from triforce.ingest.fetch.proxies import check_target, proxy_for

BLOCK_BYTES = 1 << 18
"""Size of the pieces that a body is read and unpacked in."""

MAX_HEADER_BYTES = 100 << 10
"""Size of headers at which the HTTP library gives up."""


class _WideStream(httpcore.NetworkStream):
    """A connection read in pieces of up to `BLOCK_BYTES`: httpcore's are a quarter as large, and take more calls.

    A server that answers a byte at a time keeps every single read short of its timeout: headers have a time in all.
    """

    def __init__(self, inner: httpcore.NetworkStream, headers_timeout_s: float):
        self._inner, self._headers_timeout_s = inner, headers_timeout_s
        self._asked_s, self._num_bytes = time.monotonic(), 0

    def write(self, buffer, timeout=None):
        self._inner.write(buffer, timeout)
        self._asked_s, self._num_bytes = time.monotonic(), 0

    def read(self, max_bytes, timeout=None):
        if self._num_bytes < MAX_HEADER_BYTES and time.monotonic() - self._asked_s > self._headers_timeout_s:
            raise httpcore.ReadTimeout(f"{self._num_bytes} bytes in {self._headers_timeout_s:.0f} s")
        block = self._inner.read(max(max_bytes, BLOCK_BYTES), timeout)
        self._num_bytes += len(block)
        return block

    def close(self):
        self._inner.close()

    def get_extra_info(self, info):
        return self._inner.get_extra_info(info)

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        return _WideStream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._headers_timeout_s)


class _CheckedBackend(httpcore.NetworkBackend):
    """Connections to the address that was checked, not to a name that may resolve to another one a moment later."""

    def __init__(self, settings: Settings):
        self._allow_private, self._inner = settings.allow_private_hosts, httpcore.SyncBackend()
        self._headers_timeout_s = 2 * max(settings.read_timeout_s, settings.slow_window_s)

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        try:
            rows = addresses.resolve(host, port, allow_private=self._allow_private)
        except OSError as error:
            raise httpcore.ConnectError(f"{host}: {error}") from error
        failure: Exception | None = None
        for address in dict.fromkeys(row[4][0] for row in rows):
            try:
                inner = self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
                return _WideStream(inner, self._headers_timeout_s)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def sleep(self, seconds):
        time.sleep(seconds)


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return the context that verifies certificates against the system's store, read once, as that takes a second."""
    return ssl.create_default_context()


class _CheckedTransport(httpx.HTTPTransport):
    """httpx's transport over our pool; ``_pool`` is private, and tests/ingest/fetch/test_network_insides.py pins it."""

    def __init__(self, settings: Settings, proxy: str | None):
        super().__init__(verify=tls_context())
        limits = {"max_connections": 64, "max_keepalive_connections": 16, "keepalive_expiry": 15.0}
        if proxy is None:
            backend = _CheckedBackend(settings)
            self._pool = httpcore.ConnectionPool(ssl_context=tls_context(), network_backend=backend, **limits)
            return
        # The one who set the proxy says where it is: a private network, as a rule.
        backend = _CheckedBackend(settings.model_copy(update={"allow_private_hosts": True}))
        at = httpx.Proxy(proxy)
        self._pool = httpcore.HTTPProxy(
            str(at.url), proxy_auth=at.raw_auth, ssl_context=tls_context(), network_backend=backend, **limits
        )


def client_of(settings: Settings, url: str) -> httpx.Client:
    """Return the client of this process for these settings and the proxy of ``url``, shared by all its threads.

    Raises `Rejected` for an address that a proxy must not be asked for.
    """
    proxy = proxy_for(url)
    if proxy is not None:
        check_target(url, allow_private=settings.allow_private_hosts)
    return _client(settings, proxy, os.getpid())


@functools.lru_cache(maxsize=16)
def _client(settings: Settings, proxy: str | None, _process: int) -> httpx.Client:
    return httpx.Client(
        transport=_CheckedTransport(settings, proxy),
        headers={"User-Agent": settings.user_agent_header, "Accept": "*/*"},
        timeout=httpx.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s),
        follow_redirects=False,
        trust_env=False,
    )
