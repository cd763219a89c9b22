"""Confidence intervals by the bootstrap over clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from triforce.train.evaluate.metrics import Errors, FeatureStatistics, frechet_distance


class Interval(NamedTuple):
    """A figure and the bootstrap confidence interval around it."""

    value: float
    low: float
    high: float


def resample_clips(num_clips: int, num_resamples: int, seed: int) -> np.ndarray:
    """Draw clips with replacement: ``(num_resamples, num_clips)`` indices, shared between systems to pair them."""
    return np.random.default_rng(seed).integers(0, num_clips, (num_resamples, num_clips))


def error_rate(errors: Sequence[Errors], draws: np.ndarray, level: float = 0.95) -> Interval:
    """Return errors over the length of the references, with the percentile bootstrap over clips (Efron and Tibshirani
    1993)."""
    counts = np.array(errors, dtype=np.float64)
    rates = _pooled(counts[draws])
    return _interval(float(_pooled(counts[None])[0]), rates, level)


def error_rate_difference(a: Sequence[Errors], b: Sequence[Errors], draws: np.ndarray, level: float = 0.95) -> Interval:
    """Return the error rate of ``a`` minus that of ``b`` on the same clips: paired, so far tighter than two
    intervals."""
    first, second = np.array(a, dtype=np.float64), np.array(b, dtype=np.float64)
    difference = _pooled(first[draws]) - _pooled(second[draws])
    return _interval(float((_pooled(first[None]) - _pooled(second[None]))[0]), difference, level)


def mean_interval(values: Sequence[float], num_resamples: int, seed: int, level: float = 0.95) -> Interval:
    """Return the mean over clips, with its percentile bootstrap."""
    array = np.array(values, dtype=np.float64)
    return _interval(float(array.mean()), array[resample_clips(len(array), num_resamples, seed)].mean(1), level)


def frechet_interval(
    reference: np.ndarray, made: np.ndarray, draws: np.ndarray, level: float = 0.95, *, minus: np.ndarray | None = None
) -> Interval:
    """Return the Fréchet distance of features ``(N, D)`` to those of the same clips' originals, with its bootstrap.

    With ``minus`` it is the distance of ``made`` less that of ``minus``, on the same draws: paired. A draw has fewer
    different clips than there are, so the distances of draws lie above that of all clips; their difference is hardly
    touched.
    """

    def distance(rows: np.ndarray | slice) -> float:
        originals = FeatureStatistics([reference[rows]])
        found = frechet_distance(originals, FeatureStatistics([made[rows]]))
        return found - (0.0 if minus is None else frechet_distance(originals, FeatureStatistics([minus[rows]])))

    return _interval(distance(slice(None)), np.array([distance(rows) for rows in draws]), level)


def _pooled(counts: np.ndarray) -> np.ndarray:
    """Return ``(R,)`` error rates of ``(R, clips, 2)`` errors and totals."""
    sums = counts.sum(axis=1)
    return sums[:, 0] / np.maximum(sums[:, 1], 1)


def _interval(value: float, resampled: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
