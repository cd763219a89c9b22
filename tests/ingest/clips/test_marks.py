"""Marks: a person's word goes before any score, can be taken back, and leaves with a takedown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from corpora import add_recording
from typer.testing import CliRunner

from triforce.flows.cli.corpus import app
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.marks import mark_wrong, marked_ids, read_mark, remove_marks, unmark
from triforce.ingest.clips.refilter import refilter
from triforce.ingest.corpus.records import Clip, Recording
from triforce.ingest.corpus.stats import find_recording
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.takedown import remove

LOOSE = FilterConfig(min_s=0.1)


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    corpus = Corpus(str(tmp_path / "corpus"))
    add_recording(corpus, "talks", "one", 3)
    add_recording(corpus, "talks", "two", 2, seed=1)
    return corpus


def ids(corpus: Corpus) -> list[str]:
    return corpus.clips(["clip_id"])["clip_id"].to_pylist()


def test_a_marked_clip_is_dropped_until_the_mark_is_taken_back(corpus):
    wrong = ids(corpus)[1]
    made = mark_wrong(corpus, "talks", wrong, "  two people\udc80 speak ")
    assert read_mark(corpus, "talks", wrong) == made
    assert (made.reason, marked_ids(corpus, "talks")) == ("two people? speak", {wrong})
    changes = refilter(corpus, LOOSE).to_pylist()
    assert [(row["clip_id"], row["before"], row["after"]) for row in changes] == [(wrong, None, "marked_wrong")]
    assert refilter(corpus, LOOSE).num_rows == 0
    unmark(corpus, "talks", wrong)
    unmark(corpus, "talks", wrong)
    assert [row["after"] for row in refilter(corpus, LOOSE).to_pylist()] == [None]


def test_a_mark_that_cannot_be_read_still_counts(corpus):
    wrong = ids(corpus)[0]
    mark_wrong(corpus, "talks", wrong)
    [path] = Path(corpus.uri).glob("marks/source=talks/*.json")
    assert json.loads(path.read_text()).keys() == {"clip_id", "reason", "marked_at"}
    path.write_bytes(b"{")
    assert read_mark(corpus, "talks", wrong).reason is None
    assert refilter(corpus, LOOSE, dry_run=True)["after"].to_pylist() == ["marked_wrong"]
    with pytest.raises(ValueError, match="at most 500"):
        mark_wrong(corpus, "talks", wrong, "x" * 501)


def test_a_takedown_removes_the_marks_of_its_clips_and_no_others(corpus):
    first, *_, last = ids(corpus)
    for clip_id in (first, last):
        mark_wrong(corpus, "talks", clip_id)
    gone = find_recording(corpus, first)
    remove(corpus, [gone], dry_run=True)
    assert marked_ids(corpus, "talks") == {first, last}
    remove(corpus, [gone])
    assert marked_ids(corpus, "talks") == {last}
    remove_marks(corpus, "talks", {last.rpartition("-")[0]})
    assert marked_ids(corpus, "talks") == set()


def test_refilter_drops_what_was_not_transcribed_as_the_ingest_does(tmp_path):
    corpus = Corpus(str(tmp_path))
    recording = Recording("a" * 16, "talks", "files", "a", "https://example.org/a")
    corpus.write_recording(recording)
    clip = Clip.cut(recording, 0, 120_000, 24_000, asr_model="whisper-tiny.en", language="de")
    corpus.write_clips(recording, [replace(clip, drop_reason="wrong_language")])
    assert refilter(corpus, FilterConfig()).num_rows == 0


def test_the_command_takes_a_file_and_settings_go_before_it(corpus, tmp_path):
    path = tmp_path / "filter.yaml"
    path.write_text("min_s: 0.1\nmin_snr_db: 5\nmax_rate_iqr: null\n")
    runner = CliRunner()
    result = runner.invoke(app, ["refilter", corpus.uri, "--config", str(path), "--dry-run"])
    assert result.output.startswith("0 clips would change"), result.output
    result = runner.invoke(app, ["refilter", corpus.uri, "--config", str(path), "--set", "min_s=30", "--dry-run"])
    assert "too_short          5" in result.output
    path.write_text("min_sn: 5\n")
    fault = runner.invoke(app, ["refilter", corpus.uri, "--config", str(path)]).exception
    assert "filter.yaml:1: min_sn = 5: unknown key; did you mean" in str(fault)
