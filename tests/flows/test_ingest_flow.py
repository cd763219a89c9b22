"""What the flow ``ingest`` decides before and after its tasks; the tasks themselves run in test_prefect.py."""

from __future__ import annotations

import errno
from collections import Counter
from types import SimpleNamespace

import pytest
import yaml

from triforce.flows import ingest as flow
from triforce.flows.jobs.clipping import unclipped
from triforce.flows.jobs.source_choice import choose_sources, kinds_of
from triforce.flows.monitor.ingest_summary import SourceSummary, as_text
from triforce.ingest import storage
from triforce.ingest.clips.clip_recording import ClipSummary
from triforce.ingest.config import Settings
from triforce.ingest.corpus.records import Recording, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.sync import BlockCounter, SyncSummary


@pytest.fixture
def sources(tmp_path):
    path = tmp_path / "sources.yaml"
    listed = [
        {"name": "talks", "kind": "youtube", "urls": ["https://example.org/talks"]},
        {"name": "news", "kind": "podcast", "feeds": ["https://example.org/news.xml"]},
        {"name": "old-news", "kind": "podcast", "feeds": ["https://example.org/old.xml"], "enabled": False},
    ]
    path.write_text(yaml.safe_dump({"contact": "test@example.org", "sources": listed}))
    return str(path)


def test_enabled_sources_of_the_kind_are_chosen_or_those_named(sources):
    assert [source.name for source in choose_sources(sources, "podcast")[1]] == ["news"]
    assert [source.name for source in choose_sources(sources, "podcast", ["old-news"])[1]] == ["old-news"]
    assert kinds_of(sources) == ["youtube", "podcast"]


@pytest.mark.parametrize(
    ("kind", "only", "message"),
    [("audiobook", None, "no enabled source of kind 'audiobook'"), ("podcast", ["nwes"], "no source 'nwes'")],
)
def test_nothing_to_visit_is_an_error(sources, kind, only, message):
    with pytest.raises(ValueError, match=message):
        choose_sources(sources, kind, only)


def test_what_a_stopped_run_fetched_is_cut_by_the_next(tmp_path):
    corpus = Corpus(str(tmp_path))

    def record(name: str, status: str, reason: str | None = None) -> Recording:
        recording_id = make_recording_id("talks", name)
        recording = Recording(
            recording_id, "talks", "youtube", name, f"https://example.org/{name}", status=status, reason=reason
        )
        corpus.write_recording(recording)
        return recording

    def fetched(name: str) -> Recording:
        recording = record(name, "fetched")
        path = corpus.media_path("talks", recording.recording_id, "mp3")
        storage.write_bytes(storage.join(corpus.uri, path), b"sound")
        return recording

    waiting = fetched("waiting")
    corpus.write_clips(fetched("cut"), [])
    record("gone", "rejected", "not_found")
    record("twin", "duplicate", "duplicate_bytes")
    assert list(unclipped("talks", corpus)) == [waiting]


def test_a_full_disk_ends_the_visit_of_a_source():
    class Done:
        """A future of Prefect's that is there."""

        def __init__(self, result: object):
            self.result = lambda raise_on_failure: result

        def add_done_callback(self, tell) -> None:
            tell(self)

    full = OSError(errno.ENOSPC, "No space left on device: free some", "/corpus")
    submitted = ((Done(full), Done(None)) for _ in range(1000))
    summary, config = SourceSummary(SyncSummary("talks")), Settings(contact="a@b.org")
    bar = SimpleNamespace(advance=lambda: None)  # the real one starts a server
    flow._drain(submitted, summary, bar, BlockCounter(3), in_flight=4)
    assert summary.done == 4
    assert summary.failure(config) == f"talks: OSError: {full}"


def test_the_table_counts_by_reason():
    summary = SourceSummary(SyncSummary("talks"))
    for status, reason in (("fetched", None), ("fetched", None), ("rejected", "not_found"), ("duplicate", None)):
        summary.add_recording(Recording("0" * 16, "talks", "youtube", "x", "u", status=status, reason=reason))
    summary.add_clips(
        ClipSummary(
            "a", "fetched", num_clips=5, num_kept=3, recording_s=3600, kept_s=1800, dropped={"music": 2}, wall_s=60
        )
    )
    summary.add_clips(ClipSummary("b", "rejected", reason="no_speech", wall_s=1))
    row = summary.row()
    assert row == {
        "source": "talks",
        "in": 4,
        "fetched": 2,
        "duplicates": 1,
        "rejected": "2: 1 not_found, 1 no_speech",
        "clips": 5,
        "kept": 3,
        "dropped": "2: 2 music",
        "hours": "1.00",
        "kept hours": "0.50",
        "x real time": "59.0",
    }
    assert summary.sync.rejected == Counter({"not_found": 1})
    lines = as_text([row]).splitlines()
    assert lines[1].split()[:4] == ["talks", "4", "2", "1"]
    assert [line.split(":")[0] for line in lines[2:]] == ["not_found", "no_speech"], "and what to do about each"
