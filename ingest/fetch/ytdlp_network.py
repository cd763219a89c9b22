"""yt-dlp's network, narrowed: every address is checked before a connection, redirects included; the pace of each host
is kept; no program is started.

This uses private parts of yt-dlp, which tests/ingest/fetch/test_network_insides.py pins.
"""

from __future__ import annotations

import functools
import http.client
import logging
import socket
import ssl
from urllib.error import URLError
from urllib.parse import urlsplit

import yt_dlp
from yt_dlp.networking._urllib import HTTPHandler, UrllibRH
from yt_dlp.networking.exceptions import RequestError, TransportError

from triforce.ingest.config import Settings
from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch import addresses
from triforce.ingest.fetch.pace.host import host_of
from triforce.ingest.fetch.proxies import check_target

logger = logging.getLogger(__name__)

NATIVE_PROTOCOLS = r"^(https?|m3u8(_native)?|http_dash_segments)$"
"""Protocols that yt-dlp downloads by itself, over the network code below. For others it starts ffmpeg or rtmpdump."""

NOTHING_EXECUTED = {
    "postprocessors": [],
    "fixup": "never",
    "external_downloader": {"default": "native"},
    "hls_prefer_native": True,
    "ffmpeg_location": "/no/ffmpeg/is/to/be/found",  # where it is, some playlists would be handed to it
}
"""Options with which yt-dlp starts no program and asks for nothing past the checks."""


class CheckedYoutubeDL(yt_dlp.YoutubeDL):
    """yt-dlp with the one request handler that checks addresses; curl, requests and websockets are left out."""

    def __init__(self, options: dict, settings: Settings):
        self._settings = settings
        super().__init__(NOTHING_EXECUTED | options)

    def build_request_director(self, handlers, preferences=None):
        return super().build_request_director([_checked_handler(self._settings)], preferences)


@functools.lru_cache(maxsize=16)
def _checked_handler(settings: Settings) -> type[UrllibRH]:
    def connect(address, timeout=None, source_address=None, *, allow_private: bool, **_):
        rows = addresses.resolve(*address, allow_private=allow_private)
        failure: OSError | None = None
        for row in rows:
            try:
                return socket.create_connection(row[4][:2], timeout, source_address)
            except OSError as error:
                failure = error
        raise failure

    def connection(http_class, allow_private, *args, **kwargs):
        made = http_class(*args, **kwargs)
        made._create_connection = functools.partial(connect, allow_private=allow_private)
        return made

    class CheckedHTTPHandler(HTTPHandler):
        def __init__(self, context: ssl.SSLContext):
            super().__init__(context=context)
            self.context = context

        def _open(self, name: str, request, **kwargs):
            url = addresses.check_url(request.full_url)
            allow_private = settings.allow_private_hosts
            if is_through_proxy := request.host != urlsplit(url).netloc.rpartition("@")[2]:
                check_target(url, allow_private=allow_private)
            http_class = getattr(http.client, name)
            opener = functools.partial(connection, http_class, allow_private or is_through_proxy)
            return self.do_open(opener, request, **kwargs)

        def http_open(self, request):
            return self._open("HTTPConnection", request)

        def https_open(self, request):
            return self._open("HTTPSConnection", request, context=self.context)

    class CheckedUrllibRH(UrllibRH):
        _SUPPORTED_URL_SCHEMES = ("http", "https")

        def _send(self, request):
            try:
                host_of(request.url, settings).wait_for_turn()
                return super()._send(request)
            except Rejected as error:
                raise TransportError(str(error), cause=error) from error
            except RequestError as error:
                # A Rejected is a ValueError, which yt-dlp wraps as a fault of the request, and gives up on the page for
                # good. It is to take it as a connection that failed: where it can do without, it goes on.
                if isinstance(error.cause, Rejected):
                    raise TransportError(str(error.cause), cause=error.cause) from error
                raise

        def _create_instance(self, proxies, cookiejar, legacy_ssl_support=None):
            opener = super()._create_instance(proxies, cookiejar, legacy_ssl_support)
            checked = CheckedHTTPHandler(self._make_sslcontext(legacy_ssl_support=legacy_ssl_support))
            for handler in opener.handlers:
                if type(handler) is HTTPHandler:
                    handler.http_open, handler.https_open = checked.http_open, checked.https_open
                for scheme in ("ftp", "file", "data"):
                    if hasattr(handler, f"{scheme}_open"):
                        setattr(handler, f"{scheme}_open", _refuse)
            return opener

    return CheckedUrllibRH


def _refuse(request):
    raise URLError(Rejected(RejectReason.BAD_REDIRECT, f"{request.full_url[:200]!r} is not an http or https address"))


class Log:
    """Logger that gives yt-dlp's messages our levels."""

    def debug(self, message: str) -> None:
        logger.debug("%s", message)

    info = warning = debug

    def error(self, message: str) -> None:
        logger.info("%s", message)
