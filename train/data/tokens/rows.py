"""Packed rows of documents: the batches that the GPT trains on, and a fast way to fill them.

Where the documents of a whole epoch lie in one flat array, a row is a list of documents and a batch a few gathers:
millions of tokens a second on one core. Rows come in an endless order that a seed fixes, so that a run resumes at the
exact row.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from triforce.models.blocks.packed_attention import Bounds
from triforce.models.vocabulary import PAD

SHORT = 16
"""Tokens of a document, on average over a batch, from which on its rows can be told by where documents start."""
OPEN_ROWS = 32
"""Rows that are filled side by side: a document goes into the fullest that has room."""


class PackedBatch(NamedTuple):
    """Rows of whole documents side by side, each tensor ``(B, T)``."""

    ids: torch.Tensor
    targets: torch.Tensor
    """The next id of the same document; `PAD` where there is none."""
    weights: torch.Tensor
    """Weight of each target in the loss."""
    positions: torch.Tensor
    """Position in the document, from 0."""
    documents: torch.Tensor
    """Number of the document in the row, from 1; 0 is padding."""
    starts: torch.Tensor | None = None
    """`Bounds.starts` of the rows laid end to end, ``(N + 1,)`` int32; N is the same for all batches of a run."""

    def to(self, device: torch.device) -> PackedBatch:
        """Copy to a device, from pinned memory without waiting."""
        return PackedBatch._make(None if t is None else t.to(device, non_blocking=True) for t in self)

    def pinned(self) -> PackedBatch:
        """Copy to memory that a GPU reads by itself."""
        return PackedBatch._make(None if t is None else t.pin_memory() for t in self)

    @property
    def bounds(self) -> Bounds | None:
        """Where the documents lie; None where it is not known."""
        return None if self.starts is None else Bounds(self.starts, self.ids.shape[1])


def stack(rows: list[list[tuple[np.ndarray, Any]]], context: int) -> PackedBatch:
    """Rows of documents, each ``(ids, weights)``, as tensors padded to ``context``.

    ``starts`` has room for documents of `SHORT` tokens on average; where they are shorter, it is left out.
    """
    shape = (len(rows), context)
    ids, targets = np.full(shape, PAD, np.int64), np.full(shape, PAD, np.int64)
    positions, numbers, weights = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    for r, row in enumerate(rows):
        start = 0
        for number, (document, weight) in enumerate(row, 1):
            stop = start + len(document)
            ids[r, start:stop] = document
            targets[r, start : stop - 1] = document[1:]
            weights[r, start : stop - 1] = weight[1:]
            positions[r, start:stop] = np.arange(len(document))
            numbers[r, start:stop] = number
            start = stop
    begins = np.flatnonzero(np.diff(numbers, axis=1, prepend=-1).reshape(-1))
    room = len(rows) * (context // SHORT + 2)
    starts = np.full(room + 1, ids.size, np.int32)
    starts[: min(len(begins), room + 1)] = begins[: room + 1]
    tensors = (torch.from_numpy(array) for array in (ids, targets, weights, positions, numbers))
    return PackedBatch._make([*tensors, torch.from_numpy(starts) if len(begins) <= room else None])


class FlatDocuments(NamedTuple):
    """Documents end to end."""

    ids: np.ndarray
    """Ids of all, int32 ``(N,)``."""
    weights: np.ndarray
    """Weight of each as a target, float32 ``(N,)``."""
    starts: np.ndarray
    """First token of each document, and the number of all tokens, int64 ``(D + 1,)``; a document may be empty."""


def fill_rows(lengths: np.ndarray, order: np.ndarray, context: int, max_documents: int) -> list[list[int]]:
    """Deal documents into rows of ``context`` tokens and ``max_documents`` at most, in ``order`` as far as they fit.

    Empty and too long documents are left out.
    """
    rows: list[list[int]] = []
    waiting: list[tuple[int, int, list[int]]] = []  # space, number, documents: the least space first
    opened = 0
    for document, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if not 0 < length <= context:
            continue
        at = bisect_left(waiting, (length,))
        if at < len(waiting):
            space, number, row = waiting.pop(at)
        else:
            if len(waiting) == OPEN_ROWS:
                rows.append(waiting.pop(0)[2])
            space, number, row = context, opened, []
            opened += 1
        row.append(document)
        if space == length or len(row) == max_documents:
            rows.append(row)
        else:
            insort(waiting, (space - length, number, row))
    return rows + [row for _, _, row in sorted(waiting, key=lambda entry: entry[1])]


def gather_rows(documents: FlatDocuments, rows: list[list[int]], context: int, num_bounds: int) -> PackedBatch:
    """Return rows, each a list of documents, as a batch; ``num_bounds`` documents and paddings at most."""
    flat = np.array([d for row in rows for d in row], np.int64)
    counts = np.array([len(row) for row in rows])
    firsts = documents.starts[flat]
    lengths = documents.starts[flat + 1] - firsts
    ends = lengths.cumsum()
    of_row = np.repeat(np.arange(len(rows)), counts)
    row_starts = np.concatenate([[0], ends])[np.concatenate([[0], counts.cumsum()[:-1]])]
    places = of_row * context + ends - lengths - row_starts[of_row]  # where each document begins
    within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    source, target = np.repeat(firsts, lengths) + within, np.repeat(places, lengths) + within
    size = len(rows) * context
    ids, positions, numbers = (np.zeros(size + 1, np.int64) for _ in range(3))
    weights = np.zeros(size + 1, np.float32)
    ids[target] = documents.ids[source]
    weights[target] = documents.weights[source]
    positions[target] = within
    numbers[target] = np.repeat(np.arange(len(flat)) - np.repeat(counts.cumsum() - counts, counts) + 1, lengths)
    same = (numbers[1:] == numbers[:-1]) & (numbers[1:] > 0)
    same[context - 1 :: context] = False
    targets = np.where(same, ids[1:], PAD)
    weights = np.where(same, weights[1:], np.float32(0))
    used = np.bincount(of_row, weights=lengths, minlength=len(rows)).astype(np.int64)
    tails = np.arange(len(rows)) * context + used
    bounds = np.unique(np.concatenate([places, tails[used < context]]))
    if len(bounds) > num_bounds:
        raise ValueError(f"{len(bounds)} documents in a batch: room is for {num_bounds}; raise max_documents")
    starts = np.full(num_bounds + 1, size, np.int32)
    starts[: len(bounds)] = bounds
    arrays = (ids[:-1], targets, weights, positions[:-1], numbers[:-1])
    shaped = (torch.from_numpy(array.reshape(len(rows), context)) for array in arrays)
    return PackedBatch._make([*shaped, torch.from_numpy(starts)])


class RowStream:
    """The endless stream of packed rows of documents that may differ from epoch to epoch.

    ``documents(epoch)`` makes an epoch's; the next epoch's are made in a thread while one is read. Row n is the same
    whoever asks for it, and whenever.
    """

    def __init__(self, documents: Callable[[int], FlatDocuments], context: int, seed: int) -> None:
        self._documents, self.context, self._seed = documents, context, seed
        self._executor = ThreadPoolExecutor(1)
        self._ahead: dict[int, Future[tuple[FlatDocuments, list[list[int]]]]] = {}
        self._first_rows = [0]
        first = documents(0)
        lengths = np.diff(first.starts)
        if not ((lengths > 0) & (lengths <= context)).any():
            raise ValueError(
                f"no document fits into context {context}: the shortest of {len(lengths)} has "
                f"{lengths[lengths > 0].min(initial=0)} tokens; raise context, or name layouts that the samples have"
            )
        self.max_documents = 2 * int(np.ceil(context / lengths[lengths > 0].mean())) + 2
        """Documents in a row at most."""
        self.num_too_long = int((lengths > context).sum())
        """Documents of the first epoch that are longer than a row and so left out."""
        self._ahead[0] = self._executor.submit(self._deal, 0, first)

    def batch(self, first_row: int, num_rows: int, stride: int = 1) -> PackedBatch:
        """Return the rows ``first_row``, ``first_row + stride``, ...; batches of one size have tensors of one shape."""
        parts: list[PackedBatch] = []
        rows: list[list[int]] = []
        epoch = -1
        for row in range(first_row, first_row + num_rows * stride, stride):
            found = self._find(row)
            if found != epoch and rows:
                parts.append(self._gather(epoch, rows))
                rows = []
            epoch = found
            rows.append(self._plan(epoch)[1][row - self._first_rows[epoch]])
        parts.append(self._gather(epoch, rows))
        return parts[0] if len(parts) == 1 else join_batches(parts)

    def num_rows(self, epoch: int) -> int:
        """Return the number of rows of an epoch."""
        return len(self._plan(epoch)[1])

    def close(self) -> None:
        """End the thread that reads ahead."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _gather(self, epoch: int, rows: list[list[int]]) -> PackedBatch:
        num_bounds = len(rows) * (self.max_documents + 1)
        return gather_rows(self._plan(epoch)[0], rows, self.context, num_bounds)

    def _find(self, row: int) -> int:
        """Return the epoch that a row belongs to."""
        while self._first_rows[-1] <= row:
            epoch = len(self._first_rows) - 1
            self._first_rows.append(self._first_rows[-1] + len(self._plan(epoch)[1]))
        return bisect_right(self._first_rows, row) - 1

    def _plan(self, epoch: int) -> tuple[FlatDocuments, list[list[int]]]:
        for wanted in (epoch, epoch + 1):
            if wanted not in self._ahead:
                self._ahead[wanted] = self._executor.submit(self._make, wanted)
        for old in [e for e in self._ahead if e < epoch - 1 or e > epoch + 1]:
            self._ahead.pop(old)
        return self._ahead[epoch].result()

    def _make(self, epoch: int) -> tuple[FlatDocuments, list[list[int]]]:
        return self._deal(epoch, self._documents(epoch))

    def _deal(self, epoch: int, documents: FlatDocuments) -> tuple[FlatDocuments, list[list[int]]]:
        lengths = np.diff(documents.starts)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(lengths))
        return documents, fill_rows(lengths, order, self.context, self.max_documents)


def join_batches(parts: list[PackedBatch]) -> PackedBatch:
    """Return the rows of several batches as one."""
    tensors = [torch.cat(list(group)) for group in zip(*(part[:5] for part in parts), strict=True)]
    size = tensors[0].numel()
    offsets = np.cumsum([0, *(part.ids.numel() for part in parts)])
    starts = [part.starts.long() + int(offset) for part, offset in zip(parts, offsets, strict=False)]
    room = sum(len(part) - 1 for part in starts)
    bounds = torch.cat(starts).unique()
    filled = torch.full((room + 1,), size, dtype=torch.int32)
    filled[: min(len(bounds), room + 1)] = bounds[: room + 1].int()
    return PackedBatch._make([*tensors, filled])
