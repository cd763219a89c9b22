"""Use of the codebook by a set of shards: how often each code occurs, what follows it, and where it occurs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from triforce.tokenize.plan import read_meta
from triforce.tokenize.shards import list_shards, read_shard
from triforce.tokenize.token_sample import TokenSample


@dataclass(frozen=True)
class Occurrence:
    """A place where a code occurs."""

    clip_id: str
    recording_id: str
    source: str
    position: int
    """Index into the clip's flattened codes."""


@dataclass(frozen=True)
class CodeUsage:
    """Use of the codebook."""

    modality: str
    counts: np.ndarray
    """Occurrences of each code, ``(num_codes,)``."""
    top: np.ndarray
    """Most frequent codes, in descending order of frequency."""
    transitions: np.ndarray
    """Counts ``(len(top), len(top))`` of how often the second code follows the first."""
    followers: np.ndarray
    """Counts ``(len(top),)`` of how often any code follows."""
    occurrences: list[list[Occurrence]]
    """A few occurrences of each of ``top``, in different clips."""


def code_usage(tokens: str, *, num_top: int = 32, num_occurrences: int = 3, seed: int = 0) -> CodeUsage:
    """Read the shards twice: count all codes, then find transitions and occurrences of the frequent ones."""
    meta = read_meta(tokens)
    counts = np.zeros(meta["num_codes"], np.int64)
    for sample in _samples(tokens):
        counts += np.bincount(sample.codes.ravel(), minlength=len(counts))
    top = np.argsort(-counts, kind="stable")[: min(num_top, int((counts > 0).sum()))]
    rank = np.full(len(counts), -1)
    rank[top] = np.arange(len(top))
    transitions, followers = np.zeros((len(top), len(top)), np.int64), np.zeros(len(top), np.int64)
    kept: list[list[Occurrence]] = [[] for _ in top]
    seen, generator = np.zeros(len(top), np.int64), np.random.default_rng(seed)
    for sample in _samples(tokens):
        ranks = rank[sample.codes.ravel()]
        first, second = ranks[:-1], ranks[1:]
        np.add.at(followers, first[first >= 0], 1)
        both = (first >= 0) & (second >= 0)
        np.add.at(transitions, (first[both], second[both]), 1)
        for code in np.unique(ranks[ranks >= 0]):  # one occurrence a clip, by reservoir sampling over clips
            seen[code] += 1
            slot = len(kept[code]) if len(kept[code]) < num_occurrences else int(generator.integers(seen[code]))
            if slot < num_occurrences:
                position = int(generator.choice(np.flatnonzero(ranks == code)))
                about = sample.metadata
                found = Occurrence(sample.clip_id, about["recording_id"], about["source"], position)
                kept[code][slot : slot + 1] = [found]
    return CodeUsage(meta["modality"], counts, top, transitions, followers, kept)


def _samples(tokens: str) -> Iterator[TokenSample]:
    return (sample for uri in list_shards(tokens) for sample in read_shard(uri))
