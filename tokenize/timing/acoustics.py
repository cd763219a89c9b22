"""What sounds are like in some clips: features of their mels, and a Gaussian for each state of each sound.

The features are cepstra, stacked over time and turned by linear discriminant analysis (Haeb-Umbach and Ney 1992) into
the directions in which states are furthest apart for how far each scatters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RANGE_NATS = 7.0
"""Below the loudest of a clip all is silence, or else the noise of a codec would tell its clips apart. Assumed."""
LOUDEST_PERCENT = 98
"""Percentile of a clip's log-mel that is its loudest. Assumed."""
NUM_CEPSTRA = 20
CONTEXT = (-6, -3, 0, 3, 6)
"""Neighbours of a frame that are stacked: to 64 ms on either side. Assumed."""
NUM_DIRECTIONS = 40
FEWEST_FRAMES = 30
"""Frames of a state that count as much for its spread as what all states scatter. Assumed."""
SMALLEST_VARIANCE = 0.25
"""Of a state in a direction, where all states have 1 on average. Assumed: digital silence has none."""


def cepstra(mel: np.ndarray) -> np.ndarray:
    """Return the cepstra ``(T, NUM_CEPSTRA)`` float32 of a log-mel ``(num_mels, T)``: its cosine transform."""
    floored = np.maximum(mel, np.percentile(mel, LOUDEST_PERCENT) - RANGE_NATS)
    places = (np.arange(len(mel)) + 0.5) * np.pi / len(mel)
    basis = np.cos(np.arange(NUM_CEPSTRA)[:, None] * places) * np.sqrt(2 / len(mel))
    return (basis @ floored).T.astype(np.float32)


def normalised(clips: Sequence[np.ndarray], speakers: Sequence[object]) -> list[np.ndarray]:
    """Return features ``(T, C)`` of clips in units of the mean and spread of their speaker."""
    found = list(clips)
    for speaker in set(speakers):
        own = [number for number, each in enumerate(speakers) if each == speaker]
        rows = np.concatenate([clips[number] for number in own])
        mean, spread = rows.mean(0), rows.std(0) + 1e-3
        for number in own:
            found[number] = (clips[number] - mean) / spread
    return found


def stacked(rows: np.ndarray) -> np.ndarray:
    """Return each frame ``(T, C)`` beside its neighbours, ``(T, len(CONTEXT) * C)``; the ends are repeated."""
    places = np.arange(len(rows))[:, None] + np.array(CONTEXT)
    return rows[places.clip(0, len(rows) - 1)].reshape(len(rows), -1)


class Acoustics(NamedTuple):
    """A Gaussian a state, in the directions of a discriminant analysis."""

    directions: np.ndarray
    """``(C, D)``."""
    means: np.ndarray
    """``(K, D)``."""
    precisions: np.ndarray
    """Inverse variances ``(K, D)``."""
    constants: np.ndarray
    """What of the logarithm of each density does not depend on the features, ``(K,)``."""

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the log-density ``(T, K)`` float32 of features ``(T, C)`` in each state, nats."""
        x = features @ self.directions
        far = (x * x) @ self.precisions.T - 2 * x @ (self.means * self.precisions).T
        return (self.constants - 0.5 * far).astype(np.float32)


def fit(features: np.ndarray, states: np.ndarray, num_states: int) -> Acoustics:
    """Fit to features ``(N, C)`` of frames in known ``states`` ``(N,)``. A state without frames is like all."""
    counts = np.bincount(states, minlength=num_states)
    there, ordered = counts > 0, features[np.argsort(states, kind="stable")]
    bounds = np.concatenate([[0], counts.cumsum()])[:-1][there]
    overall = ordered.mean(0, dtype=np.float64)
    means = np.tile(overall, (num_states, 1))
    means[there] = np.add.reduceat(ordered, bounds, axis=0, dtype=np.float64) / counts[there, None]
    apart = ordered - means.astype(np.float32).repeat(counts, axis=0)
    within = (apart.T @ apart).astype(np.float64) / len(ordered)
    within += (1e-3 * np.trace(within) / len(within) + 1e-6) * np.eye(len(within))
    between = (means - overall) * np.sqrt(counts / counts.sum())[:, None]
    values, vectors = np.linalg.eigh(within)
    whiten = vectors / np.sqrt(values)
    turned = np.linalg.eigh(whiten.T @ (between.T @ between) @ whiten)[1]
    directions = (whiten @ turned[:, ::-1][:, :NUM_DIRECTIONS]).astype(np.float32)
    means = (means @ directions).astype(np.float32)
    variances = np.ones_like(means)
    variances[there] = np.add.reduceat((apart @ directions) ** 2, bounds, axis=0) + FEWEST_FRAMES
    variances[there] /= counts[there, None] + FEWEST_FRAMES
    precisions = 1 / np.maximum(variances, SMALLEST_VARIANCE)
    constants = -0.5 * ((means**2 * precisions).sum(1) - np.log(precisions).sum(1))
    return Acoustics(directions, means, precisions, constants)


def apartness(rows: np.ndarray, kinds: np.ndarray, num_kinds: int) -> float:
    """Return how well features ``(N, C)`` tell the ``kinds`` ``(N,)`` of frames apart: the variance between kinds in
    units of that within, summed over the directions of a discriminant analysis.
    """
    rows = rows - rows.mean(0)
    counts = np.bincount(kinds, minlength=num_kinds)
    there = counts > 0
    sums = np.stack([np.bincount(kinds, weights=column, minlength=num_kinds) for column in rows.T], axis=1)[there]
    between = (sums / counts[there, None]).T @ sums / len(rows)
    within = (rows.T @ rows).astype(np.float64) / len(rows) - between
    within += 1e-6 * np.eye(len(within))
    return float(np.trace(np.linalg.solve(within, between)))
