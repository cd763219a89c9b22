"""DNSMOS P.835 (Reddy et al. 2022): speech rated as listeners would, from its sound alone.

Needs the extra ``quality``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import soxr

RATE_HZ = 16_000
LEAST_S = 0.2
"""Shorter sound, or none, has no `overall_quality`."""


class DNSMOSScores(NamedTuple):
    """Mean opinion scores, 1 to 5."""

    overall: float
    signal: float
    background: float


class DNSMOS:
    """The model, as ``dnsmos(waveform, sample_rate_hz)``.

    Raises ImportError, with the command that mends it, where it is not installed.
    """

    def __init__(self) -> None:
        try:
            from speechmos import dnsmos
        except ImportError as error:
            raise ImportError(f"DNSMOS needs {error.name}: pip install 'triforce[quality]'") from error
        self._model = dnsmos

    def __call__(self, waveform: np.ndarray, sample_rate_hz: int) -> DNSMOSScores:
        """Rate a sound ``(N,)`` float, cut off at -1 and 1; at least one sample."""
        waveform = np.asarray(waveform, np.float32)
        if sample_rate_hz != RATE_HZ:
            waveform = soxr.resample(waveform, sample_rate_hz, RATE_HZ)
        scores = self._model.run(np.clip(waveform, -1.0, 1.0), RATE_HZ)
        return DNSMOSScores(*(float(scores[f"{name}_mos"]) for name in ("ovrl", "sig", "bak")))


def overall_quality(waveform: np.ndarray, sample_rate_hz: int) -> float:
    """Return the overall score, or NaN for under `LEAST_S` of sound."""
    dnsmos = DNSMOS()
    if len(waveform) < LEAST_S * sample_rate_hz:
        return float("nan")
    return dnsmos(waveform, sample_rate_hz).overall
