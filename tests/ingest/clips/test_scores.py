"""Scores of audio whose properties are known."""

from __future__ import annotations

import numpy as np
import pyloudnorm
import pytest

from triforce.ingest.clips.scores import score_audio
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ


def _samples(waveform: np.ndarray) -> np.ndarray:
    return np.clip(np.round(waveform * 32_768), -32_768, 32_767).astype(np.int16)


def _sine(frequency_hz: float, amplitude: float, seconds: float = 5.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ)


def test_loudness_of_the_norms_own_tone():
    """BS.1770: a 997 Hz sine at full scale in one channel reads -3.01 LKFS."""
    assert score_audio(_samples(_sine(997, 0.99999)))["loudness_lufs"] == pytest.approx(-3.01, abs=0.1)
    assert score_audio(_samples(_sine(997, 0.1)))["loudness_lufs"] == pytest.approx(-23.01, abs=0.1)


def test_loudness_does_not_count_the_pauses():
    speech = _sine(997, 0.1)
    padded = np.concatenate([speech, np.zeros(10 * SAMPLE_RATE_HZ)])
    assert score_audio(_samples(padded))["loudness_lufs"] == pytest.approx(-23.0, abs=0.3)


@pytest.mark.parametrize("level", [0.02, 0.3])
def test_loudness_agrees_with_a_meter_that_filters(level):
    """Speech-like bursts of coloured noise at two levels, with pauses that the gate leaves out."""
    noise = np.random.default_rng(0).normal(0, 1, 12 * SAMPLE_RATE_HZ)
    coloured = np.convolve(noise, np.exp(-np.arange(48) / 6), mode="same")
    gate = np.repeat([1.0, 0.5, 0.0, 0.8, 0.0, 0.2] * 2, SAMPLE_RATE_HZ)
    samples = _samples(level * coloured / np.abs(coloured).max() * gate)
    meter = pyloudnorm.Meter(SAMPLE_RATE_HZ)
    expected = meter.integrated_loudness(samples / 32_768)
    assert score_audio(samples)["loudness_lufs"] == pytest.approx(expected, abs=0.3)


def test_snr_of_bursts_over_noise():
    noise = np.random.default_rng(0).normal(0, 0.01, 5 * SAMPLE_RATE_HZ)
    gate = np.arange(len(noise)) // 12_000 % 2
    scores = score_audio(_samples(_sine(500, 0.1) * gate + noise))
    assert scores["snr_db"] == pytest.approx(17.0, abs=1.0)
    assert scores["modulation_db"] > 5


def test_bandwidth_is_where_the_spectrum_ends():
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * SAMPLE_RATE_HZ)
    assert score_audio(_samples(noise))["bandwidth_hz"] == 12_000
    spectrum = np.fft.rfft(noise)
    spectrum[round(4_000 / 12_000 * len(spectrum)) :] = 0
    assert score_audio(_samples(np.fft.irfft(spectrum)))["bandwidth_hz"] == pytest.approx(4_000, abs=30)


def test_clipping_level_and_silence():
    scores = score_audio(_samples(_sine(200, 1.5)))
    assert scores["clipped_share"] > 0.4
    assert score_audio(_samples(_sine(200, 0.98)))["clipped_share"] == 0
    assert score_audio(_samples(_sine(200, 0.1)))["rms_dbfs"] == pytest.approx(-23.0, abs=0.1)
    half = np.concatenate([_sine(200, 0.1), np.zeros(5 * SAMPLE_RATE_HZ)])
    assert score_audio(_samples(half))["silence_share"] == pytest.approx(0.5, abs=0.01)


def test_an_end_in_the_middle_of_sound_is_seen():
    faded = _sine(200, 0.1) * np.minimum(1, np.minimum(np.arange(120_000), np.arange(120_000)[::-1]) / 6_000)
    assert score_audio(_samples(faded))["edge_db"] < -15
    assert score_audio(_samples(_sine(200, 0.1)))["edge_db"] == pytest.approx(0, abs=1)


@pytest.mark.parametrize("num_samples", [0, 1, 500, 2_400, 24_000])
def test_short_and_silent_clips_have_scores_or_none(num_samples):
    scores = score_audio(np.zeros(num_samples, np.int16))
    assert all(value is None or np.isfinite(value) for value in scores.values())
    assert scores["loudness_lufs"] is None
