"""Metrics against hand calculation, SciPy, and what they must not see."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from triforce.train.evaluate import metrics
from triforce.train.evaluate.metrics import Errors


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert metrics.normalize_text("Press ONE,  now — don’t 'wait'_!") == "press one now don't wait"
    assert metrics.word_errors("Press 1, now.", "press 1 now") == Errors(0, 3)
    assert metrics.word_errors("the pound key", "a pound of key") == Errors(2, 3)
    assert metrics.word_errors("please hold", "") == Errors(2, 2)
    assert metrics.word_errors("...", "thank you") == Errors(2, 0)
    assert metrics.character_errors("cat", "cart") == Errors(1, 3)


def test_spellings_that_whisper_holds_equal_are_no_errors() -> None:
    assert metrics.word_errors("Twenty-five colours don't.", "25 colors do not") == Errors(0, 4)
    assert metrics.word_errors("Straße 5!", "strasse 5", "de").errors == 1  # other languages: letters and spaces alone
    assert metrics.word_errors("Um, yes.", "yes") == Errors(0, 1)


def test_error_rate_pools_words_and_its_interval_covers_the_truth() -> None:
    assert metrics.error_rate([Errors(1, 2), Errors(0, 8)], metrics.resample_clips(2, 500, 0)).value == pytest.approx(
        0.1
    )
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):  # 60 clips of 10 words, one in five of which is wrong
        errors = [Errors(int(wrong), 10) for wrong in rng.binomial(10, 0.2, 60)]
        interval = metrics.error_rate(errors, metrics.resample_clips(60, 400, trial))
        assert interval.low <= interval.value <= interval.high
        covered += interval.low <= 0.2 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_paired_difference_is_tighter_than_the_systems_apart() -> None:
    rng = np.random.default_rng(2)
    hard = rng.integers(0, 9, 50)  # how hard a clip is weighs far more than which system reads it
    before = [Errors(int(errors), 10) for errors in hard]
    after = [Errors(int(errors) + (clip % 5 == 0), 10) for clip, errors in enumerate(hard)]
    draws = metrics.resample_clips(50, 1000, 0)
    difference = metrics.error_rate_difference(after, before, draws)
    assert difference.value == pytest.approx(0.02)
    assert difference.low > 0
    alone = metrics.error_rate(before, draws)
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)
    assert metrics.error_rate_difference(before, before, draws) == (0.0, 0.0, 0.0)


def test_sharpness_is_the_variance_of_scipys_laplacian_and_falls_with_blur() -> None:
    mel = np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)
    expected = ndimage.laplace(mel)[1:-1, 1:-1].var()
    assert metrics.sharpness(mel) == pytest.approx(expected, rel=1e-5)
    assert metrics.sharpness(ndimage.gaussian_filter(mel, 1)) < 0.1 * expected
    assert np.isnan(metrics.sharpness(mel[:, :2]))


def test_cepstral_distortion_is_decibels_of_the_envelope_and_blind_to_loudness() -> None:
    truth = np.random.default_rng(0).normal(size=(100, 7))
    assert metrics.mel_cepstral_distortion(truth + 0.7, truth) == pytest.approx(0, abs=1e-9)
    ripple = np.cos(np.pi / 100 * (np.arange(100) + 0.5) * 6)[:, None]
    # A ripple of A nats over the bins is A * 20 / ln 10 decibels high, and its root mean square is that over sqrt 2.
    expected = 0.3 * 20 / np.log(10) / np.sqrt(2)
    assert metrics.mel_cepstral_distortion(truth + 0.3 * ripple, truth) == pytest.approx(expected)
    assert metrics.log_mel_l1(truth - 0.25, truth) == pytest.approx(0.25)


def test_codebook_use_counts_even_and_lonely_codes() -> None:
    even = metrics.codebook_use([np.arange(8), np.arange(8)], 16)
    assert (even.perplexity, even.live_share) == (pytest.approx(8), 0.5)
    assert metrics.codebook_use([np.zeros(5, np.int64)], 16).perplexity == pytest.approx(1)
    with pytest.raises(ValueError, match="has 0 to 15"):
        metrics.codebook_use([np.array([16])], 16)
