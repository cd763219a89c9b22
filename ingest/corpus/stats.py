"""List a corpus, find recordings in it, and count it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.corpus.arrow_schema import RECORDING_SCHEMA
from triforce.ingest.corpus.clip_index import clip_index
from triforce.ingest.corpus.file_index import FileIndex
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.records import MEDIA_COLUMNS, Recording, Status
from triforce.ingest.corpus.store import Corpus, read_recording


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
        for rows in recording_index(corpus, name).batches():
            for column, value in (("status", status), ("reason", reason)):
                if value is not None:
                    rows = rows.filter(pc.equal(rows[column], value))
            for row in rows.select(RECORDING_SCHEMA.names).to_pylist():
                recording = Recording.from_row(row)
                if author is None or (recording.author or "").casefold() == author.casefold():
                    yield recording


def recording_index(corpus: Corpus, source: str) -> FileIndex:
    """Return the index of a source's rows, which remembers them whole."""
    return FileIndex(
        storage.join(corpus.uri, "recordings", f"source={source}"),
        storage.join(corpus.uri, "state", f"source={source}", "recording-index"),
        RECORDING_SCHEMA,
        lambda uri, _: read_recording(uri).to_row(),
        list_stamps=overlay.list_stamps,
    )


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
    uri = corpus.clips_uri(recording.source, recording.recording_id)
    try:
        with overlay.open_file(uri) as file, pq.ParquetFile(file) as parquet:
            names = [name for name in parquet.schema_arrow.names if name not in MEDIA_COLUMNS]
            return parquet.read(columns=columns or names, use_threads=False)
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
    columns = ["status", "reason", "licence", "num_bytes", "metadata"]
    for rows in recording_index(corpus, source).batches():
        for row in rows.select(columns).to_pylist():
            result.recordings[row["status"]] += 1
            if row["reason"]:
                result.reasons[row["reason"]] += 1
            if row["status"] == Status.FETCHED:
                result.licences[row["licence"]] += 1
                result.num_bytes += row["num_bytes"] or 0
                result.recorded_s += float(dict(row["metadata"] or []).get("decoded_duration_s", 0.0))
    for rows in clip_index(corpus, source).batches():
        for count in (count for counts in rows["counts"].to_pylist() for count in counts):
            num_clips, duration_s = count["num_clips"], count["duration_s"]
            result.num_clips += num_clips
            result.clips_s += duration_s
            if count["drop_reason"]:
                result.drops[count["drop_reason"]] += num_clips
            else:
                result.num_kept += num_clips
                result.kept_s += duration_s
                result.languages[count["language"]] += num_clips
    return result
