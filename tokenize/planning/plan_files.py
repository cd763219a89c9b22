"""The files of a plan, ``plan/part-000000.parquet`` and on, read a piece at a time.

A part's rows are sorted by shard and, as shards are filled in that order, by source and clip.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from triforce.ingest import storage

PLAN_SCHEMA = pa.schema(
    [("shard", pa.int32()), ("clip_id", pa.string()), ("recording_id", pa.string()), ("source", pa.string())]
)
BATCH_ROWS = 1 << 14
"""Rows read at a time. Assumed."""
ROW_GROUP_ROWS = 1 << 16
"""Rows of a row group, which is what is read to find one shard's clips. Assumed."""


class Member(NamedTuple):
    """A clip that is planned into a shard."""

    clip_id: str
    recording_id: str
    source: str


class PlannedClips(NamedTuple):
    """The clips of one recording in one part of the plan, in order."""

    source: str
    recording_id: str
    starts: np.ndarray
    """First samples, int64 ``(N,)``."""
    shards: np.ndarray
    """The shard of each, int32 ``(N,)``."""


def part_uris(tokens: str) -> list[str]:
    """Return the URIs of the plan's parts, in the order of their shards."""
    folder = storage.join(tokens, "plan")
    return [storage.join(folder, name) for name in storage.list_files(folder, ".parquet")]


def plan_batches(tokens: str) -> Iterator[pa.RecordBatch]:
    """Yield all planned clips in the order of shards, some at a time."""
    for uri in part_uris(tokens):
        with _open(uri) as parquet:
            yield from parquet.iter_batches(batch_size=BATCH_ROWS)


def num_planned_shards(tokens: str) -> int:
    """Return the number of shards of the plan, read from the last part's footer."""
    for uri in part_uris(tokens)[-1:]:
        with _open(uri) as parquet:
            return _shard_bounds(parquet)[-1][1] + 1
    return 0


def planned_by_recording(tokens: str) -> Iterator[PlannedClips]:
    """Yield the planned clips of all parts by source and recording."""
    with contextlib.ExitStack() as stack:
        parts = [_recordings(stack.enter_context(_open(uri))) for uri in part_uris(tokens)]
        yield from heapq.merge(*parts, key=lambda clips: (clips.source, clips.recording_id))


class MemberReader:
    """Finds the clips of one shard after the other; the row group read last is kept."""

    def __init__(self, tokens: str) -> None:
        self._uris = part_uris(tokens)
        self._bounds: list[tuple[str, int, int, int]] = []
        for uri in self._uris:
            with _open(uri) as parquet:
                self._bounds += [(uri, group, *bounds) for group, bounds in enumerate(_shard_bounds(parquet))]
        self._tables: dict[tuple[str, int], pa.Table] = {}

    def members(self, shard: int) -> list[Member]:
        """Return the clips that are planned into a shard, in its order."""
        wanted = {(uri, group) for uri, group, first, last in self._bounds if first <= shard <= last}
        self._tables = {key: table for key, table in self._tables.items() if key in wanted}
        found: list[Member] = []
        for key in sorted(wanted):
            if key not in self._tables:
                with _open(key[0]) as parquet:
                    self._tables[key] = parquet.read_row_group(key[1])
            table = self._tables[key]
            first, last = np.searchsorted(table["shard"].to_numpy(), [shard, shard + 1])
            columns = table.slice(first, last - first).to_pydict()
            found += [Member(*row) for row in zip(*(columns[name] for name in Member._fields), strict=True)]
        return found


@contextlib.contextmanager
def _open(uri: str) -> Iterator[pq.ParquetFile]:
    fs, path = storage.resolve(uri)
    with fs.open(path, "rb") as file, pq.ParquetFile(file, read_dictionary=["recording_id", "source"]) as parquet:
        yield parquet


def _shard_bounds(parquet: pq.ParquetFile) -> list[tuple[int, int]]:
    """The first and the last shard of each row group."""
    statistics = [parquet.metadata.row_group(group).column(0).statistics for group in range(parquet.num_row_groups)]
    return [(each.min, each.max) for each in statistics]


def _recordings(parquet: pq.ParquetFile) -> Iterator[PlannedClips]:
    waiting: PlannedClips | None = None  # a recording may go on in the next batch
    for batch in parquet.iter_batches(batch_size=BATCH_ROWS):
        for clips in _runs(batch):
            if waiting is not None and waiting[:2] == clips[:2]:
                joined = (np.concatenate(pair) for pair in zip(waiting[2:], clips[2:], strict=True))
                waiting = PlannedClips(*clips[:2], *joined)
                continue
            if waiting is not None:
                yield waiting
            waiting = clips
    if waiting is not None:
        yield waiting


def _runs(batch: pa.RecordBatch) -> Iterator[PlannedClips]:
    sources, recordings = (
        batch[name].cast(pa.dictionary(pa.int32(), pa.string())) for name in ("source", "recording_id")
    )
    codes = np.stack([sources.indices.to_numpy(), recordings.indices.to_numpy()])
    changes = np.flatnonzero((np.diff(codes) != 0).any(0)) + 1
    shards = batch["shard"].to_numpy()
    for first, last in zip([0, *changes], [*changes, len(shards)], strict=True):
        source, recording_id = sources[first].as_py(), recordings[first].as_py()
        ids = batch["clip_id"].slice(first, last - first)
        starts = pc.utf8_slice_codeunits(ids, len(recording_id) + 1).cast(pa.int64()).to_numpy()
        yield PlannedClips(source, recording_id, starts, shards[first:last])
