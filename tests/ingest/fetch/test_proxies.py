"""Proxies of the environment, for our client and for yt-dlp."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from loopback_site import serving

from triforce.ingest.config import YoutubeSource
from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.download import download
from triforce.ingest.fetch.proxies import proxy_for
from triforce.ingest.fetch.web import get_document
from triforce.ingest.sync import discover

BODY = bytes(range(256)) * 100


@pytest.fixture
def proxy(monkeypatch):
    """A proxy on loopback that answers in the name of any host, and the only way out for http and https."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving() as site:
        site.pages["http://podcast.invalid/a"] = site.pages[site.put("/a", BODY).replace(site.base_url, "")]
        monkeypatch.setenv("HTTP_PROXY", site.base_url)
        monkeypatch.setenv("HTTPS_PROXY", site.base_url.replace("http://", "http://user:secret@"))
        yield site


@pytest.fixture
def strict(settings):
    """As on the open web: the proxy itself may be on a private network all the same."""
    return settings.model_copy(update={"allow_private_hosts": False, "tries": 1})


def test_documents_and_media_come_through_the_proxy(proxy, strict, tmp_path):
    assert get_document("http://podcast.invalid/a", strict).body == BODY
    assert download("http://podcast.invalid/a", tmp_path / "a", strict).num_bytes == len(BODY)
    assert proxy.hits == {"http://podcast.invalid/a": 2}


def test_https_asks_the_proxy_for_a_tunnel(proxy, strict):
    asked = []

    def refuse(handler) -> None:
        asked.append((handler.path, handler.headers.get("Proxy-Authorization")))
        handler.answer(502, b"")

    proxy.server.RequestHandlerClass.do_CONNECT = refuse
    with pytest.raises(Rejected) as caught:
        get_document("https://podcast.invalid/a", strict)
    assert caught.value.reason is RejectReason.NETWORK
    assert asked == [("podcast.invalid:443", "Basic dXNlcjpzZWNyZXQ=")]


def test_yt_dlp_goes_through_the_proxy(proxy, strict, corpus):
    player = '<html><head><title>T</title></head><video><source src="/v.webm" type="video/webm"></video></html>'
    proxy.put("http://video.invalid/watch/1", player, "text/html")
    source = YoutubeSource(
        name="v", urls=["http://video.invalid/watch/1"], sleep_s=0, extractors=["generic", "html5.*"]
    )
    [found] = discover(source, strict, corpus)
    assert (found.title, found.url) == ("T", "http://video.invalid/watch/1")


@pytest.mark.parametrize("url", ["http://10.1.2.3/", "http://[fe80::1]/", "http://169.254.169.254/latest/"])
def test_a_proxy_is_no_way_around_the_check_of_addresses(proxy, strict, corpus, url):
    with pytest.raises(Rejected) as caught:
        get_document(url, strict)
    assert caught.value.reason is RejectReason.PRIVATE_ADDRESS
    source = YoutubeSource(name="v", urls=[url], sleep_s=0, extractors=["generic"])
    with pytest.raises(Rejected) as caught:
        list(discover(source, strict, corpus))
    assert caught.value.reason is RejectReason.PRIVATE_ADDRESS
    assert not proxy.hits


def test_which_proxy_an_address_is_asked_through(monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", "proxy:3128")
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert proxy_for("https://a.net/x") == "http://proxy:3128"
    assert [proxy_for(url) for url in ("http://example.org/", "http://127.0.0.1:80/", "http://localhost/")] == [
        None
    ] * 3
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy:1080")
    assert proxy_for("https://a.net/x") is None


ASK = """
import httpx, os
from triforce.flows.jobs import environment
environment.prepare()
print(httpx.get(os.environ["ASKED"], timeout=5).text, os.environ["NO_PROXY"])
"""


@pytest.mark.parametrize("given", [None, "example.org"])
def test_local_servers_are_asked_directly(given, tmp_path):
    """As Prefect's client asks Prefect's server, after `prepare`; the proxy is one that nobody answers at."""
    own = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    own |= {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"} | (
        {"NO_PROXY": given} if given else {}
    )
    with serving() as site:
        own["ASKED"] = site.put("/api", b"direct")
        done = subprocess.run([sys.executable, "-c", ASK], env=own, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["direct", ",".join(filter(None, [given, "localhost,127.0.0.1,::1"]))]
