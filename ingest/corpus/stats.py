"""List a corpus, find recordings in it, and count it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.corpus.arrow_schema import RECORDING_SCHEMA
from triforce.ingest.corpus.records import MEDIA_COLUMNS, Recording, Status
from triforce.ingest.corpus.store import Corpus


def list_recordings(
    corpus: Corpus,
    *,
    source: str | None = None,
    status: str | None = None,
    reason: str | None = None,
    author: str | None = None,
) -> Iterator[Recording]:
    """Yield the recordings on record that match every condition given, by source and id.

    ``author`` is compared as a whole, regardless of case.
    """
    for name in [source] if source else corpus.sources():
        for row in _recording_rows(corpus, name):
            recording = Recording.from_row(row)
            if (
                status in (None, recording.status)
                and reason in (None, recording.reason)
                and (author is None or (recording.author or "").casefold() == author.casefold())
            ):
                yield recording


FILES_AT_ONCE = 512
"""Files read before the first row is yielded: enough to keep all threads busy, a second's wait for the first ten rows.
Assumed."""


def _recording_rows(corpus: Corpus, source: str, columns: list[str] | None = None) -> Iterator[dict]:
    """Yield a source's rows by their ids, read `FILES_AT_ONCE` files at a time by several threads."""
    folder = storage.join(corpus.uri, "recordings", f"source={source}")
    filesystem, path = storage.arrow_filesystem(folder)
    files = [f"{path}/{name}" for name in storage.list_files(folder, ".parquet")]
    for begin in range(0, len(files), FILES_AT_ONCE):
        some = files[begin : begin + FILES_AT_ONCE]
        dataset = pads.dataset(some, schema=RECORDING_SCHEMA, format="parquet", filesystem=filesystem)
        yield from dataset.to_table(columns=columns).to_pylist()


def find_recording(corpus: Corpus, identifier: str) -> Recording:
    """Return the recording of an id, of the unique beginning of an id, or of a clip's id.

    Raises ValueError if there is none, or several.
    """
    stem = identifier.split("-")[0]
    found = [
        (source, recording_id)
        for source in corpus.sources()
        for recording_id in corpus.recording_ids(source)
        if stem and recording_id.startswith(stem)
    ]
    if len(found) != 1:
        names = ", ".join(f"{source}/{recording_id}" for source, recording_id in sorted(found)[:5])
        problem = (
            f"fits {len(found)} recordings ({names} ...); give more digits" if found else "is in no recording's id"
        )
        raise ValueError(f"{identifier!r} {problem}; `ls` lists them")
    return corpus.read_recording(*found[0])


def files_by_recording(corpus: Corpus, source: str) -> dict[str, list[str]]:
    """Return the names of the files beside the rows of a source, media and transcripts, by recording."""
    files: dict[str, list[str]] = {}
    for name in storage.list_files(storage.join(corpus.uri, "recordings", f"source={source}")):
        if not name.endswith(".parquet"):
            files.setdefault(name.split(".")[0], []).append(name)
    return files


def clips_of(corpus: Corpus, recording: Recording, columns: list[str] | None = None) -> pa.Table | None:
    """Return a recording's clips without their media; None if it was not cut into clips."""
    filesystem, path = storage.arrow_filesystem(corpus.clips_uri(recording.source, recording.recording_id))
    try:
        with pq.ParquetFile(path, filesystem=filesystem) as parquet:
            names = [name for name in parquet.schema_arrow.names if name not in MEDIA_COLUMNS]
            return parquet.read(columns=columns or names)
    except FileNotFoundError:
        return None


@dataclass
class SourceStats:
    """Counts of one source, or of a whole corpus."""

    recordings: Counter = field(default_factory=Counter)
    """Recordings by status."""
    reasons: Counter = field(default_factory=Counter)
    """Rejected and duplicate recordings by reason."""
    licences: Counter = field(default_factory=Counter)
    """Fetched recordings by licence; None where none is known."""
    num_bytes: int = 0
    recorded_s: float = 0.0
    """Decoded length of the fetched recordings, seconds."""
    num_clips: int = 0
    clips_s: float = 0.0
    num_kept: int = 0
    kept_s: float = 0.0
    drops: Counter = field(default_factory=Counter)
    """Clips that are not for training, by reason."""
    languages: Counter = field(default_factory=Counter)
    """Kept clips by language."""

    def as_dict(self) -> dict[str, dict | int | float]:
        """Return the counts as JSON takes them."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    def add(self, other: SourceStats) -> None:
        """Add the counts of another source to these."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)


def stats(corpus: Corpus) -> dict[str, SourceStats]:
    """Return counts by source, and their sum as ``"total"``."""
    by_source = {source: _source_stats(corpus, source) for source in corpus.sources()}
    total = SourceStats()
    for item in by_source.values():
        total.add(item)
    return by_source | {"total": total}


def _source_stats(corpus: Corpus, source: str) -> SourceStats:
    result = SourceStats()
    for row in _recording_rows(corpus, source, ["status", "reason", "licence", "num_bytes", "metadata"]):
        result.recordings[row["status"]] += 1
        if row["reason"]:
            result.reasons[row["reason"]] += 1
        if row["status"] == Status.FETCHED:
            result.licences[row["licence"]] += 1
            result.num_bytes += row["num_bytes"] or 0
            result.recorded_s += float(dict(row["metadata"] or []).get("decoded_duration_s", 0.0))
    if corpus.clip_files(source):
        for row in corpus.clips(["duration_s", "drop_reason", "language"], source=source).to_pylist():
            result.num_clips += 1
            result.clips_s += row["duration_s"] or 0.0
            if row["drop_reason"]:
                result.drops[row["drop_reason"]] += 1
            else:
                result.num_kept += 1
                result.kept_s += row["duration_s"] or 0.0
                result.languages[row["language"]] += 1
    return result
