"""Even loudness, and joins without clicks."""

from __future__ import annotations

import numpy as np

FRAME_S = 0.02
GATE_DB = 20.0
"""Level below the loudest tenth, in dB, from which frames count as pauses. Assumed."""
FADE_S = 0.008
"""Length of the ramp at both ends of a piece: long enough to avoid clicks, too short to cut a consonant. Assumed."""
PEAK = 0.95
KNEE = 0.8
"""Size of samples from which a stream's are bent, as its peak is not known beforehand. Assumed."""


def speech_level_db(waveform: np.ndarray, sample_rate_hz: int) -> float:
    """Return the root mean square of the frames that are speech, in dB under full scale; -inf for silence."""
    size = int(FRAME_S * sample_rate_hz)
    padded = np.pad(waveform.astype(np.float64), (0, -len(waveform) % size))
    power = (padded.reshape(-1, size) ** 2).mean(1)
    if not power.size or power.max() <= 1e-12:
        return -np.inf
    loud = power >= np.quantile(power, 0.9) * 10 ** (-GATE_DB / 10)
    return float(10 * np.log10(power[loud].mean()))


def level(waveform: np.ndarray, sample_rate_hz: int, target_db: float) -> np.ndarray:
    """Scale to ``target_db``, as far as peaks stay under `PEAK`; silence stays silence."""
    now = speech_level_db(waveform, sample_rate_hz)
    if not np.isfinite(now):
        return waveform
    gain = min(10 ** ((target_db - now) / 20), PEAK / max(float(np.abs(waveform).max()), 1e-9))
    return (waveform * gain).astype(np.float32)


def limited(waveform: np.ndarray) -> np.ndarray:
    """Bend what is over `KNEE` so that nothing is over full scale; sample by sample, so that parts fit together."""
    size = np.abs(waveform)
    bent = KNEE + (1 - KNEE) * np.tanh((size - KNEE) / (1 - KNEE))
    return np.where(size > KNEE, np.copysign(bent, waveform), waveform).astype(np.float32)


def faded(waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Remove the constant part and fade both ends with half-cosine ramps of `FADE_S`."""
    size = min(int(FADE_S * sample_rate_hz), len(waveform) // 2)
    if size < 1:
        return waveform
    ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(size) + 0.5) / size)).astype(np.float32)
    waveform = (waveform - waveform.mean()).astype(np.float32)
    waveform[:size] *= ramp
    waveform[-size:] *= ramp[::-1]
    return waveform


def silence(seconds: float, sample_rate_hz: int) -> np.ndarray:
    """Return ``(N,)`` float32 zeros."""
    return np.zeros(round(seconds * sample_rate_hz), np.float32)
