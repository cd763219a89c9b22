"""Decide again which clips of a finished corpus are dropped: by their stored scores and by what persons
marked as wrong, without decoding any audio."""

from __future__ import annotations

import contextlib
import tempfile
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from triforce.ingest.clips.columns.read_columns import judged_columns, read_judged
from triforce.ingest.clips.columns.verdicts import KEPT, REASONS, judge, rate_limits
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.marks import marked_ids
from triforce.ingest.cores import map_ahead
from triforce.ingest.corpus.file_index import num_readers
from triforce.ingest.corpus.records import DropReason
from triforce.ingest.corpus.rewrite import replace_columns
from triforce.ingest.corpus.store import Corpus

CHANGES = pa.schema([(name, pa.string()) for name in ("source", "recording_id", "clip_id", "before", "after")])
SPOOLED = pa.schema(
    [
        *((name, pa.string()) for name in ("recording_id", "clip_id", "before")),
        *(("reason", pa.uint8()), ("rate", pa.float64())),
    ]
)
CLIPS_AT_A_TIME = 1 << 13
"""Clips that are judged together, or a few more, as a file's are never parted. Assumed."""
SPEAKING_RATE = np.uint8(REASONS.index(DropReason.SPEAKING_RATE))
_REASON_TEXTS = pa.array([reason and str(reason) for reason in REASONS], pa.string())


@dataclass(frozen=True)
class Judged:
    """The clips of some files, N of them, and what is decided of them."""

    sizes: dict[str, int]
    """How many clips each file has, by its URI, in order."""
    recording_ids: pa.Array
    clip_ids: pa.Array
    before: pa.Array
    """Their reasons until now."""
    reasons: np.ndarray
    """Numbers of their reasons in `verdicts.REASONS`, uint8 ``(N,)``."""
    rates: np.ndarray
    """Letters a second, float64 ``(N,)``; NaN where none is known."""

    @property
    def after(self) -> pa.Array:
        """Their reasons from now on."""
        return _REASON_TEXTS.take(pa.array(self.reasons))

    @property
    def is_changed(self) -> np.ndarray:
        """Whether their reason is another one from now on, bool ``(N,)``."""
        before, after = self.before, self.after
        is_other = pc.or_(pc.xor(before.is_null(), after.is_null()), pc.not_equal(before, after).fill_null(False))
        return is_other.to_numpy(zero_copy_only=False)

    def within(self, limits: tuple[float, float] | None) -> Judged:
        """Return the same, with those kept clips dropped whose rate lies outside of the limits."""
        if limits is None:
            return self
        unusual = (self.reasons == KEPT) & ((self.rates < limits[0]) | (self.rates > limits[1]))
        return replace(self, reasons=np.where(unusual, SPEAKING_RATE, self.reasons))

    def changes(self, source: str) -> pa.Table:
        """Return the clips whose reason changes."""
        columns = [pa.repeat(source, len(self.reasons)), self.recording_ids, self.clip_ids, self.before, self.after]
        return pa.Table.from_arrays(columns, schema=CHANGES).filter(self.is_changed)

    def changed_files(self) -> list[str]:
        """Return the URIs of the files that have such clips."""
        changed = np.concatenate([[0], np.cumsum(self.is_changed)])[np.cumsum([0, *self.sizes.values()])]
        return [uri for uri, count in zip(self.sizes, np.diff(changed), strict=True) if count]


def refilter(corpus: Corpus, config: FilterConfig, *, dry_run: bool = False) -> pa.Table:
    """Decide again, from the stored scores, which clips are dropped; return the clips whose reason changed.

    A clip that a person marked is dropped for `DropReason.MARKED_WRONG`, whatever its scores. Columns: source,
    recording_id, clip_id, before, after. No audio is decoded. Only files with a change are written,
    each atomically; ``dry_run`` writes none.
    """
    return pa.concat_tables([CHANGES.empty_table(), *decide_again(corpus, config, dry_run=dry_run)])


def decide_again(corpus: Corpus, config: FilterConfig, *, dry_run: bool = False) -> Iterator[pa.Table]:
    """Do what `refilter` does, and yield the changes of some files at a time, as those of a large corpus take memory.

    With ``max_rate_iqr`` the rates of a source's clips are held, 4 bytes each.
    """
    for source in corpus.sources():
        files, marked = corpus.clip_files(source), marked_ids(corpus, source)
        if not files:
            continue
        judged: Iterable[Judged] = _judge(files, config, marked)
        limits: tuple[float, float] | None = None
        with contextlib.ExitStack() as stack:
            if config.max_rate_iqr is not None:
                judged = spool = _Spool(stack.enter_context(tempfile.TemporaryFile()), judged)
                limits = rate_limits(spool.rates, config.max_rate_iqr)
            for some in (one.within(limits) for one in judged):
                if dry_run:
                    yield some.changes(source)
                    continue
                for uri in some.changed_files():
                    [file] = _judge([uri], config, marked)  # again: it may have been written since
                    file = file.within(limits)
                    replace_columns(uri, {"drop_reason": file.after.to_pylist()})
                    yield file.changes(source)


def _judge(files: Sequence[str], config: FilterConfig, marked: Collection[str]) -> Iterator[Judged]:
    """Judge the clips of files by all but how unusual a rate is, some files at a time."""
    config = config.model_copy(update={"max_rate_iqr": None})
    tables: dict[str, pa.Table] = {}
    threads = min(len(files), num_readers(files[0]))
    for uri, table in zip(files, map_ahead(partial(read_judged, config=config), files, threads), strict=True):
        tables[uri] = table
        if sum(map(len, tables.values())) >= CLIPS_AT_A_TIME:
            yield _judge_tables(tables, config, marked)
            tables = {}
    if tables:
        yield _judge_tables(tables, config, marked)


def _judge_tables(tables: dict[str, pa.Table], config: FilterConfig, marked: Collection[str]) -> Judged:
    ids, clips, names = judged_columns(list(tables.values()), config)
    is_marked = np.zeros(len(ids["clip_id"]), bool)
    if marked:
        is_marked[:] = [clip_id in marked for clip_id in ids["clip_id"].to_pylist()]
    sizes = {uri: len(table) for uri, table in tables.items()}
    reasons = judge(clips, names, config, is_marked)
    return Judged(sizes, ids["recording_id"], ids["clip_id"], ids["drop_reason"], reasons, clips["letters_per_s"])


class _Spool:
    """What is decided of a source's clips, in a temporary file, so that no clip file is read twice for it."""

    def __init__(self, file: IO[bytes], judged: Iterable[Judged]) -> None:
        self._file = file
        self._sizes: list[dict[str, int]] = []
        rates = array("f")
        with pa.ipc.new_stream(file, SPOOLED, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            for some in judged:
                usual = some.rates[(some.reasons == KEPT) & ~np.isnan(some.rates)]
                rates.frombytes(usual.astype(np.float32).tobytes())
                columns = [some.recording_ids, some.clip_ids, some.before, pa.array(some.reasons), pa.array(some.rates)]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SPOOLED))
                self._sizes.append(some.sizes)
        self.rates = np.frombuffer(rates, np.float32)
        """Of the clips that are kept and have one."""

    def __iter__(self) -> Iterator[Judged]:
        self._file.seek(0)
        with pa.ipc.open_stream(self._file) as reader:
            for sizes, batch in zip(self._sizes, reader, strict=True):
                recording_ids, clip_ids, before, reasons, rates = batch.columns
                yield Judged(sizes, recording_ids, clip_ids, before, reasons.to_numpy(), rates.to_numpy())
