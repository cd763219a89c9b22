"""Packing clips into Whisper's windows: neighbours in order for transcripts, first-fit decreasing for evaluation.

Whisper's encoder takes 30 s at a time, so several clips share a window, with silence between.
All lengths are in samples at one rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """Clips that are encoded together."""

    clips: tuple[int, ...]
    """Indices of the clips, in the order in which they lie in the window."""
    starts: tuple[int, ...]
    """First sample of each clip in the window."""
    num_samples: int
    """Length of the window, with the silence behind its last clip, if any."""

    def waveform(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Return the window's sound ``(num_samples,)`` float32 with its clips in place and zeros elsewhere."""
        waveform = np.zeros(self.num_samples, np.float32)
        for index, start in zip(self.clips, self.starts, strict=True):
            waveform[start : start + len(clips[index])] = clips[index]
        return waveform


def one_each(clips: Sequence[np.ndarray]) -> list[Window]:
    """Return a window for each clip that has any sample."""
    return [Window((index,), (0,), len(clip)) for index, clip in enumerate(clips) if clip.size]


def pack_in_order(clips: Sequence[np.ndarray], gap: int, capacity: int) -> list[Window]:
    """Pack neighbouring clips, ``gap`` samples apart, while they fit into ``capacity``.

    A clip longer than ``capacity`` has a window of its own.
    """
    windows: list[Window] = []
    for index, clip in enumerate(clips):
        last = windows[-1] if windows else None
        if last is not None and last.num_samples + gap + len(clip) <= capacity:
            start = last.num_samples + gap
            windows[-1] = Window((*last.clips, index), (*last.starts, start), start + len(clip))
        else:
            windows.append(Window((index,), (0,), len(clip)))
    return windows


def pack_first_fit(clips: Sequence[np.ndarray], gap: int, capacity: int) -> list[Window]:
    """Pack clips by first-fit decreasing, each with ``gap`` samples of silence behind it; empty clips are left out.

    A clip that does not fit into ``capacity`` with its gap has a window of its own, longer than that.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted((i for i, clip in enumerate(clips) if clip.size), key=lambda i: (-clips[i].size, i)):
        need = clips[index].size + gap
        slot = next((slot for slot, free in enumerate(room) if free >= need), None)
        if slot is None:
            slot = len(bins)
            bins.append([])
            room.append(capacity)
        bins[slot].append(index)
        room[slot] -= need
    return [_with_gaps(indices, clips, gap) for indices in bins]


def _with_gaps(indices: Sequence[int], clips: Sequence[np.ndarray], gap: int) -> Window:
    ends = np.cumsum([clips[index].size + gap for index in indices]).tolist()
    return Window(tuple(indices), (0, *ends[:-1]), ends[-1])


def batches_of_like_length(windows: Sequence[Window], batch_size: int) -> Iterator[list[Window]]:
    """Yield windows in batches, shortest first: a batch takes the encoder as long as its longest window."""
    ordered = sorted(windows, key=lambda window: window.num_samples)
    for first in range(0, len(ordered), batch_size):
        yield ordered[first : first + batch_size]
