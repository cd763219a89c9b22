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


def test_sharpness_is_the_variance_of_scipys_laplacian_and_falls_with_blur() -> None:
    mel = np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)
    expected = ndimage.laplace(mel)[1:-1, 1:-1].var()
    assert metrics.sharpness(mel) == pytest.approx(expected, rel=1e-5)
    assert metrics.sharpness(ndimage.gaussian_filter(mel, 1)) < 0.1 * expected
    assert np.isnan(metrics.sharpness(mel[:, :2]))
    planes = np.stack([mel, 2 * mel, mel])  # of a picture: all planes together
    laplacians = np.stack([ndimage.laplace(plane)[1:-1, 1:-1] for plane in planes])
    assert metrics.sharpness(planes) == pytest.approx(laplacians.var(), rel=1e-5)


def test_cepstral_distortion_is_decibels_of_the_envelope_and_blind_to_loudness() -> None:
    reference = np.random.default_rng(0).normal(size=(100, 7))
    assert metrics.mel_cepstral_distortion(reference + 0.7, reference) == pytest.approx(0, abs=1e-9)
    ripple = np.cos(np.pi / 100 * (np.arange(100) + 0.5) * 6)[:, None]
    # A ripple of A nats over the bins is A * 20 / ln 10 decibels high, and its root mean square is that over sqrt 2.
    expected = 0.3 * 20 / np.log(10) / np.sqrt(2)
    assert metrics.mel_cepstral_distortion(reference + 0.3 * ripple, reference) == pytest.approx(expected)
    assert metrics.log_mel_l1(reference - 0.25, reference) == pytest.approx(0.25)


def test_codebook_use_counts_even_and_lonely_codes() -> None:
    even = metrics.codebook_use([np.arange(8), np.arange(8)], 16)
    assert (even.perplexity, even.live_share) == (pytest.approx(8), 0.5)
    assert metrics.codebook_use([np.zeros(5, np.int64)], 16).perplexity == pytest.approx(1)
    with pytest.raises(ValueError, match="has 0 to 15"):
        metrics.codebook_use([np.array([16])], 16)
