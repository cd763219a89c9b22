"""What is rejected, for how long, and how it is taken up again; what makes two addresses one recording."""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import replace

import pytest
from sync_loop import sync_source

from triforce.ingest import storage
from triforce.ingest.config import AudiobookSource, PodcastSource
from triforce.ingest.corpus.records import RejectReason, Status
from triforce.ingest.corpus.retry import rejected, take_up
from triforce.ingest.listing import next_try
from triforce.ingest.local_files import ImportConfig, import_folder
from triforce.ingest.sync import discover

HOUR = datetime.timedelta(hours=1)


def podcast(site, feed: str, **options) -> PodcastSource:
    return PodcastSource(name="talk", feeds=[site.put("/feed.xml", feed, "application/rss+xml")], **options)


@pytest.mark.parametrize("with_guids", [True, False])
def test_addresses_that_differ_in_their_query_are_recordings_of_their_own(
    site, corpus, settings, sound, make_feed, with_guids
):
    urls = [site.put(f"/media.mp3?id={n}", sound(n, format="MP3")) for n in (1, 2, 3)]
    feed = make_feed([(f"g{n}", url) for n, url in enumerate(urls)])
    if not with_guids:
        for n in range(3):
            feed = feed.replace(f"<guid>g{n}</guid>", "")
    summary = sync_source(podcast(site, feed), settings, corpus)
    assert (summary.fetched, summary.duplicates) == (3, 0)
    assert {row.url for row in corpus.recordings()} == set(urls)


def test_one_address_that_serves_another_sound_each_day_gives_each(site, corpus, settings, sound, make_feed):
    latest = site.put("/latest.mp3", sound(1, format="MP3"))
    assert sync_source(podcast(site, make_feed([("monday", latest)])), settings, corpus).fetched == 1
    both = podcast(site, make_feed([("again", latest), ("monday", latest)]))
    site.forget()
    assert sync_source(both, settings, corpus).duplicates == 1
    assert site.requests[-1][1]["If-None-Match"], "the server is asked whether it has changed"
    site.put("/latest.mp3", sound(2, format="MP3"))
    assert (
        sync_source(podcast(site, make_feed([("tuesday", latest), ("monday", latest)])), settings, corpus).fetched == 1
    )
    reasons = {row.title: row.reason for row in corpus.recordings()}
    assert reasons == {"Episode monday": None, "Episode again": RejectReason.DUPLICATE_URL, "Episode tuesday": None}


def test_without_validators_the_bytes_decide(site, corpus, settings, sound, make_feed):
    url = site.put("/a.mp3", sound(1, format="MP3"), etag=False)
    summary = sync_source(podcast(site, make_feed([("a", url), ("b", url)])), settings, corpus)
    assert (summary.fetched, summary.duplicates) == (1, 1)
    assert {row.reason for row in corpus.recordings()} == {None, RejectReason.DUPLICATE_BYTES}


@pytest.mark.parametrize("declared", ["45:12:00", "600000", "99:99:99"])
def test_a_length_that_is_only_declared_rejects_nothing(site, corpus, settings, sound, make_feed, declared):
    """As mm:ss:00, or in milliseconds."""
    url = site.put("/a.flac", sound(1, 10.0))
    extra = f"<itunes:duration>{declared}</itunes:duration>"
    summary = sync_source(podcast(site, make_feed([{"guid": "a", "url": url, "extra": extra}])), settings, corpus)
    assert summary.fetched == 1
    [row] = corpus.recordings()
    assert row.metadata["decoded_duration_s"] == "10.000"


def test_the_decoded_length_counts(site, corpus, settings, sound, make_feed):
    url = site.put("/a.flac", sound(1, 10.0))
    source = podcast(site, make_feed([{"guid": "a", "url": url, "extra": "<itunes:duration>5</itunes:duration>"}]))
    assert sync_source(source.model_copy(update={"max_duration_s": 8.0}), settings, corpus).rejected == {"too_long": 1}


def test_a_failure_that_does_not_pass_is_tried_over_days_and_then_settled(site, corpus, settings, make_feed):
    source = podcast(site, make_feed([("a", site.put("/a.flac", "", status=418))]))
    some = settings.model_copy(update={"max_runs": 4, "retry_wait_s": 7200.0})
    for runs in (1, 2):
        assert sync_source(source, some, corpus).rejected == {RejectReason.UNKNOWN: 1}
        [row] = corpus.recordings()
        assert (row.metadata["runs"], row.is_settled) == (str(runs), False)
    assert sync_source(source, some, corpus).discovered == 0, "the third try waits for two hours"
    at_once = some.model_copy(update={"retry_wait_s": 0.0})
    for _ in range(2):
        assert sync_source(source, at_once, corpus).discovered == 1
    [row] = corpus.recordings()
    assert row.is_settled
    assert row.detail.endswith("the server answers 418 I'm a Teapot; given up after 4 runs")
    assert sync_source(source, at_once, corpus).discovered == 0
    assert site.hits["/a.flac"] == 4


def test_tries_are_spread_over_days(settings, corpus, site, make_feed):
    [item] = discover(podcast(site, make_feed([("a", site.base_url + "/a")])), settings, corpus)
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    rows = [replace(item, fetched_at=begin.isoformat(), metadata={"runs": str(runs)}) for runs in range(1, 10)]
    waits = [(next_try(row, settings) - begin) / HOUR for row in rows]
    assert waits[0] < 0
    assert waits[1:] == [1, 2, 4, 8, 16, 24, 24, 24]


def test_what_waits_is_not_forgotten_while_it_waits(site, corpus, settings, sound, make_feed):
    """A run in which it is not due writes the list of what waits again."""
    urls = [site.put("/a.flac", sound(1), status=503), site.put("/b.flac", sound(2))]
    source = podcast(site, make_feed([("a", urls[0])]))
    for _ in range(2):
        sync_source(source, settings, corpus)
    assert sync_source(podcast(site, make_feed([("a", urls[0]), ("b", urls[1])])), settings, corpus).fetched == 1
    site.put("/a.flac", sound(1))
    assert sync_source(source, settings.model_copy(update={"retry_wait_s": 0.0}), corpus).fetched == 1


def test_a_checksum_may_be_of_a_file_that_is_still_being_sent(site, corpus, settings, sound):
    whole = sound(1)
    file = {"name": "a.flac", "format": "Flac", "sha1": hashlib.sha1(whole).hexdigest()}
    site.put("/metadata/x", json.dumps({"files": [file]}))
    site.put("/download/x/a.flac", sound(2))
    source = AudiobookSource(name="talk", library="archive.org", base_url=site.base_url, items=["x"])
    assert sync_source(source, settings, corpus).rejected == {RejectReason.BAD_CHECKSUM: 1}
    site.put("/download/x/a.flac", whole)
    assert sync_source(source, settings, corpus).fetched == 1


@pytest.fixture
def rejections(site, corpus, settings, sound, make_feed):
    """A source with a recording that is too long, one that is gone, one that is fetched, and a duplicate."""
    items = [
        ("long", site.put("/long.flac", sound(1, 5.0))),
        ("gone", site.base_url + "/gone.flac"),
        ("good", site.put("/good.flac", sound(2))),
        ("copy", site.put("/copy.flac", sound(2))),
    ]
    source = podcast(site, make_feed(items), max_duration_s=3.0)
    summary = sync_source(source, settings, corpus)
    assert summary.rejected == {"too_long": 1, "not_found": 1}
    assert (summary.fetched, summary.duplicates) == (1, 1)
    return source


def titles(rows) -> set[str]:
    return {row.title.removeprefix("Episode ") for row in rows}


def test_rejections_are_chosen_by_reason_source_and_age(rejections, corpus):
    now = datetime.datetime.now(datetime.UTC)
    assert titles(rejected(corpus)) == {"long", "gone"}
    assert titles(rejected(corpus, reason="too_long")) == {"long"}
    assert titles(rejected(corpus, reason="duplicate_bytes")) == {"copy"}
    assert titles(rejected(corpus, source="talk", after=now - HOUR)) == {"long", "gone"}
    assert titles(rejected(corpus, before=now - HOUR)) == set()


@pytest.mark.parametrize("lost", [False, True])
def test_what_is_taken_up_is_fetched_by_the_next_run(site, corpus, settings, rejections, sound, lost):
    site.forget()
    assert sync_source(rejections, settings, corpus).discovered == 0
    if lost:
        storage.remove(storage.join(corpus.uri, "state"), recursive=True)
    assert take_up(corpus, rejected(corpus)) == 2
    site.put("/gone.flac", sound(3))
    summary = sync_source(rejections.model_copy(update={"max_duration_s": 60.0}), settings, corpus)
    assert (summary.discovered, summary.fetched) == (2, 2)
    assert not list(rejected(corpus))
    assert all(row.is_settled for row in corpus.recordings())
    assert site.hits["/good.flac"] == 0


def test_what_was_given_up_has_all_its_tries_again(site, corpus, settings, make_feed):
    source = podcast(site, make_feed([("a", site.put("/a.flac", "", status=503))]))
    once = settings.model_copy(update={"max_runs": 1})
    sync_source(source, once, corpus)
    assert sync_source(source, once, corpus).discovered == 0
    take_up(corpus, rejected(corpus))
    assert sync_source(source, settings, corpus).discovered == 1
    [row] = corpus.recordings()
    assert (row.metadata["runs"], row.is_settled) == ("1", False)


def test_a_file_that_was_refused_is_imported_again(corpus, sound, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    config = ImportConfig(modality="music", source="songs")
    assert import_folder(corpus, tmp_path, config)["rejected"] == 1
    (tmp_path / "a.wav").write_bytes(sound(1, format="WAV"))
    assert import_folder(corpus, tmp_path, config)["known"] == 1
    assert take_up(corpus, rejected(corpus)) == 1
    assert import_folder(corpus, tmp_path, config)["new"] == 1


def test_a_recording_rejected_when_it_was_cut_is_cut_again(rejections, corpus):
    [row] = [row for row in corpus.recordings() if row.status == Status.FETCHED]
    corpus.write_recording(replace(row, status=Status.REJECTED, reason="no_speech", detail="nobody speaks in it"))
    corpus.write_clips(row, [])
    assert take_up(corpus, rejected(corpus, reason="no_speech")) == 1
    assert corpus.read_recording("talk", row.recording_id) == row
    assert corpus.clipped_ids("talk") == set()
