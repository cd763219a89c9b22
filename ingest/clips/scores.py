"""Raw scores of a clip's audio; `triforce.ingest.clips.filters` decides what they mean for training."""

from __future__ import annotations

from functools import cache

import numpy as np

from triforce.ingest.clips.vad import frame_levels
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ
from triforce.ingest.media.samples import FULL_SCALE

CLIP_LEVEL = 0.99
"""Share of full scale from which a sample counts as clipped. Assumed."""
BANDWIDTH_DB = -50.0
"""Level under the loudest frequency at which the band ends; after NeMo's speech data processor."""
SILENCE_DB = 35.0
"""A frame this far under the clip's loud frames is silence. Assumed."""
SEGMENT_S = 0.1
"""Spectra are taken over this much: four of them are a block of ITU-R BS.1770's gating, seconds."""
EDGE_S = 0.02


def score_audio(samples: np.ndarray, sample_rate_hz: int = SAMPLE_RATE_HZ) -> dict[str, float | None]:
    """Score ``(N,) int16`` samples, by the names of a clip's columns; a score is None where the clip is too short or
    silent for it."""
    level_db = frame_levels(samples, round(EDGE_S * sample_rate_hz))
    power = power_spectra(samples, sample_rate_hz)
    full_scale = CLIP_LEVEL * FULL_SCALE
    return {
        "snr_db": snr_db(level_db),
        "bandwidth_hz": bandwidth_hz(power, sample_rate_hz),
        "clipped_share": float(np.mean((samples >= full_scale) | (samples <= -full_scale))) if len(samples) else 0.0,
        "silence_share": silence_share(level_db),
        "rms_dbfs": float(10.0 * np.log10(max(np.mean(10.0 ** (level_db / 10.0)), 1e-10))) if len(level_db) else -100.0,
        "loudness_lufs": loudness_lufs(power, sample_rate_hz),
        "modulation_db": modulation_db(level_db),
        "edge_db": edge_db(level_db),
    }


def snr_db(level_db: np.ndarray) -> float:
    """Estimate signal to noise from frame levels ``(F,)``: the louder half against the quietest tenth, 0 to 100 dB.

    It takes the pauses between words for the noise, so music under the speech counts as noise too.
    """
    if not len(level_db):
        return 0.0
    power = np.sort(10.0 ** (level_db / 10.0))
    noise = float(np.mean(power[: max(1, len(power) // 10)]))
    loud = float(np.mean(power[len(power) // 2 :]))
    return float(np.clip(10.0 * np.log10(max(loud - noise, 1e-10) / max(noise, 1e-10)), 0.0, 100.0))


def silence_share(level_db: np.ndarray) -> float:
    """Return the share of frames that are far under the loud ones, of ``(F,)`` levels in dB."""
    if not len(level_db):
        return 1.0
    return float(np.mean(level_db < max(float(np.percentile(level_db, 95)) - SILENCE_DB, -70.0)))


def modulation_db(level_db: np.ndarray) -> float | None:
    """Return the standard deviation of ``(F,)`` levels, no deeper than 40 dB under the loud ones.

    Syllables and pauses move the level of speech; held chords and steady noise hardly do (after the low-energy share
    of Scheirer and Slaney 1997). A hint, not a classifier.
    """
    if len(level_db) < 50:
        return None
    return float(np.std(np.maximum(level_db, np.percentile(level_db, 95) - 40.0)))


def edge_db(level_db: np.ndarray) -> float | None:
    """Return the level of the louder of the first and last frame of ``(F,)``, in dB against the loud frames: near 0
    where sound is cut."""
    return float(max(level_db[0], level_db[-1]) - np.percentile(level_db, 95)) if len(level_db) else None


def power_spectra(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Return the power spectrum of each whole tenth of a second of ``(N,) int16``, ``(S, bins) float32``; the sum over
    bins is the mean square."""
    length = round(SEGMENT_S * sample_rate_hz)
    num_segments = len(samples) // length
    window = np.hanning(length).astype(np.float32)
    segments = samples[: num_segments * length].reshape(num_segments, length) * window
    spectrum = np.fft.rfft(segments, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    power[:, 1:-1] *= 2.0
    return power / (length * float(np.sum(window**2)) * FULL_SCALE**2)


def bandwidth_hz(power: np.ndarray, sample_rate_hz: int) -> float | None:
    """Return the highest frequency whose mean power is within 50 dB of the strongest, of spectra ``(S, bins)``; None of
    silence."""
    if not len(power):
        return None
    mean = power.mean(axis=0)[1:]
    if mean.max() <= 1e-13:
        return None
    last = np.flatnonzero(mean >= mean.max() * 10.0 ** (BANDWIDTH_DB / 10.0))[-1] + 1
    return float(last / SEGMENT_S) if last / SEGMENT_S < sample_rate_hz / 2 else sample_rate_hz / 2


def loudness_lufs(power: np.ndarray, sample_rate_hz: int) -> float | None:
    """Return the integrated loudness by ITU-R BS.1770-4 from spectra ``(S, bins)``.

    K-weighted, gated at -70 LUFS and at 10 LU under the mean of the rest. The weighting is applied to the spectra, so
    the result differs from a filter's by some hundredths of a dB; pyloudnorm would filter the samples once more, where
    the spectra are there anyway.
    """
    if len(power) < 4:
        return None
    weighted = power @ _k_weighting(power.shape[1], sample_rate_hz)
    blocks = np.convolve(weighted, np.full(4, 0.25), mode="valid")
    for limit in (-70.0, None):
        floor = limit if limit is not None else _lufs(float(blocks.mean())) - 10.0
        blocks = blocks[blocks > 10.0 ** ((floor + 0.691) / 10.0)]
        if not len(blocks):
            return None
    return _lufs(float(blocks.mean()))


def _lufs(mean_square: float) -> float:
    return -0.691 + 10.0 * float(np.log10(max(mean_square, 1e-12)))


@cache
def _k_weighting(num_bins: int, sample_rate_hz: int) -> np.ndarray:
    """Return the power response of BS.1770's two filters at the bins, ``(bins,) float32``.

    The norm states their coefficients at 48 kHz, so their response is that at 48 kHz whatever the rate of the samples.
    """
    z = np.exp(-2j * np.pi * np.linspace(0, sample_rate_hz / 2, num_bins) / 48_000)
    shelf = (1.53512485958697 - 2.69169618940638 * z + 1.19839281085285 * z**2) / (
        1 - 1.69065929318241 * z + 0.73248077421585 * z**2
    )
    high_pass = (1 - 2 * z + z**2) / (1 - 1.99004745483398 * z + 0.99007225036621 * z**2)
    return (np.abs(shelf * high_pass) ** 2).astype(np.float32)
