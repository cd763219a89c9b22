"""Mean durations of phonemes, letters and pauses, from words and their times in a pack of speech.

``python tests/benchmarks/measure_durations.py PACK`` prints what `models/reading/interleave.py` has as measured: least
squares, no duration below 0, of each word's time by how often it has each piece.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from triforce.models.reading.interleave import PAUSES, time_words
from triforce.models.reading.phonemes import PUNCTUATION, SYMBOLS, PhonemeTokenizer

FEWEST = 20
"""Occurrences below which a piece is left out."""


def timed_words(path: Path, most: int) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Yield each word of the first ``most`` clips as it is read, in letters, and its duration in seconds."""
    reader = PhonemeTokenizer()
    with (path / "clips.jsonl").open(encoding="utf-8") as lines:
        for _, line in zip(range(most), lines, strict=False):
            clip = json.loads(line)
            found = time_words(reader, clip["text"], [tuple(word) for word in clip["words"]])
            if found is not None:
                for word, start, end in zip(found.words, found.starts_s, found.ends_s, strict=True):
                    yield word.read, word.spelt, end - start


def name_of(symbol: str) -> str | None:
    """Return what is counted as one: stresses 1 and 2, pauses of all kinds; None for what has no time."""
    if symbol in PAUSES:
        return "pause"
    if symbol == " " or symbol in PUNCTUATION:
        return None
    return symbol.replace("2", "1")


def measure(pieces: list[np.ndarray], seconds: np.ndarray) -> tuple[dict[str, float], float]:
    """Return the mean duration in seconds of each kind of piece, and the share of the variance that they explain."""
    names = [name_of(symbol) for symbol in SYMBOLS]
    kinds = sorted({name for name in names if name})
    columns = np.array([[name == kind for kind in kinds] for name in names], dtype=np.float64)
    counts = np.stack([np.bincount(word, minlength=len(SYMBOLS)) @ columns for word in pieces])
    there = counts.sum(0) >= FEWEST
    found, _ = nnls(counts[:, there], seconds)
    explained = 1 - float(np.var(seconds - counts[:, there] @ found) / np.var(seconds))
    return dict(zip(np.array(kinds)[there].tolist(), found.tolist(), strict=True)), explained


def main() -> None:
    """Print both tables in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--most", type=int, default=5000, help="clips at most")
    options = parser.parse_args()
    read, spelt, seconds = zip(*timed_words(options.pack, options.most), strict=True)
    for name, pieces in (("as read", read), ("in letters", spelt)):
        found, explained = measure(list(pieces), np.array(seconds))
        table = " ".join(f"{piece} {1000 * duration:.0f}" for piece, duration in sorted(found.items()))
        print(f"{name}: {len(seconds)} words, R2 {explained:.3f}\n{table}")


if __name__ == "__main__":
    main()
