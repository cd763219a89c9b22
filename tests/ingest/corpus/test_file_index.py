"""What files hold is remembered, and the files alone are believed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from triforce.ingest import storage
from triforce.ingest.corpus import file_index, store
from triforce.ingest.corpus.clip_index import clip_index, kept_clips, kept_digest
from triforce.ingest.corpus.file_index import FileIndex
from triforce.ingest.corpus.records import Clip, Media, Recording, make_clip_id, make_recording_id
from triforce.ingest.corpus.rewrite import replace_columns
from triforce.ingest.corpus.stats import recording_index, stats
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.takedown import remove

SCHEMA = pa.schema([("text", pa.string()), ("numbers", pa.list_(pa.int64()))])


class Files:
    """A folder of files whose content is their row, and an index over them."""

    def __init__(self, folder: str) -> None:
        self.uri, self.cache, self.read = f"{folder}/files", f"{folder}/cache", []
        self.index = FileIndex(self.uri, self.cache, SCHEMA, self._summarise)

    def _summarise(self, uri: str, name: str) -> dict:
        self.read.append(name)
        text = storage.read_bytes(uri).decode()
        return {"text": text, "numbers": list(range(len(text)))}

    def put(self, name: str, text: str) -> None:
        uri = f"{self.uri}/{name}.parquet"
        storage.write_bytes(uri, text.encode())
        if storage.is_local(uri):
            os.utime(uri, (1.7e9, 1.7e9))

    def rows(self) -> dict[str, str]:
        """Names and texts, in order; what was read for them is forgotten."""
        rows = [row for batch in self.index.batches() for row in batch.to_pylist()]
        assert [row["name"] for row in rows] == sorted({row["name"] for row in rows})
        assert all(row["numbers"] == list(range(len(row["text"]))) for row in rows)
        return {row["name"]: row["text"] for row in rows}

    def newly_read(self) -> list[str]:
        read, self.read = sorted(self.read), []
        return read


@pytest.fixture(params=["local", "memory"])
def files(request, tmp_path) -> Files:
    return Files(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}")


def test_each_file_is_opened_once(files):
    assert files.rows() == {}
    for name in "dbf":
        files.put(name, name * 3)
    for expected in (["b", "d", "f"], []):
        assert files.rows() == {"b": "bbb", "d": "ddd", "f": "fff"}
        assert files.newly_read() == expected
    files.put("b", "changed")
    files.put("a", "new")
    storage.remove(f"{files.uri}/d.parquet")
    assert files.rows() == {"a": "new", "b": "changed", "f": "fff"}
    assert files.newly_read() == ["a", "b"]
    assert files.rows() == {"a": "new", "b": "changed", "f": "fff"}
    assert files.newly_read() == []


def test_many_runs_leave_few_parts(files, monkeypatch):
    monkeypatch.setattr(file_index, "SUPERSEDED_S", -1.0)
    monkeypatch.setattr(file_index, "ROWS", 2)
    monkeypatch.setattr(file_index, "MAX_PARTS", 3)
    expected = {}
    for number in range(9):
        name = f"{number * 7 % 31:02d}"
        files.put(name, name)
        expected[name] = name
        assert files.rows() == dict(sorted(expected.items()))
        assert files.newly_read() == [name]
        assert len(storage.list_files(files.cache)) <= 3 + 1 + 3  # those joined last are there until the next run
    assert files.rows() == dict(sorted(expected.items()))
    assert files.newly_read() == []


def test_a_file_that_was_just_written_is_not_trusted(tmp_path):
    files = Files(str(tmp_path))
    files.put("a", "old")
    storage.write_bytes(f"{files.uri}/b.parquet", b"one")
    assert files.rows() == {"a": "old", "b": "one"}
    path = Path(files.uri, "b.parquet")
    stat = path.stat()
    path.write_bytes(b"two")  # the same inode and size, and the same tick of the clock
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    files.newly_read()
    assert files.rows() == {"a": "old", "b": "two"}
    assert files.newly_read() == ["b"]


def test_what_is_remembered_may_be_broken_or_of_another_version(files):
    files.put("a", "text")
    files.rows()
    [name] = storage.list_files(files.cache)
    storage.write_bytes(f"{files.cache}/{name}", b"PAR1 cut off")
    assert files.rows() == {"a": "text"}
    older = FileIndex(files.uri, files.cache, pa.schema([("size", pa.int64())]), lambda uri, name: {"size": 1})
    assert [batch["size"].to_pylist() for batch in older.batches()] == [[1]]
    assert files.rows() == {"a": "text"}


def test_a_corpus_that_cannot_be_written_is_read_all_the_same(tmp_path):
    files = Files(str(tmp_path))
    files.put("a", "text")
    index = FileIndex(files.uri, "/sys/no-such-place", SCHEMA, files._summarise)
    for _ in range(2):
        assert [batch["text"].to_pylist() for batch in index.batches()] == [["text"]]


def test_a_broken_file_is_named_with_what_to_do(tmp_path):
    corpus = Corpus(str(tmp_path))
    add_soundless(corpus, "feed", "a", 2, 0)
    uri = corpus.clips_uri("feed", make_recording_id("feed", "a"))
    Path(uri).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"parquet cannot be read .*verify --repair"):
        kept_digest(corpus)


def test_purging_leaves_nothing_of_what_is_gone(files):
    files.put("a", "keep")
    files.put("b", "secret")
    files.rows()
    storage.remove(f"{files.uri}/b.parquet")
    files.newly_read()
    files.index.purge()
    assert files.rows() == {"a": "keep"}
    assert files.newly_read() == []
    parts = [storage.join(files.cache, name) for name in storage.list_files(files.cache)]
    assert len(parts) == 1


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    corpus = Corpus(str(tmp_path / "corpus"))
    for source, name, num_clips, drop in (("b", "one", 70, 20), ("a", "two", 5, 0), ("a", "none", 3, 3)):
        add_soundless(corpus, source, name, num_clips, drop)
    return corpus


def add_soundless(corpus: Corpus, source: str, name: str, num_clips: int, drop: int) -> None:
    """A recording of clips of a second whose sound nobody hears."""
    recording = Recording(make_recording_id(source, name), source, "podcast", name, f"http://127.0.0.1/{name}.mp3")
    spans = [(24_000 * index, 24_000 * (index + 1)) for index in range(num_clips)]
    audio = Media(b"fLaC")
    clips = [Clip.cut(recording, *span, 24_000, audio=audio, text="hello") for span in spans]
    corpus.write_recording(recording)
    corpus.write_clips(
        recording, [replace(clip, drop_reason="quiet" if index < drop else None) for index, clip in enumerate(clips)]
    )


def test_kept_clips_are_those_that_the_files_hold(corpus):
    rows = corpus.clips(["clip_id"], kept_only=True)["clip_id"].to_pylist()
    found = list(kept_clips(corpus, "speech"))
    assert [make_clip_id(clips.recording_id, start) for clips in found for start in clips.starts.tolist()] == rows
    assert [clips.source for clips in found] == ["a", "b"]
    assert found[1].groups.tolist() == [0] * 12 + [1] * 32 + [2] * 6  # the first 20 of 70 are dropped
    assert list(kept_clips(corpus, "music")) == []


def test_the_hash_of_a_corpus_is_that_of_which_clips_are_kept(corpus, tmp_path):
    digest = kept_digest(corpus)
    uri = corpus.clips_uri("a", make_recording_id("a", "two"))
    replace_columns(uri, {"snr_db": [3.0] * 5})
    assert kept_digest(corpus) == digest
    replace_columns(uri, {"drop_reason": ["quiet", None, None, None, None]})
    assert kept_digest(corpus) != digest
    replace_columns(uri, {"drop_reason": [None] * 5})
    assert kept_digest(corpus) == digest
    assert kept_digest(Corpus(str(tmp_path / "none"))) is None


def test_stats_count_the_clips_of_the_files(corpus):
    total = stats(corpus)["total"]
    assert (total.num_clips, total.num_kept, total.drops) == (78, 55, {"quiet": 23})
    durations = corpus.clips(["duration_s"])["duration_s"].to_pylist()
    assert total.clips_s == pytest.approx(sum(durations))


def test_a_takedown_reaches_what_is_remembered(corpus):
    stats(corpus)
    row = corpus.read_recording("b", make_recording_id("b", "one"))
    remove(corpus, [row])
    for index in (recording_index(corpus, "b"), clip_index(corpus, "b")):
        parts = [storage.join(index.cache, name) for name in storage.list_files(index.cache)]
        assert not any(b"one.mp3" in storage.read_bytes(part) for part in parts)
        assert not parts


def test_few_recordings_are_looked_for_one_by_one_and_many_listed(corpus, monkeypatch):
    listed = []
    recording_ids = Corpus.recording_ids
    monkeypatch.setattr(Corpus, "recording_ids", lambda self, name: listed.append(name) or recording_ids(self, name))
    monkeypatch.setattr(store, "MAX_LOOKUPS", 3)
    known = corpus.known_recordings("a")
    ids = [make_recording_id("a", name) for name in ("two", "absent", "none")]
    assert [one in known for one in ids] == [True, False, True]
    assert listed == []
    corpus.write_recording(Recording(ids[1], "a", "podcast", "absent", "http://127.0.0.1/x"))
    assert [one in known for one in ids * 3] == [True] * 9
    assert listed == ["a"]
    assert set(known) == set(ids)
