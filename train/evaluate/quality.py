"""How sound is to a listener, words aside: DNSMOS, and the Fréchet distance of what Whisper's encoder hears.

Both need no truth to compare a clip with, so they also judge speech from text.
"""

from __future__ import annotations

import numpy as np
import soxr

DNSMOS_RATE_HZ = 16_000
DNSMOS_LEAST_S = 0.2
"""Shorter sound, or none, has no score."""


class FeatureStatistics:
    """Mean and covariance of frames ``(T, D)`` that come in parts."""

    def __init__(self) -> None:
        self.num_frames = 0
        self._sum = np.zeros(0)
        self._outer = np.zeros((0, 0))

    def add(self, frames: np.ndarray) -> None:
        frames = frames.astype(np.float64)
        if not self.num_frames:
            self._sum, self._outer = np.zeros(frames.shape[1]), np.zeros((frames.shape[1], frames.shape[1]))
        self.num_frames += len(frames)
        self._sum += frames.sum(0)
        self._outer += frames.T @ frames

    @property
    def mean(self) -> np.ndarray:
        return self._sum / self.num_frames

    @property
    def covariance(self) -> np.ndarray:
        return self._outer / self.num_frames - np.outer(self.mean, self.mean)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float | None:
    """Of two Gaussians with these means and covariances (Dowson and Landau 1982), as in FID; 0 for the same.

    Few frames make it larger, so it compares systems on the same clips only. None where a side has under two frames.
    """
    if min(a.num_frames, b.num_frames) < 2:
        return None
    root = _square_root(a.covariance)
    # The trace of the root of a product of covariances, by the eigenvalues of a symmetric matrix that shares them.
    shared = np.sqrt(np.linalg.eigvalsh(root @ b.covariance @ root).clip(0)).sum()
    apart = float(((a.mean - b.mean) ** 2).sum())
    return max(0.0, apart + float(np.trace(a.covariance) + np.trace(b.covariance) - 2 * shared))


def _square_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def dnsmos(waveform: np.ndarray, sample_rate_hz: int) -> float:
    """Overall quality, 1 to 5, as listeners would rate it (Reddy et al. 2022, DNSMOS P.835); NaN for hardly any sound.

    Raises ImportError where the extra ``quality`` is missing.
    """
    try:
        from speechmos import dnsmos as model
    except ImportError as error:
        raise ImportError(f"DNSMOS needs {error.name}: pip install 'triforce[quality]'") from error
    if len(waveform) < DNSMOS_LEAST_S * sample_rate_hz:
        return float("nan")
    sound = soxr.resample(np.asarray(waveform, np.float32), sample_rate_hz, DNSMOS_RATE_HZ)
    return float(model.run(np.clip(sound, -1, 1), sr=DNSMOS_RATE_HZ)["ovrl_mos"])
