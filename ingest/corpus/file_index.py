"""What each file of a folder holds, in brief, remembered by the files' stamps: an unchanged file is opened once.

The brief rows lie in a folder of their own, in parts that are only ever added and removed, sorted by the files' names.
A row counts while the folder's listing has a file of its name and stamp. So the files are the only truth: what is
remembered may be lost, cut off or written by several processes at once, and is then made again.

The names of a folder's files are held in memory, and their rows are not.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.cores import num_cores

logger = logging.getLogger(__name__)

ROWS = 1024
"""Rows in memory at a time. Assumed."""
MAX_PARTS = 8
"""Parts from which on they are joined to one. Assumed."""
READERS = 16
"""Files of an object store that are read at a time; of a local disk one for the index, as Python takes more time than
it. Assumed."""
SUPERSEDED_S = 600.0
"""Time in seconds that a part is kept for other readers once a newer one holds all of its rows. Assumed."""


def num_readers(uri: str) -> int:
    """Return how many threads read whole files below ``uri`` at a time: a core each, or as many as wait for a store."""
    return num_cores() if storage.is_local(uri) else READERS


@dataclass(frozen=True)
class FileIndex:
    """Brief rows of the Parquet files in ``folder``, remembered in ``cache``."""

    folder: str
    cache: str
    schema: pa.Schema
    """Columns that `summarise` returns; ``name`` and ``stamp``, of the file, come in front."""
    summarise: Callable[[str, str], dict[str, Any]]
    """The row of a file, by its URI and its name without ending. Raises FileNotFoundError where it is gone."""
    suffix: str = ".parquet"
    """Ending of the files."""
    list_stamps: Callable[[str, str], dict[str, str]] = storage.list_stamps
    """Lists the files of a folder by an ending, each with a stamp that changes with it."""

    def batches(self) -> Iterator[pa.Table]:
        """Yield the rows of all files that are there, in the order of their names, some at a time."""
        with contextlib.ExitStack() as stack:
            stamps = self._stamps()
            parts = self._open_parts(stack, stamps)
            missing = stamps.keys() - {name for part in parts for name in part.live}
            superseded = [part for part in parts if not part.live]
            joined = [part for part in parts if part.live and len(part.live) < part.num_rows]
            kept = [part for part in parts if len(part.live) == part.num_rows]
            if len(kept) + bool(missing or joined) > MAX_PARTS:
                joined, kept = joined + kept, []
            if missing or joined:
                kept.append(self._write_part(stack, stamps, sorted(missing), joined))
            self._remove(superseded, max((part.written_s for part in kept), default=0.0))
            yield from _in_order(kept)

    def purge(self, also: Collection[str] = ()) -> None:
        """Forget, at once and for good, what is remembered of files that are not there any more, and of those ``also``
        named, without ending, which are about to go."""
        with contextlib.ExitStack() as stack:
            stamps = {name: stamp for name, stamp in self._stamps().items() if name not in also}
            parts = self._open_parts(stack, stamps)
            outdated = [part for part in parts if len(part.live) < part.num_rows]
            if any(part.live for part in outdated):
                self._write_part(stack, stamps, [], outdated)
            for part in outdated:
                storage.remove(part.uri)

    def carry_over(self, stamps: Mapping[str, tuple[str, str]]) -> None:
        """Remember of files, by name without ending, that what they were by the first stamp they are by the second."""
        with contextlib.ExitStack() as stack:
            parts = self._open_parts(stack, {name: before for name, (before, _) in stamps.items()})
            known = [part for part in parts if part.live]
            if not known:
                return
            uri = self._new_uri()
            with (
                storage.atomic_file(uri) as path,
                pq.ParquetWriter(path, self._full_schema, compression="zstd") as writer,
            ):
                for table in _in_order(known):
                    after = pa.array([stamps[name][1] for name in table["name"].to_pylist()], pa.string())
                    writer.write_table(table.set_column(1, self._full_schema.field("stamp"), after))

    def _new_uri(self) -> str:
        return storage.join(self.cache, f"{time.time():017.6f}-{uuid.uuid4().hex[:12]}.parquet")

    def _stamps(self) -> dict[str, str]:
        """The stamp of each file by its name without ending."""
        found = self.list_stamps(self.folder, self.suffix)
        return {name.removesuffix(self.suffix): stamp for name, stamp in found.items()}

    def _open_parts(self, stack: contextlib.ExitStack, stamps: dict[str, str]) -> list[_Part]:
        parts: list[_Part] = []
        taken: set[str] = set()
        for file in reversed(storage.list_files(self.cache, ".parquet")):  # the newest, which joins others, first
            uri = storage.join(self.cache, file)
            try:
                part = _Part(stack, uri, self._full_schema)
                part.find_live(stamps, taken)
            except FileNotFoundError:
                continue  # another process has joined it with others meanwhile
            except pa.ArrowException as error:
                logger.warning("%s cannot be read (%s) and is made again", uri, error)
                storage.remove(uri)
                continue
            parts.append(part)
        return parts

    @property
    def _full_schema(self) -> pa.Schema:
        return pa.schema([("name", pa.string()), ("stamp", pa.string()), *self.schema])

    def _write_part(
        self, stack: contextlib.ExitStack, stamps: dict[str, str], missing: list[str], joined: list[_Part]
    ) -> _Part:
        """Write a part with the rows of the ``missing`` files and those that still count of ``joined`` parts."""
        uri = self._new_uri()
        try:
            names = self._write(uri, stamps, missing, joined)
        except OSError as error:
            if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
                raise
            logger.warning("%s cannot be written (%s): what files hold is not remembered", self.cache, error)
            uri = storage.join(stack.enter_context(tempfile.TemporaryDirectory()), "part.parquet")
            names = self._write(uri, stamps, missing, joined)
        part = _Part(stack, uri, self._full_schema)
        part.live = {name: row for row, name in enumerate(names)}
        return part

    def _write(self, uri: str, stamps: dict[str, str], missing: list[str], joined: list[_Part]) -> list[str]:
        names: list[str] = []
        old = _in_order(joined)
        waiting = next(old, None)
        with storage.atomic_file(uri) as path, pq.ParquetWriter(path, self._full_schema, compression="zstd") as writer:

            def write(table: pa.Table) -> None:
                if len(table):
                    writer.write_table(table)
                    names.extend(table["name"].to_pylist())

            for table in self._summaries(stamps, missing):
                # Both are sorted: what stands before the last new name goes with it.
                last, before = table["name"][-1].as_py(), [table]
                while waiting is not None:
                    count = int(np.searchsorted(np.array(waiting["name"].to_pylist(), dtype=object), last))
                    before.append(waiting.slice(0, count))
                    if count < len(waiting):
                        waiting = waiting.slice(count)
                        break
                    waiting = next(old, None)
                write(pa.concat_tables(before).sort_by("name"))
            while waiting is not None:
                write(waiting)
                waiting = next(old, None)
        return names

    def _summaries(self, stamps: dict[str, str], names: list[str]) -> Iterator[pa.Table]:
        def row(name: str) -> dict[str, Any] | None:
            uri = storage.join(self.folder, f"{name}{self.suffix}")
            try:
                return {"name": name, "stamp": stamps[name], **self.summarise(uri, name)}
            except FileNotFoundError:
                return None  # taken out since the listing
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{uri} cannot be read ({error}): run `triforce corpus verify --repair`") from error

        with ThreadPoolExecutor(1 if storage.is_local(self.folder) else READERS) as pool:
            for begin in range(0, len(names), ROWS):
                rows = [one for one in pool.map(row, names[begin : begin + ROWS]) if one is not None]
                if rows:
                    yield pa.Table.from_pylist(rows, schema=self._full_schema)

    def _remove(self, parts: list[_Part], superseded_since_s: float) -> None:
        if parts and time.time() - superseded_since_s > SUPERSEDED_S:
            for part in parts:
                with contextlib.suppress(OSError):
                    storage.remove(part.uri)


class _Part:
    """An open part."""

    def __init__(self, stack: contextlib.ExitStack, uri: str, schema: pa.Schema) -> None:
        self.uri = uri
        fs, path = storage.resolve(uri)
        self._file = pq.ParquetFile(stack.enter_context(fs.open(path, "rb")))
        self.is_current = self._file.schema_arrow.equals(schema)
        self.num_rows = self._file.metadata.num_rows
        self.live: dict[str, int] = {}
        """Names of the files whose rows count, in order, each with the number of its row."""

    @property
    def written_s(self) -> float:
        """When it was written, as its name says."""
        stem = self.uri.rsplit("/", 1)[-1].split("-")[0]
        return float(stem) if stem.replace(".", "").isdigit() else 0.0

    def find_live(self, stamps: dict[str, str], taken: set[str]) -> None:
        """Find the rows that count and are not ``taken``, and take them."""
        if not self.is_current:  # of another version
            return
        row = 0
        for batch in self._file.iter_batches(batch_size=1 << 16, columns=["name", "stamp"]):
            for name, stamp in zip(batch["name"].to_pylist(), batch["stamp"].to_pylist(), strict=True):
                if stamp and stamps.get(name) == stamp and name not in taken:
                    self.live[name] = row
                row += 1
        taken.update(self.live)

    def rows(self) -> Iterator[pa.Table]:
        """Yield the rows that count, in order."""
        wanted, first = np.fromiter(self.live.values(), np.int64, len(self.live)), 0
        for batch in self._file.iter_batches(batch_size=ROWS):
            low, high = np.searchsorted(wanted, [first, first + len(batch)])
            if high > low:
                yield pa.Table.from_batches([batch]).take(wanted[low:high] - first)
            first += len(batch)


def _in_order(parts: list[_Part]) -> Iterator[pa.Table]:
    """Yield the rows of several parts, each sorted by name, as one."""
    if len(parts) == 1:
        yield from parts[0].rows()
        return
    streams = [part.rows() for part in parts]
    heads = [next(stream, None) for stream in streams]
    while any(head is not None for head in heads):
        # Up to the least of the last names all rows are known.
        bound = min(head["name"][-1].as_py() for head in heads if head is not None)
        taken = []
        for number, head in enumerate(heads):
            if head is None:
                continue
            count = int(np.searchsorted(np.array(head["name"].to_pylist(), dtype=object), bound, side="right"))
            taken.append(head.slice(0, count))
            heads[number] = head.slice(count) if count < len(head) else next(streams[number], None)
        yield pa.concat_tables(taken).sort_by("name")
