"""Columns of any length in flat files, which are read where they lie: what is not asked for takes no memory.

A column of numbers is a file of its values; one of texts is a file of their UTF-8 bytes, one of the offsets between
them, and one that says which are null. Such a folder is only a copy, on a local disk, of what a corpus holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa


class ColumnsWriter:
    """Appends to the columns of a folder."""

    def __init__(self, folder: Path, numbers: Mapping[str, type], texts: Iterable[str]) -> None:
        folder.mkdir(parents=True)
        self._stack = contextlib.ExitStack()
        self._kinds = dict(numbers) | {f"{name}_is_null": np.uint8 for name in texts}
        self._kinds |= {f"{name}_offsets": np.int64 for name in texts}
        self._files = {
            name: self._stack.enter_context((folder / name).open("wb"))
            for name in [*self._kinds, *(f"{name}_bytes" for name in texts)]
        }
        self._ends = dict.fromkeys(texts, 0)
        for name in self._ends:
            self._put(f"{name}_offsets", np.zeros(1))

    def __enter__(self) -> ColumnsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def numbers(self, name: str, values: np.ndarray) -> None:
        """Append values to a column of numbers."""
        self._put(name, values)

    def texts(self, name: str, values: pa.Array) -> None:
        """Append values to a column of texts."""
        array = values.cast(pa.large_string()).fill_null("")
        self._put(f"{name}_is_null", values.is_null().to_numpy(zero_copy_only=False))
        _, offsets_buffer, data = array.buffers()
        offsets = np.frombuffer(offsets_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
        if len(array):
            self._put(f"{name}_offsets", offsets[1:] - offsets[0] + self._ends[name])
            self._files[f"{name}_bytes"].write(memoryview(data or b"")[offsets[0] : offsets[-1]])
            self._ends[name] += int(offsets[-1] - offsets[0])

    def _put(self, name: str, values: np.ndarray) -> None:
        self._files[name].write(np.ascontiguousarray(values, self._kinds[name]).data)


def read_numbers(folder: Path, name: str, kind: type) -> np.ndarray:
    """Return a column of numbers, which lies on the disk."""
    path = folder / name
    return np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)


def read_texts(folder: Path, name: str) -> pa.LargeStringArray:
    """Return a column of texts, which lies on the disk; nulls are empty, ``<name>_is_null`` tells them apart."""
    offsets = pa.memory_map(str(folder / f"{name}_offsets")).read_buffer()
    size = (folder / f"{name}_bytes").stat().st_size
    data = pa.memory_map(str(folder / f"{name}_bytes")).read_buffer() if size else pa.py_buffer(b"")
    return pa.LargeStringArray.from_buffers(offsets.size // 8 - 1, offsets, data)
