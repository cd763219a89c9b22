"""Raw scores of a clip's audio; what they mean for training is decided elsewhere, see `triforce.ingest.filters`."""

from __future__ import annotations

import numpy as np

from triforce.ingest.corpus import SAMPLE_RATE_HZ
from triforce.ingest.vad import frame_levels

CLIP_LEVEL = 0.99
"""Share of full scale from which a sample counts as clipped. Assumed."""
BANDWIDTH_DB = -50.0
"""Level under the loudest frequency at which the band ends; after NeMo's speech data processor."""
SILENCE_DB = 35.0
"""A frame this far under the clip's loud frames is silence. Assumed."""
FFT_SAMPLES = 1024


def score_audio(samples: np.ndarray, sample_rate_hz: int = SAMPLE_RATE_HZ) -> dict[str, float]:
    """Scores of ``(N,) int16`` samples, named as the columns of a clip."""
    level_db = frame_levels(samples, round(0.02 * sample_rate_hz))
    return {
        "snr_db": snr_db(level_db),
        "bandwidth_hz": bandwidth_hz(samples, sample_rate_hz),
        "clipped_share": float(np.mean(np.abs(samples.astype(np.int32)) >= CLIP_LEVEL * 32768.0))
        if len(samples)
        else 0.0,
        "silence_share": silence_share(level_db),
        "rms_dbfs": float(10.0 * np.log10(max(np.mean(10.0 ** (level_db / 10.0)), 1e-10))) if len(level_db) else -100.0,
    }


def snr_db(level_db: np.ndarray) -> float:
    """Signal to noise from frame levels ``(F,)`` in dB: the louder half against the quietest tenth, 0 to 100 dB.

    An estimate: it takes the pauses between words for the noise, so music under the speech counts as noise too.
    """
    if not len(level_db):
        return 0.0
    power = np.sort(10.0 ** (level_db / 10.0))
    noise = float(np.mean(power[: max(1, len(power) // 10)]))
    loud = float(np.mean(power[len(power) // 2 :]))
    return float(np.clip(10.0 * np.log10(max(loud - noise, 1e-10) / max(noise, 1e-10)), 0.0, 100.0))


def silence_share(level_db: np.ndarray) -> float:
    """Share of frames that are far under the loud ones, of ``(F,)`` levels in dB."""
    if not len(level_db):
        return 1.0
    return float(np.mean(level_db < max(float(np.percentile(level_db, 95)) - SILENCE_DB, -70.0)))


def bandwidth_hz(samples: np.ndarray, sample_rate_hz: int = SAMPLE_RATE_HZ) -> float:
    """The highest frequency whose mean power is within 50 dB of the strongest, of ``(N,)`` samples; 0 of silence."""
    num_frames = len(samples) // FFT_SAMPLES
    if not num_frames:
        return 0.0
    # Every second frame: half the time, the same mean.
    frames = samples[: num_frames * FFT_SAMPLES].reshape(num_frames, FFT_SAMPLES)[::2].astype(np.float32) * _WINDOW
    spectrum = np.fft.rfft(frames, axis=1)
    power = np.mean(spectrum.real**2 + spectrum.imag**2, axis=0)[1:]
    if power.max() <= 0.0:
        return 0.0
    last = np.flatnonzero(power >= power.max() * 10.0 ** (BANDWIDTH_DB / 10.0))[-1] + 1
    return float(last * sample_rate_hz / FFT_SAMPLES)


_WINDOW = np.hanning(FFT_SAMPLES).astype(np.float32)
