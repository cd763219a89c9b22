"""Looking at a corpus, checking it, and takedowns."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sync_loop import sync_source
from typer.testing import CliRunner

from triforce.flows.cli.corpus import app
from triforce.ingest import storage
from triforce.ingest.config import PodcastSource
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, Clip, Media, Recording, RejectReason, make_clip_id
from triforce.ingest.corpus.stats import clips_of, find_recording, list_recordings, stats
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.takedown import remove
from triforce.ingest.corpus.verify import FaultKind, verify
from triforce.ingest.fetch.transcripts import Cue, parse_cues
from triforce.ingest.media.encode import encode_flac


def clip(recording: Recording, start: int, drop_reason: str | None = None) -> Clip:
    audio, end = Media(encode_flac(np.zeros(SAMPLE_RATE_HZ, np.int16))), start + SAMPLE_RATE_HZ
    return Clip.cut(
        recording, start, end, SAMPLE_RATE_HZ, audio=audio, text="hello", language="en", drop_reason=drop_reason
    )


@pytest.fixture
def filled(site, corpus, settings, sound, make_feed) -> tuple[Corpus, PodcastSource]:
    """Two fetched recordings with two clips each, by two authors; one absent; one with the bytes of another."""
    items = [
        {
            "guid": name,
            "url": site.put(f"/{name}.flac", sound(seed)),
            "extra": f"<itunes:author>{author}</itunes:author>",
        }
        for name, seed, author in (("a", 1, "Ann"), ("b", 2, "Bob"), ("same", 1, "Ann"))
    ]
    items.append({"guid": "c", "url": site.base_url + "/absent.mp3"})
    source = PodcastSource(name="talk", feeds=[site.put("/feed", make_feed(items))], licence="CC0")
    sync_source(source, settings, corpus)
    for row in list_recordings(corpus, status="fetched"):
        corpus.write_clips(row, [clip(row, 0), clip(row, SAMPLE_RATE_HZ, "noisy")])
    return corpus, source


def by_title(corpus: Corpus) -> dict:
    return {row.title: row for row in corpus.recordings()}


def test_ls_and_stats_count_what_is_there(filled):
    corpus, _ = filled
    assert sorted(row.status for row in list_recordings(corpus)) == ["duplicate", "fetched", "fetched", "rejected"]
    assert [row.title for row in list_recordings(corpus, author="bob")] == ["Episode b"]
    assert list(list_recordings(corpus)) == list(corpus.recordings())
    total = stats(corpus)["total"]
    assert total.recordings == {"fetched": 2, "duplicate": 1, "rejected": 1}
    assert total.reasons == {"duplicate_bytes": 1, "not_found": 1}
    assert (total.num_clips, total.num_kept, total.kept_s, total.recorded_s) == (4, 2, 2.0, 2.0)
    assert (total.drops, total.languages, total.licences) == ({"noisy": 2}, {"en": 2}, {"CC0": 2})


def test_a_clip_says_where_it_came_from(filled):
    corpus, _ = filled
    row = by_title(corpus)["Episode a"]
    found = find_recording(corpus, make_clip_id(row.recording_id, 0))
    assert found == row == find_recording(corpus, row.recording_id[:12])
    assert clips_of(corpus, found)["url"].to_pylist() == [row.url] * 2
    with pytest.raises(ValueError, match="in no recording"):
        find_recording(corpus, "xyz")


def test_a_takedown_removes_all_and_keeps_it_out(filled, site, settings, make_feed, sound, tmp_path):
    corpus, source = filled
    row = by_title(corpus)["Episode a"]
    tokens = tmp_path / "tokens"
    plan = pa.table({"shard": [0, 1, 1], "recording_id": ["other", row.recording_id, "other"]})
    (tokens / "plan").mkdir(parents=True)
    pq.write_table(plan, tokens / "plan" / "part-000000.parquet")

    chosen = list(list_recordings(corpus, author="Ann"))
    assert remove(corpus, chosen, dry_run=True).num_clips == 2
    assert verify(corpus) == []
    result = remove(corpus, chosen, tokens=str(tokens))

    assert sorted(item.title for item in result.recordings) == ["Episode a", "Episode same"]
    assert result.num_clips == 2
    assert result.stale_shards == ["shard-000001"]
    assert json.loads((tokens / "shard-000001.stale").read_text()) == [row.recording_id]
    assert not storage.exists(storage.join(corpus.uri, row.media_path))
    assert clips_of(corpus, row) is None
    everything = b"".join(p.read_bytes() for p in (tmp_path / "corpus").rglob("*") if p.is_file())
    assert b"Episode a" not in everything
    assert b"Ann" not in everything
    assert verify(corpus) == []

    site.put("/again.flac", sound(1))
    site.put("/feed", make_feed([("a", site.base_url + "/a.flac"), ("new", site.base_url + "/again.flac")]))
    summary = sync_source(source, settings, corpus)
    assert summary.rejected == {RejectReason.FORBIDDEN: 1}
    assert summary.fetched == 0


def test_what_is_forgotten_may_come_again(filled, settings):
    corpus, source = filled
    row = by_title(corpus)["Episode b"]
    remove(corpus, [row], forget=True)
    assert row.recording_id not in corpus.recording_ids("talk")
    assert sync_source(source, settings, corpus).fetched == 1, "the feed has not changed, and is read all the same"
    assert row.recording_id in corpus.recording_ids("talk")


def test_verify_names_each_fault_and_repairs_it(filled, settings, tmp_path):
    corpus, source = filled
    rows = by_title(corpus)
    a, b = rows["Episode a"], rows["Episode b"]
    folder = tmp_path / "corpus"
    (folder / a.media_path).unlink()
    data = bytearray((folder / b.media_path).read_bytes())
    data[-1] ^= 1
    (folder / b.media_path).write_bytes(data)
    (folder / "recordings/source=talk/feedfeedfeedfeed.mp3").write_bytes(b"x")
    (folder / "clips/source=talk/feedfeedfeedfeed.parquet").write_bytes(b"x")
    (folder / "recordings/source=talk/badbadbadbadbadb.parquet").write_bytes(b"PAR1")
    corpus.write_clips(b, [replace(clip(b, 0), end_sample=7)])
    kinds = sorted(fault.kind for fault in verify(corpus))
    assert kinds == sorted(
        [
            FaultKind.MISSING_MEDIA,
            FaultKind.WRONG_BYTES,
            FaultKind.STRAY_MEDIA,
            FaultKind.STRAY_CLIPS,
            FaultKind.UNREADABLE_ROW,
            FaultKind.BAD_CLIP,
        ]
    )
    assert len(verify(corpus, repair=True)) == 6
    assert verify(corpus) == []
    assert sync_source(source, settings, corpus).fetched == 2
    assert by_title(corpus)["Episode b"].sha256 == b.sha256


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("1\r\n00:00:01,500 --> 00:00:02,250\r\nhello\r\nthere\r\n\r\n", "srt"),
        ("WEBVTT - title\n\nNOTE nothing\n\nid\n01.500 --> 02.250\n\n00:01.500 --> 00:02.25\nhello there", "vtt"),
        ("00:01.5 --> 00:02.25\nhello there", "vtt"),  # these three are what feeds carry and webvtt-py refuses
        ("00:00:01.500 --> 00:00:02.250\nhello there", "srt"),
        ("1\n00:01,500 --> 00:02,250\nhello there", "srt"),
        ('{"segments": [{"startTime": 1.5, "endTime": 2.25, "body": "hello there"}]}', "json"),
    ],
)
def test_published_transcripts_are_read(text, ending):
    assert parse_cues(text, ending) == [Cue(1.5, 2.25, "hello there")]


@pytest.mark.parametrize("text", ["", "hello", "[" * 10_000, '{"segments": [{"startTime": "x"}]}', "00:00 --> 00:01"])
@pytest.mark.parametrize("ending", ["vtt", "srt", "json", "html"])
def test_what_is_no_transcript_has_no_cues(text, ending):
    assert parse_cues(text, ending) == []


def test_lost_claims_are_restored(filled, site, settings, make_feed, sound):
    corpus, source = filled
    storage.remove(storage.join(corpus.uri, "state"), recursive=True)
    verify(corpus, repair=True)
    site.put("/other.flac", sound(2))
    site.put("/feed", make_feed([("d", site.base_url + "/other.flac")]))
    assert sync_source(source, settings, corpus).duplicates == 1


def test_the_command_line(filled):
    corpus, _ = filled
    runner = CliRunner()

    def run(*arguments: str, code: int = 0) -> str:
        result = runner.invoke(app, list(arguments))
        assert result.exit_code == code, result.output
        return result.output

    assert len(run("ls", corpus.uri).splitlines()) == 4
    assert json.loads(run("ls", corpus.uri, "--author", "Bob", "--json"))["title"] == "Episode b"
    identifier = by_title(corpus)["Episode b"].recording_id
    assert "noisy" in run("show", corpus.uri, identifier)
    assert json.loads(run("show", corpus.uri, f"{identifier}-0000000000", "--json"))["clips"][0]["text"] == "hello"
    cues = ("00:00.000 --> 00:00.900 align:left\n<v Bob>good &amp; <b>bold</b>", "00:01.100 --> 00:01.900\nnoise")
    said = "\n\n".join(("WEBVTT", *cues))
    path = f"recordings/source=talk/{identifier}.transcript.vtt"
    storage.write_bytes(storage.join(corpus.uri, path), said.encode())
    row = by_title(corpus)["Episode b"]
    corpus.write_recording(replace(row, title="Bob\x1b[31m\nb", metadata=row.metadata | {"transcript_path": path}))
    shown = run("show", corpus.uri, identifier)
    assert "published: good & bold" in shown
    assert shown.index("good & bold") < shown.index("noisy") < shown.index("published: noise")
    assert "\x1b" not in shown
    assert "title          Bob\ufffd[31m\ufffdb" in shown
    assert "duplicate_bytes 1" in run("stats", corpus.uri)
    assert json.loads(run("stats", corpus.uri, "--json"))["total"]["num_clips"] == 4
    assert run("verify", corpus.uri).startswith("0 faults")
    assert "1 recordings, 2 clips" in run("rm", corpus.uri, "--recording", identifier, "--yes")
    assert "removed" in run("ls", corpus.uri, "--reason", "forbidden")
    for wrong in (
        ["ls", "--status", "fetchd"],
        ["ls", "--reason", "x"],
        ["ls", "--source", "x"],
        ["rm", "--source", "x"],
    ):
        fault = runner.invoke(app, [wrong[0], corpus.uri, *wrong[1:]]).exception
        assert isinstance(fault, ValueError)
        assert "use one of: " in str(fault)
    assert isinstance(runner.invoke(app, ["rm", corpus.uri]).exception, ValueError)
    assert isinstance(runner.invoke(app, ["ls", corpus.uri + "-none"]).exception, ValueError)
