"""What is measured of speech: words lost, distance and sharpness of mels, use of the codebook. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import jiwer
import numpy as np

CEPSTRAL_COEFFICIENTS = 24
"""Mel cepstra 1 to 24, the usual order for speech at 24 kHz; coefficient 0 is loudness and stays out."""


class Interval(NamedTuple):
    """A figure and the bootstrap confidence interval around it."""

    value: float
    low: float
    high: float


class Errors(NamedTuple):
    """Edits that turn what was heard into the truth, and the length of the truth."""

    errors: int
    total: int


def normalize_text(text: str) -> str:
    """Lower-case words without punctuation, one space between them; apostrophes inside a word stay."""
    text = text.lower().replace("’", "'")
    text = re.sub(r"[^\w\s']|_", " ", text)
    return " ".join(word for part in text.split() if (word := part.strip("'")))


@lru_cache(maxsize=8)
def _whisper_normalizer(language: str) -> Callable[[str], str]:
    if language == "en":
        from whisper_normalizer.english import EnglishTextNormalizer

        return EnglishTextNormalizer()
    from whisper_normalizer.basic import BasicTextNormalizer

    return BasicTextNormalizer()


def comparable(text: str, language: str = "en") -> str:
    """Text as errors are counted in it: `normalize_text`, since dealt words have no more, and then Whisper's own
    normaliser (Radford et al. 2022, appendix C), to which "twenty-five" and "25", "colour" and "color" are one.
    """
    return _whisper_normalizer(language)(normalize_text(text)).strip()


def word_errors(truth: str, heard: str, language: str = "en") -> Errors:
    """Word edits between `comparable` texts; an empty truth counts each word heard as an error."""
    truth, heard = comparable(truth, language), comparable(heard, language)
    if not truth:
        return Errors(len(heard.split()), 0)
    result = jiwer.process_words(truth, heard)
    return Errors(result.substitutions + result.deletions + result.insertions, len(truth.split()))


def character_errors(truth: str, heard: str, language: str = "en") -> Errors:
    """Character edits between `comparable` texts; spaces count."""
    truth, heard = comparable(truth, language), comparable(heard, language)
    if not truth:
        return Errors(len(heard), 0)
    result = jiwer.process_characters(truth, heard)
    return Errors(result.substitutions + result.deletions + result.insertions, len(truth))


def resample_clips(num_clips: int, num_resamples: int, seed: int) -> np.ndarray:
    """Clips drawn with replacement, ``(num_resamples, num_clips)`` indices; shared between systems to pair them."""
    return np.random.default_rng(seed).integers(0, num_clips, (num_resamples, num_clips))


def error_rate(errors: Sequence[Errors], draws: np.ndarray, level: float = 0.95) -> Interval:
    """Errors over the length of the truth, with the percentile bootstrap over clips (Efron and Tibshirani 1993)."""
    counts = np.array(errors, dtype=np.float64)
    rates = _pooled(counts[draws])
    return _interval(float(_pooled(counts[None])[0]), rates, level)


def error_rate_difference(a: Sequence[Errors], b: Sequence[Errors], draws: np.ndarray, level: float = 0.95) -> Interval:
    """Error rate of ``a`` minus that of ``b`` on the same clips: paired, so far tighter than two intervals."""
    first, second = np.array(a, dtype=np.float64), np.array(b, dtype=np.float64)
    difference = _pooled(first[draws]) - _pooled(second[draws])
    return _interval(float((_pooled(first[None]) - _pooled(second[None]))[0]), difference, level)


def mean_interval(values: Sequence[float], num_resamples: int, seed: int, level: float = 0.95) -> Interval:
    """The mean over clips, with its percentile bootstrap."""
    array = np.array(values, dtype=np.float64)
    return _interval(float(array.mean()), array[resample_clips(len(array), num_resamples, seed)].mean(1), level)


def _pooled(counts: np.ndarray) -> np.ndarray:
    """``(R, clips, 2)`` errors and totals to ``(R,)`` rates."""
    sums = counts.sum(axis=1)
    return sums[:, 0] / np.maximum(sums[:, 1], 1)


def _interval(value: float, resampled: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def log_mel_l1(mel: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute difference of two log-mels ``(num_mels, T)``, in nats; 0.115 nats are 1 dB."""
    return float(np.abs(mel - truth).mean())


def sharpness(mel: np.ndarray) -> float:
    """Variance of a log-mel's Laplacian: how much changes from bin to bin and frame to frame.

    A network trained on L1 answers with the median of what is possible, and a median is blurred: harmonics and onsets
    go first. The 5-point Laplacian, by which microscopes focus (Pech-Pacheco et al. 2000), sees just that. Noise is
    sharp too, so this figure means something only beside a word error rate. NaN for mels under 3 bins or frames.
    """
    if min(mel.shape) < 3:
        return float("nan")
    middle = mel[1:-1, 1:-1]
    return float((mel[:-2, 1:-1] + mel[2:, 1:-1] + mel[1:-1, :-2] + mel[1:-1, 2:] - 4 * middle).var())


def mel_cepstral_distortion(mel: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of the mel cepstra of two log-mels ``(num_mels, T)``, frame by frame, in dB (Kubichek 1993)."""
    num_mels = truth.shape[0]
    order = np.arange(1, CEPSTRAL_COEFFICIENTS + 1)[:, None]
    basis = np.cos(np.pi / num_mels * (np.arange(num_mels) + 0.5) * order) * np.sqrt(2 / num_mels)
    cepstra = basis @ (mel - truth).astype(np.float64)
    # Cepstra of log magnitudes by the orthonormal DCT; the factor makes dB of nats, as in speech coding.
    scale = 10 / np.log(10) * np.sqrt(2) * np.sqrt(2 / num_mels)
    return float(scale * np.sqrt((cepstra**2).sum(axis=0)).mean())


class CodebookUse(NamedTuple):
    """How a set of codes spreads over its codebook."""

    perplexity: float
    """Codes that would be in use if all were used evenly: the exponential of the entropy."""
    live_share: float
    """Share of the codebook that occurs at all."""
    counts: np.ndarray
    """``(codebook_size,)`` int64."""


def codebook_use(codes: Iterable[np.ndarray], codebook_size: int) -> CodebookUse:
    """Counts over all of ``codes``; a code outside the codebook is an error."""
    counts = np.zeros(codebook_size, dtype=np.int64)
    for part in codes:
        if part.size and not 0 <= part.min() <= part.max() < codebook_size:
            raise ValueError(f"codes from {part.min()} to {part.max()}: this codebook has 0 to {codebook_size - 1}")
        counts += np.bincount(part.ravel(), minlength=codebook_size)
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return CodebookUse(float(np.exp(-(shares * np.log(shares)).sum())), float((counts > 0).mean()), counts)
