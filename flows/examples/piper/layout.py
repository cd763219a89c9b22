"""Where the frames of a batch's sentences lie in a few rows of like length, several sentences to a row.

Sentences of one batch differ in length; a row for each would be padding for a third, and every batch would have a shape
of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from triforce.flows.examples.piper.vits import GAP


@dataclass(frozen=True)
class Layout:
    """Rows of frames and the sentences in them."""

    symbols: np.ndarray
    """``(R, F)`` int64: which of the batch's ``B * T`` symbols a frame belongs to; 0 in gaps."""
    mask: np.ndarray
    """``(R, F)`` float32: 1 on frames of sentences."""
    starts: np.ndarray
    """``(B,)`` int64: where each sentence begins, in frames of all rows end to end."""


def lay_out(durations: np.ndarray, num_rows: int, multiple: int = 1) -> Layout:
    """Deal sentences to ``num_rows`` rows, long ones first, each to the row that is the shortest yet.

    ``durations`` ``(B, T)`` are frames of symbols, 0 beyond a sentence's end; the rows' length is rounded up to a
    ``multiple``.
    """
    num_frames = durations.sum(1)
    filled = np.zeros(num_rows, np.int64)
    places = []
    for number in np.argsort(-num_frames, kind="stable"):
        row = int(filled.argmin())
        places.append((number, row, int(filled[row])))
        filled[row] += num_frames[number] + GAP
    length = -(-int(filled.max()) // multiple) * multiple
    symbols, mask = np.zeros((num_rows, length), np.int64), np.zeros((num_rows, length), np.float32)
    starts = np.zeros(len(durations), np.int64)
    first_symbols = np.arange(durations.size).reshape(durations.shape)
    for number, row, start in places:
        own = slice(start, start + int(num_frames[number]))
        symbols[row, own] = np.repeat(first_symbols[number], durations[number])
        mask[row, own] = 1
        starts[number] = row * length + start
    return Layout(symbols, mask, starts)
