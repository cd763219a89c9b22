"""Private parts of libraries that fetching uses: each test says what a part means, and fails if an upgrade changes it.

yt-dlp must stay upgradable, as sites change under it: where a test here fails, `triforce.ingest.fetch.ytdlp_network` is
what has to follow. httpx is held below its next minor version by pyproject.toml.
"""

from __future__ import annotations

import http.client
import inspect
import ssl
import urllib.request
from urllib.error import URLError

import httpcore
import httpx
import pytest
from yt_dlp.networking import Request
from yt_dlp.networking._urllib import HTTPHandler, UrllibRH
from yt_dlp.networking.common import RequestHandler
from yt_dlp.networking.exceptions import NoSupportingHandlers, TransportError

from triforce.ingest.errors import Rejected
from triforce.ingest.fetch import addresses
from triforce.ingest.fetch.pace.host import host_of
from triforce.ingest.fetch.ytdlp_network import CheckedYoutubeDL


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.fixture
def ydl(settings):
    with CheckedYoutubeDL({"quiet": True, "proxy": ""}, settings) as ydl:
        yield ydl


def handler_of(ydl: CheckedYoutubeDL) -> UrllibRH:
    """The one request handler: `RequestDirector.handlers` is public."""
    [handler] = ydl.build_request_director([]).handlers.values()
    assert isinstance(handler, UrllibRH)
    return handler


def test_yt_dlp_has_no_handler_but_ours(ydl):
    assert parameters(CheckedYoutubeDL.__mro__[1].build_request_director) == ["self", "handlers", "preferences"]
    assert type(handler_of(ydl)).__name__ == "CheckedUrllibRH"


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:text/plain,x"])
def test_supported_url_schemes_are_all_that_a_handler_takes(ydl, url):
    assert {"http", "https"} < set(UrllibRH._SUPPORTED_URL_SCHEMES)
    assert handler_of(ydl)._SUPPORTED_URL_SCHEMES == ("http", "https")
    with pytest.raises(NoSupportingHandlers):
        ydl.build_request_director([]).send(Request(url))


def test_send_is_what_a_request_goes_through(ydl, site, settings, monkeypatch):
    assert parameters(RequestHandler._send) == ["self", "request"]
    turns = []
    monkeypatch.setattr(type(host_of(site.base_url, settings)), "wait_for_turn", lambda host: turns.append(host))
    assert ydl.urlopen(site.put("/a", b"body")).read() == b"body"
    assert len(turns) == 1


def test_an_instance_is_an_opener_with_one_http_handler(ydl):
    assert parameters(UrllibRH._create_instance)[:4] == ["self", "proxies", "cookiejar", "legacy_ssl_support"]
    plain = UrllibRH(logger=None)._create_instance({}, None)
    assert isinstance(plain, urllib.request.OpenerDirector)
    assert [type(handler) for handler in plain.handlers].count(HTTPHandler) == 1
    checked = handler_of(ydl)._create_instance({}, None)
    [handler] = [handler for handler in checked.handlers if type(handler) is HTTPHandler]
    assert handler.http_open.__self__ is not handler, "methods set on the handler are the ones that the opener calls"
    for scheme in ("ftp", "file", "data"):
        with pytest.raises(URLError, match=r"not an http or https address|unknown url type"):
            checked.open(f"{scheme}:///x")


def test_the_opener_connects_by_our_function(ydl, site, monkeypatch):
    asked = []
    resolve = addresses.resolve
    monkeypatch.setattr(addresses, "resolve", lambda *args, **more: asked.append(args) or resolve(*args, **more))
    ydl.urlopen(site.put("/a", b"body"))
    host, port = site.base_url.removeprefix("http://").split(":")
    assert asked == [(host, int(port))]


def test_a_refusal_is_among_the_causes_of_what_yt_dlp_raises(settings, site):
    strict = settings.model_copy(update={"allow_private_hosts": False})
    with CheckedYoutubeDL({"quiet": True, "proxy": ""}, strict) as ydl, pytest.raises(TransportError) as caught:
        handler_of(ydl).send(Request(site.put("/a", b"body")))
    assert isinstance(caught.value.cause, Rejected)
    assert site.requests == []


def test_the_context_of_a_handler_verifies_certificates(ydl):
    assert "legacy_ssl_support" in parameters(RequestHandler._make_sslcontext)
    context = handler_of(ydl)._make_sslcontext(legacy_ssl_support=None)
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("kind", [http.client.HTTPConnection, http.client.HTTPSConnection])
def test_an_http_connection_connects_by_its_create_connection(kind):
    class Reached(Exception):
        pass

    def connect(address, timeout=None, source_address=None):
        raise Reached(address)

    connection = kind("example.org", 81, timeout=1)
    connection._create_connection = connect
    with pytest.raises(Reached, match=r"'example\.org', 81"):
        connection.request("GET", "/")


def test_a_transport_sends_by_its_pool():
    transport = httpx.HTTPTransport()
    assert isinstance(transport._pool, httpcore.ConnectionPool)
    asked = []

    class Pool(httpcore.ConnectionPool):
        def handle_request(self, request):
            asked.append(request.url.host)
            return httpcore.Response(204)

    transport._pool = Pool()
    assert httpx.Client(transport=transport, trust_env=False).get("http://example.org/").status_code == 204
    assert asked == [b"example.org"]
