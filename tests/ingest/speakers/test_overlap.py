"""How much of a clip two voices speak at once."""

from __future__ import annotations

import numpy as np
import pytest
import soxr

from triforce.ingest.speakers.overlap import RATE_HZ, overlap_share

SENTENCES = (
    "The ship left the harbour before the sun had risen over the hills.",
    "She wrote a short letter to her brother and folded it twice.",
    "In the morning, the market was already full of people.",
    "He counted the coins again, slowly, and put them into the drawer.",
)
HIGHER = 1.4


def voice(pitches_hz: np.ndarray, seed: int = 0) -> np.ndarray:
    """Four seconds of a harmonic sound whose pitch glides through ``pitches_hz``."""
    time_s = np.arange(4 * RATE_HZ) / RATE_HZ
    pitch = np.interp(time_s, np.linspace(0, 4, len(pitches_hz)), pitches_hz)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    tones = sum(np.sin(number * phase + seed * number) / number for number in range(1, 12))
    return (0.1 * tones).astype(np.float32)


def test_two_pitches_are_told_from_one():
    low, high = voice(np.array([100, 110, 120, 105])), voice(np.array([230, 200, 215, 240]), 1)
    assert overlap_share(low) < 0.05
    assert overlap_share(high) < 0.05
    assert overlap_share(low + high) > 0.4
    half = low.copy()
    half[: len(half) // 2] += high[: len(half) // 2]
    assert 0.5 * overlap_share(low + high) == pytest.approx(overlap_share(half), rel=0.4)


def test_noise_is_no_second_voice():
    noise = np.random.default_rng(0).normal(0, 0.01, 4 * RATE_HZ).astype(np.float32)
    assert overlap_share(voice(np.array([100, 120, 110])) + noise) < 0.05
    assert overlap_share(noise) is None
    assert overlap_share(noise[:100]) is None


def test_a_voice_and_two_at_once(spoken):
    low = [soxr.resample(spoken(text), 24_000, RATE_HZ) for text in SENTENCES]
    high = [soxr.resample(spoken(text), 24_000, RATE_HZ / HIGHER) for text in SENTENCES]
    alone = [overlap_share(clip) for clip in (*low, *high)]
    pairs = zip(low, high[1:] + high[:1], strict=True)
    mixed = [overlap_share(one + np.resize(other, len(one))) for one, other in pairs]
    assert np.mean(mixed) > 1.7 * np.mean(alone)
