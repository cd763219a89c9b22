"""How a set of shards uses its codebook: how often each code occurs, what follows what, and where to hear it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from triforce.tokenize.plan import read_meta
from triforce.tokenize.shards import list_shards, read_shard


@dataclass(frozen=True)
class Occurrence:
    clip_id: str
    recording_id: str
    source: str
    position: int
    """Along the clip's codes, flattened."""


@dataclass(frozen=True)
class CodeUsage:
    modality: str
    counts: np.ndarray
    """``(num_codes,)`` occurrences."""
    top: np.ndarray
    """The most frequent codes, the first first."""
    transitions: np.ndarray
    """``(len(top), len(top))`` how often the second follows the first."""
    followers: np.ndarray
    """``(len(top),)`` how often anything follows the first."""
    occurrences: list[list[Occurrence]]
    """A few of each of ``top``, spread over clips."""


def code_usage(tokens: str, *, num_top: int = 32, num_occurrences: int = 3, seed: int = 0) -> CodeUsage:
    """Two readings of the shards: one counts, one looks the frequent codes up."""
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
        for code in np.unique(ranks[ranks >= 0]):  # one place a clip, by reservoir sampling over clips
            seen[code] += 1
            slot = len(kept[code]) if len(kept[code]) < num_occurrences else int(generator.integers(seen[code]))
            if slot < num_occurrences:
                position = int(generator.choice(np.flatnonzero(ranks == code)))
                about = sample.metadata
                found = Occurrence(sample.clip_id, about["recording_id"], about["source"], position)
                kept[code][slot : slot + 1] = [found]
    return CodeUsage(meta["modality"], counts, top, transitions, followers, kept)


def _samples(tokens: str):
    return (sample for uri in list_shards(tokens) for sample in read_shard(uri))
