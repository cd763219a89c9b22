"""Forced alignment: the likeliest path of a clip's frames through the states of what is said (Viterbi)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NEVER = np.float32(-1e30)


class Chain(NamedTuple):
    """The states of a text in their order."""

    states: np.ndarray
    """State of the acoustics, ``(S,)`` int64."""
    skips: np.ndarray
    """Whether the state before it may be left out, ``(S,)`` bool."""


def align(scores: Sequence[np.ndarray], chains: Sequence[Chain]) -> list[np.ndarray]:
    """Return the place in its chain of each frame ``(T,)`` int64 of each clip; empty where it has too few frames.

    ``scores`` are log-densities ``(T, K)``. A path begins in the first place, or the second where the first may be left
    out, and ends in the last or that before it. Clips are worked through side by side, padded to the longest.
    """
    frames, sizes = np.array([len(each) for each in scores]), np.array([len(chain.states) for chain in chains])
    num, longest, widest = len(scores), frames.max(), sizes.max()
    emitted = np.full((longest, num, widest), NEVER, np.float32)
    may_skip = np.zeros((num, widest), bool)
    for row, (each, chain) in enumerate(zip(scores, chains, strict=True)):
        emitted[: frames[row], row, : sizes[row]] = each[:, chain.states]
        may_skip[row, : sizes[row]] = chain.skips
    moves = np.zeros((longest, num, widest), np.int8)
    total = np.full((num, widest), NEVER, np.float32)
    total[:, 0] = 0
    total[:, 1] = np.where(may_skip[:, 1], 0, NEVER)
    total += emitted[0]
    ends = np.zeros((num, widest), np.float32)
    ends[frames == 1] = total[frames == 1]
    barred = np.where(may_skip, np.float32(0), NEVER)
    one, two = (np.full((num, widest), NEVER, np.float32) for _ in range(2))
    for frame in range(1, longest):
        one[:, 1:] = total[:, :-1]
        two[:, 2:] = total[:, :-2]
        two += barred
        best = np.maximum(np.maximum(total, one), two)
        moves[frame] = np.where(best == total, 0, np.where(best == one, 1, 2))
        total = best + emitted[frame]
        done = frames == frame + 1
        if done.any():
            ends[done] = total[done]
    rows = np.arange(num)
    at = sizes - 1
    shorter = (sizes > 1) & (ends[rows, at - 1] > ends[rows, at])  # the last place, a pause, is left out
    at = at - shorter
    reached = ends[rows, at]
    places = np.zeros((longest, num), np.int64)
    for frame in range(longest - 1, -1, -1):
        live = frame < frames
        places[frame] = at
        at = at - np.where(live, moves[frame, rows, at], 0)
    return [places[: frames[row] if reached[row] > NEVER / 2 else 0, row] for row in rows]
