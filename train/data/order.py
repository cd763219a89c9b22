"""Clips and token documents in a random order that a seed fixes, shared out over workers, and resumed at the exact
sample.

Data lies in groups that are read whole (row groups of Parquet, tar shards). Each epoch permutes the groups, and the
clips within windows of groups, so reading stays sequential in pieces and memory bounded. A worker's place is one
number, its position in the endless order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from triforce.ingest.corpus.records import split_draw

T = TypeVar("T")
WINDOW_GROUPS = 16
"""Groups that are mixed with each other: 16 row groups are about 500 clips. Assumed."""


def is_validation(clip_id: str, share: float) -> bool:
    """Whether a clip is kept from training: by its id alone, so it stays out whatever else is in the corpus."""
    return split_draw(clip_id) < share * 2**32


@dataclass(frozen=True)
class Part:
    """The clips that training sees, or those that it does not."""

    validation_share: float
    is_validation: bool = False

    def __contains__(self, clip_id: str) -> bool:
        return is_validation(clip_id, self.validation_share) == self.is_validation

    def has(self, draws: np.ndarray) -> np.ndarray:
        """Whether clips are in it, bool ``(N,)``, by the first 32 bits ``(N,)`` of the SHA-256 of their ids."""
        return (draws < self.validation_share * 2**32) == self.is_validation


class ShuffledOrder:
    """Maps a position in the endless order to ``(group, row)``. Of rows only one window's are in memory."""

    def __init__(self, group_sizes: Sequence[int] | np.ndarray, seed: int) -> None:
        self.group_sizes = np.asarray(group_sizes, np.int64)
        self.epoch_length = int(self.group_sizes.sum())
        self.seed = seed
        self._epoch = -1
        self._window: tuple[int, np.ndarray] = (-1, np.empty((0, 2), np.int64))
        if not self.epoch_length:
            raise ValueError(
                "nothing to train on: no clip is kept; run `triforce ingest`, loosen the filters, or lower "
                "validation_share"
            )

    def __call__(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.epoch_length)
        if epoch != self._epoch:
            self._epoch = epoch
            self._groups = np.random.default_rng([self.seed, epoch]).permutation(len(self.group_sizes))
            firsts = np.arange(0, len(self._groups), WINDOW_GROUPS)
            sizes = np.add.reduceat(self.group_sizes[self._groups], firsts)
            self._window_starts = np.concatenate([[0], sizes.cumsum()])
            self._window = (-1, self._window[1])
        if not self._window_starts[self._window[0]] <= place < self._window_starts[self._window[0] + 1]:
            window = int(np.searchsorted(self._window_starts, place, side="right")) - 1
            members = self._groups[window * WINDOW_GROUPS : (window + 1) * WINDOW_GROUPS]
            pairs = np.array([(group, row) for group in members for row in range(self.group_sizes[group])])
            self._window = (window, np.random.default_rng([self.seed, epoch, window]).permutation(pairs))
        group, row = self._window[1][place - self._window_starts[self._window[0]]]
        return int(group), int(row)


class FlatOrder:
    """Maps many positions of the endless order at once to indices below ``length``: each epoch is one permutation."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed = length, seed
        self._epochs: dict[int, np.ndarray] = {}

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Indices ``(N,)`` int64 of positions ``(N,)``."""
        epochs, places = np.divmod(positions, self.length)
        found = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            found[here] = self._permutation(epoch)[places[here]]
        return found

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            self._epochs = {old: order for old, order in self._epochs.items() if old >= epoch - 1}
            self._epochs[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.length)
        return self._epochs[epoch]


def uniforms(positions: np.ndarray, seed: int) -> np.ndarray:
    """A number from 0 to below 1 for each position ``(N,)``, the same each time (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = positions.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 2**53


class GroupCache(Generic[T]):
    """Keeps the groups read last, up to a number of bytes."""

    def __init__(self, read: Callable[[int], tuple[T, int]], max_bytes: int) -> None:
        self._read, self._max_bytes, self._bytes = read, max_bytes, 0
        self._groups: OrderedDict[int, tuple[T, int]] = OrderedDict()

    def __getitem__(self, group: int) -> T:
        if group in self._groups:
            self._groups.move_to_end(group)
            return self._groups[group][0]
        value, size = self._read(group)
        self._groups[group] = (value, size)
        self._bytes += size
        while self._bytes > self._max_bytes and len(self._groups) > 1:
            self._bytes -= self._groups.popitem(last=False)[1][1]
        return value


class Place:
    """Where a worker is in the endless order: it takes positions ``rank``, ``rank + num_workers``, ..."""

    def __init__(self, rank: int, num_workers: int) -> None:
        self.rank, self.num_workers, self.taken = rank, num_workers, 0

    def next(self) -> int:
        position = self.taken * self.num_workers + self.rank
        self.taken += 1
        return position

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` positions, ``(count,)`` int64."""
        first = self.taken * self.num_workers + self.rank
        self.taken += count
        return first + self.num_workers * np.arange(count, dtype=np.int64)

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken, "num_workers": self.num_workers}

    def resume(self, places: list[dict[str, Any]]) -> None:
        """Go on from the places of all workers, each from its own.

        With another number of workers the order is kept and all start where the slowest was: some samples come again,
        none is lost.
        """
        if len(places) == self.num_workers:
            self.taken = places[self.rank]["taken"]
        else:
            self.taken = min(place["taken"] * place["num_workers"] for place in places) // self.num_workers
