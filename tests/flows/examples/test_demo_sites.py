"""The three sites as a visitor's programs read them, and the server under them."""

from __future__ import annotations

import json
from pathlib import Path

import av
import feedparser
import httpx
import pytest
import yt_dlp

from triforce.flows.examples.demo.serve_sites import serve
from triforce.flows.examples.demo.sites import PAUSE_S, lay_out_sites
from triforce.ingest.media.decode import probe_duration_s


@pytest.fixture(scope="module")
def base_url(sites):
    with serve(sites) as url:
        yield url


def test_the_same_speech_gives_the_same_bytes(sites, speech, tmp_path):
    lay_out_sites(speech, tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (sites / path.relative_to(tmp_path)).read_bytes(), path.name


def test_laying_out_again_touches_nothing(sites, speech):
    before = {path: path.stat().st_mtime_ns for path in sites.rglob("*")}
    programmes = lay_out_sites(speech, sites)
    assert before == {path: path.stat().st_mtime_ns for path in sites.rglob("*")}
    assert set(programmes) == {"podcast", "library", "videos"}


def test_everything_spoken_is_published_once_and_held_out_never(sites, speech):
    index = json.loads((sites / "sites.json").read_text())["programmes"]
    published_s = sum(row["duration_s"] for rows in index.values() for row in rows)
    spoken_s = speech.training_s
    assert spoken_s + 4 * PAUSE_S[0] <= published_s <= spoken_s + 4 * PAUSE_S[1] + 0.1


def test_the_feed_reads_as_a_podcast(base_url):
    feed = feedparser.parse(f"{base_url}/podcast/feed.xml")
    assert not feed.bozo
    assert len({entry.id for entry in feed.entries}) == len(feed.entries) >= 1
    for entry in feed.entries:
        enclosure = entry.enclosures[0]
        response = httpx.get(enclosure.href)
        assert enclosure.type == response.headers["content-type"] == "audio/mpeg"
        assert int(enclosure.length) == len(response.content)
        assert base_url not in entry.id  # an id outlives a change of port


def test_the_library_answers_as_librivox_does(base_url):
    api = f"{base_url}/library/api/feed/audiobooks"
    [book] = httpx.get(api, params={"format": "json", "extended": "1", "limit": 50, "offset": 0}).json()["books"]
    assert len(book["sections"]) == int(book["num_sections"])
    assert all(httpx.head(section["listen_url"]).status_code == 200 for section in book["sections"])
    assert "sections" not in httpx.get(api, params={"format": "json"}).json()["books"][0]
    beyond = httpx.get(f"{api}/", params={"format": "json", "offset": 1})
    assert beyond.status_code == 404
    assert "error" in beyond.json()


def test_yt_dlp_resolves_a_video_page(base_url, sites, tmp_path):
    options = {"quiet": True, "no_warnings": True, "proxy": "", "outtmpl": f"{tmp_path}/%(id)s.%(ext)s"}
    with yt_dlp.YoutubeDL(options) as ydl:
        info = ydl.extract_info(f"{base_url}/videos/talk-01.html")
    path = Path(info["requested_downloads"][0]["filepath"])
    assert path.read_bytes() == (sites / "videos/talk-01.webm").read_bytes()
    assert info["title"] == "Talks at the Exchange, talk 1"
    assert info["duration"] == pytest.approx(probe_duration_s(path), abs=1)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name in ("opus", "libopus")


def test_ranges_and_unchanged_answers(base_url, sites):
    whole = (sites / "podcast/episode-01.mp3").read_bytes()
    part = httpx.get(f"{base_url}/podcast/episode-01.mp3", headers={"Range": "bytes=1000-"})
    assert (part.status_code, part.content) == (206, whole[1000:])
    first = httpx.get(f"{base_url}/podcast/feed.xml")
    again = httpx.get(f"{base_url}/podcast/feed.xml", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_port_stays_unless_it_is_taken(sites, tmp_path):
    (tmp_path / "page.html.in").write_text("<a href='@BASE_URL@/x'>x</a>")
    with serve(tmp_path) as first:
        assert httpx.get(f"{first}/page.html").text == f"<a href='{first}/x'>x</a>"
        written = (tmp_path / "page.html").stat().st_mtime_ns
    with serve(tmp_path) as second:
        assert second == first
        assert (tmp_path / "page.html").stat().st_mtime_ns == written
        with serve(tmp_path) as third:
            assert third != first
            assert third in httpx.get(f"{third}/page.html").text
