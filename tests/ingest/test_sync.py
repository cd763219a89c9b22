"""Sources to recordings, against a real web server."""

from __future__ import annotations

import io
import json
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile
from sync_loop import sync_source

from triforce.ingest import storage
from triforce.ingest.config import AudiobookSource, PodcastSource, SourcesConfig, YoutubeSource
from triforce.ingest.corpus.records import RejectReason, Status
from triforce.ingest.errors import Rejected
from triforce.ingest.sync import SyncSummary, discover, fetch


def podcast(site, feed: str, **options) -> PodcastSource:
    return PodcastSource(name="talk", feeds=[site.put("/feed.xml", feed, "application/rss+xml")], **options)


def test_podcast_is_fetched_once(site, corpus, settings, sound, make_feed):
    urls = [site.put(f"/e{n}.flac", sound(n), "audio/flac") for n in range(3)]
    extra = "<itunes:season>2</itunes:season><itunes:duration>0:01</itunes:duration><link>https://example.org/1</link>"
    feed = make_feed([{"guid": f"g{n}", "url": url, "extra": extra} for n, url in enumerate(urls)])
    source = podcast(site, feed, licence="CC-BY-4.0")

    summary = sync_source(source, settings, corpus)

    assert (summary.discovered, summary.fetched, sum(summary.rejected.values())) == (3, 3, 0)
    rows = {row.url: row for row in corpus.recordings("talk")}
    for n, url in enumerate(urls):
        row = rows[url]
        assert row.status == Status.FETCHED
        assert storage.read_bytes(storage.join(corpus.uri, row.media_path)) == sound(n)
        assert row.media_path.endswith(".flac")
        assert row.sha256 == storage.sha256_of(storage.join(corpus.uri, row.media_path))
        assert (row.collection, row.licence, row.language, row.duration_s) == ("A Talk", "CC-BY-4.0", "en", 1.0)
        assert row.metadata["season"] == "2"
        assert row.metadata["decoded_duration_s"] == "1.000"
        assert row.tool_versions["av"]
    assert "tests@example.org" in site.requests[0][1]["User-Agent"]

    site.forget()
    again = sync_source(source, settings, corpus)
    assert again.discovered == 0
    assert dict(site.hits) == {"/feed.xml": 1}
    assert site.requests[0][1]["If-None-Match"]


def test_new_episodes_are_found_and_pending_ones_survive_a_304(site, corpus, settings, sound, make_feed):
    urls = [site.put(f"/e{n}.flac", sound(n)) for n in range(4)]
    source = podcast(site, make_feed([(f"g{n}", url) for n, url in enumerate(urls[:3])]), max_new=2)
    first = list(discover(source, settings, corpus))
    assert [item.url for item in first] == urls[:2]
    fetch(first[0], source, settings, corpus)
    # The feed is unchanged, yet what was discovered and not fetched is still to do.
    assert [item.url for item in discover(source, settings, corpus)] == urls[1:3]
    site.put("/feed.xml", make_feed([("g3", urls[3]), *((f"g{n}", url) for n, url in enumerate(urls[:3]))]))
    sync_source(source.model_copy(update={"max_new": None}), settings, corpus)
    assert {row.url for row in corpus.recordings()} == set(urls)


def test_transient_failures_are_tried_again_and_others_are_not(site, corpus, settings, sound, make_feed):
    lost = site.put(
        "/lost.flac", sound(1), script=lambda handler, before: before < 3 and (handler.answer(503, b""), True)[1]
    )
    source = podcast(
        site, make_feed([("a", lost), ("b", site.base_url + "/absent.flac"), ("c", site.put("/t.mp3", "<html>"))])
    )
    summary = sync_source(source, settings, corpus)
    assert summary.rejected == {RejectReason.NETWORK: 1, RejectReason.NOT_FOUND: 1, RejectReason.NOT_AUDIO: 1}
    assert summary.failure(settings).startswith("talk: 100% rejected")
    assert site.hits["/lost.flac"] == settings.tries
    again = sync_source(source, settings, corpus)
    assert (again.discovered, again.fetched) == (1, 1)
    assert site.hits["/absent.flac"] == 1


def test_a_lost_state_costs_requests_but_nothing_twice(site, corpus, settings, sound, make_feed):
    source = podcast(
        site, make_feed([("a", site.put("/a.flac", sound(1))), ("b", site.put("/b.flac", "", status=500))])
    )
    sync_source(source, settings, corpus)
    storage.remove(storage.join(corpus.uri, "state"), recursive=True)
    site.forget()
    assert [item.url for item in discover(source, settings, corpus)] == [site.base_url + "/b.flac"]
    assert site.hits["/a.flac"] == 0


def test_audiobooks_come_page_by_page(site, corpus, settings, sound):
    def book(number: int) -> dict:
        url = site.put(f"/book{number}_64kb.mp3", sound(number, 1.0, "MP3"), "audio/mpeg")
        return {
            "id": str(number), "title": f"Book {number}", "language": "English", "url_librivox": "https://example.org/b",
            "authors": [{"first_name": "Jane", "last_name": "Austen"}],
            "sections": [{"id": "9", "section_number": "1", "title": "Chapter 1", "listen_url": url, "playtime": "1",
                          "language": "English", "readers": [{"reader_id": "7", "display_name": "A Reader"}]}],
        }  # fmt: skip

    source = AudiobookSource(name="books", base_url=site.base_url + "/api", page_size=2, author="Austen")
    pages = [[book(0), book(1)], [book(2), book(3) | {"title": "half a pair: \ud800"}]]  # behind a full page: 404
    for number, books in enumerate(pages):
        path = f"/api?format=json&extended=1&limit=2&offset={number * 2}&author=%5EAusten"
        site.put(path, json.dumps({"books": books}), "application/json")
    summary = sync_source(source, settings, corpus)
    assert (summary.fetched, summary.problems) == (4, [])
    assert sorted(row.collection for row in corpus.recordings())[-1] == "half a pair: ?"
    row = next(row for row in corpus.recordings() if row.collection == "Book 2")
    assert (row.author, row.licence, row.language, row.duration_s) == ("A Reader", "public domain", "en", 1.0)
    assert row.metadata["book_author"] == "Jane Austen"
    assert row.media_path.endswith(".mp3")
    site.forget()
    assert sync_source(source, settings, corpus).discovered == 0
    assert len(site.requests) == 3


def test_a_page_with_a_player_is_read_by_yt_dlp(site, corpus, settings, webm):
    site.put("/v.webm", webm, "video/webm")
    player = '<video><source src="/v.webm" type="video/webm"></video>'
    page = f"<html><head><title>Lecture</title></head><body>{player}</body></html>"
    url = site.put("/watch/1", page, "text/html")
    source = YoutubeSource(name="lectures", urls=[url], sleep_s=0, licence="CC0")
    summary = sync_source(source, settings, corpus)
    assert (summary.fetched, summary.problems) == (1, [])
    [row] = corpus.recordings()
    assert (row.title, row.licence, row.metadata["codec"]) == ("Lecture", "CC0", "opus")
    assert row.media_path.endswith(".webm")
    assert storage.read_bytes(storage.join(corpus.uri, row.media_path)) == webm
    assert sync_source(source, settings, corpus).discovered == 0


@pytest.mark.parametrize("kind", ["podcast", "youtube"])
def test_private_addresses_are_refused_unless_allowed(site, corpus, settings, kind, make_feed):
    strict = settings.model_copy(update={"allow_private_hosts": False})
    url = site.put("/feed.xml", make_feed([]))
    source = (
        PodcastSource(name="x", feeds=[url]) if kind == "podcast" else YoutubeSource(name="x", urls=[url], sleep_s=0)
    )
    with pytest.raises(Rejected) as caught:
        list(discover(source, strict, corpus))
    assert caught.value.reason == RejectReason.PRIVATE_ADDRESS
    assert site.requests == []


def test_everything_crosses_process_borders(site, settings, make_feed, corpus):
    config = SourcesConfig(
        contact="a@b.org", sources=[{"name": "x", "kind": "podcast", "feeds": ["https://example.org/f"]}]
    )
    source = podcast(site, make_feed([("a", site.base_url + "/a")]))
    items = list(discover(source, settings, corpus))
    for thing in (config, config.settings, source, items, corpus, Rejected(RejectReason.NETWORK, "x"), fetch, discover):
        copy = pickle.loads(pickle.dumps(thing))
        assert copy == thing or str(copy) == str(thing)


def test_a_transcript_is_stored_beside(site, corpus, settings, sound, make_feed):
    def item(name: str, seed: int, transcript: str) -> dict:
        extra = f'<podcast:transcript url="{transcript}" type="text/vtt"/>'
        return {"guid": name, "url": site.put(f"/{name}.flac", sound(seed)), "extra": extra}

    good = site.put("/a.vtt", "WEBVTT\n\nhello")
    source = podcast(site, make_feed([item("a", 1, good), item("b", 2, site.base_url + "/absent.vtt")]))
    assert sync_source(source, settings, corpus).fetched == 2
    rows = {row.title: row for row in corpus.recordings()}
    path = rows["Episode a"].metadata["transcript_path"]
    assert path.endswith(f"{rows['Episode a'].recording_id}.transcript.vtt")
    assert storage.read_bytes(storage.join(corpus.uri, path)) == b"WEBVTT\n\nhello"
    assert rows["Episode b"].metadata["transcript_fault"].startswith("not_found")


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"guid": "b", "path": "/a.flac?utm_source=feed"}, RejectReason.DUPLICATE_URL),
        ({"guid": "b", "path": "/a.flac?session=9"}, RejectReason.DUPLICATE_BYTES),
        ({"guid": "b", "path": "/copy.flac"}, RejectReason.DUPLICATE_BYTES),
        ({"guid": "b", "path": "/other.wav"}, RejectReason.DUPLICATE_AUDIO),
        ({"guid": "https://example.org/one-and-only", "path": "/new.flac"}, RejectReason.DUPLICATE_ID),
    ],
)
def test_duplicates_are_recorded_with_what_they_duplicate(site, corpus, settings, make_feed, sound, second, reason):
    flac = sound(1)
    samples, rate = soundfile.read(io.BytesIO(flac), dtype="int16")
    wav = io.BytesIO()
    soundfile.write(wav, samples, rate, format="WAV", subtype="PCM_16")
    for path, body in (
        ("/a.flac", flac),
        ("/copy.flac", flac),
        ("/other.wav", wav.getvalue()),
        ("/new.flac", sound(2)),
    ):
        site.put(path, body)
    first = "https://example.org/one-and-only" if reason == RejectReason.DUPLICATE_ID else "a"
    one = PodcastSource(name="one", feeds=[site.put("/1", make_feed([(first, site.base_url + "/a.flac")]))])
    two = PodcastSource(
        name="two", feeds=[site.put("/2", make_feed([(second["guid"], site.base_url + second["path"])]))]
    )
    sync_source(one, settings, corpus)
    assert sync_source(two, settings, corpus).duplicates == 1
    [original], [copy] = corpus.recordings("one"), corpus.recordings("two")
    assert (copy.status, copy.reason) == (Status.DUPLICATE, reason)
    assert copy.metadata["duplicate_of"] == f"one/{original.recording_id}"
    assert copy.media_path is None
    assert sync_source(two, settings, corpus).discovered == 0


def test_what_killed_runs_left_behind_is_swept(site, corpus, settings, sound, make_feed):
    source = podcast(site, make_feed([("a", site.put("/a.flac", sound(1)))]))
    left = {}
    for folder in ("recordings/source=talk", "clips/source=talk", "state/partial"):
        for name, days in ((".tmp-0-old.mp3", 2), (".tmp-0-new.mp3", 0), ("given-up", 40), ("waiting", 20)):
            path = left[folder, name] = Path(corpus.uri) / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
            os.utime(path, (time.time() - days * 86_400,) * 2)
    sync_source(source, settings, corpus)
    gone = {key for key, path in left.items() if not path.exists()}
    temporary = {(folder, ".tmp-0-old.mp3") for folder in ("recordings/source=talk", "clips/source=talk")}
    assert gone == temporary | {("state/partial", "given-up")}
    left["recordings/source=talk", ".tmp-0-old.mp3"].write_bytes(b"x")
    os.utime(left["recordings/source=talk", ".tmp-0-old.mp3"], (1, 1))
    sync_source(source, settings, corpus)
    assert left["recordings/source=talk", ".tmp-0-old.mp3"].exists(), "once a day is enough"


def test_of_equal_recordings_fetched_at_once_one_is_kept(site, corpus, settings, sound, make_feed):
    items = [(f"g{n}", site.put(f"/{n}.flac", sound(7))) for n in range(8)]
    source = podcast(site, make_feed(items))
    found = list(discover(source, settings, corpus))
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda item: fetch(item, source, settings, corpus), found + found[:2]))
    assert sum(row.status == Status.FETCHED for row in {row.recording_id: row for row in rows}.values()) == 1
    assert sum(site.hits[f"/{n}.flac"] for n in range(8)) <= 8


def test_a_source_that_blocks_is_left_alone(site, corpus, settings, make_feed):
    urls = [site.put(f"/{n}.mp3", b"", script=lambda handler, _: (handler.answer(429, b""), True)[1]) for n in range(9)]
    source = podcast(site, make_feed([(f"g{n}", url) for n, url in enumerate(urls)]))
    summary = sync_source(source, settings, corpus)
    assert summary.blocked
    assert summary.rejected == {RejectReason.BLOCKED: settings.max_blocks}
    # The next run begins with those that were not asked for yet.
    assert next(iter(discover(source, settings, corpus))).url == urls[3]


def test_requests_to_a_host_keep_their_pace(site, corpus, settings, sound, make_feed):
    source = podcast(site, make_feed([(f"g{n}", site.put(f"/{n}.flac", sound(n))) for n in range(3)]))
    paced = settings.model_copy(update={"requests_per_s": 5.0})
    begin_s = time.monotonic()
    sync_source(source, paced, corpus)
    assert time.monotonic() - begin_s >= 3 / 5.0


def test_what_the_settings_leave_out_is_no_failure(settings):
    summary = SyncSummary("talk", discovered=10, fetched=2)
    summary.rejected.update({"filtered": 5, "too_short": 2})
    assert summary.failure(settings) is None
    summary.rejected["not_found"] = 20
    assert "(20 not_found)" in summary.failure(settings)
