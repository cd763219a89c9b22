"""What is measured of speech and pictures: wrong words, distance and sharpness of mels, use of the codebook, and the
Fréchet distance of what Whisper's encoder makes of the sound. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from triforce.models.quantize import perplexity

CEPSTRAL_COEFFICIENTS = 24
"""Mel cepstra 1 to 24, the usual order for speech at 24 kHz; coefficient 0 is loudness and stays out."""


class Errors(NamedTuple):
    """Edits that turn a hypothesis into its reference, and the length of the reference."""

    errors: int
    total: int

    @property
    def rate(self) -> float:
        """Edits over the reference's length; with an empty reference 0, or 1 where there are edits."""
        return self.errors / self.total if self.total else float(bool(self.errors))


def pooled(errors: Sequence[Errors]) -> Errors:
    """Return the errors of all texts together, whose rate weighs each text by its length."""
    return Errors(sum(each.errors for each in errors), sum(each.total for each in errors))


def normalize_text(text: str) -> str:
    """Return lower-case words without punctuation, one space between them; apostrophes inside a word stay."""
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
    """Return the text in which errors are counted: `normalize_text`, since words that were shared out have no more, and
    then Whisper's own normaliser (Radford et al. 2022, appendix C), to which "twenty-five" and "25", "colour" and
    "color" are one.
    """
    return _whisper_normalizer(language)(normalize_text(text)).strip()


def word_errors(reference: str, hypothesis: str, language: str = "en") -> Errors:
    """Count word edits between `comparable` texts; with an empty reference, each word of the hypothesis is an error."""
    reference, hypothesis = comparable(reference, language), comparable(hypothesis, language)
    if not reference:
        return Errors(len(hypothesis.split()), 0)
    import jiwer  # not on machines that only train

    result = jiwer.process_words(reference, hypothesis)
    return Errors(result.substitutions + result.deletions + result.insertions, len(reference.split()))


def character_errors(reference: str, hypothesis: str, language: str = "en") -> Errors:
    """Count character edits between `comparable` texts; spaces count."""
    reference, hypothesis = comparable(reference, language), comparable(hypothesis, language)
    if not reference:
        return Errors(len(hypothesis), 0)
    import jiwer

    result = jiwer.process_characters(reference, hypothesis)
    return Errors(result.substitutions + result.deletions + result.insertions, len(reference))


def log_mel_l1(mel: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean absolute difference of two log-mels ``(num_mels, T)``, in nats; 0.115 nats are 1 dB."""
    return float(np.abs(mel - reference).mean())


def sharpness(planes: np.ndarray) -> float:
    """Return the variance of the Laplacian of a log-mel ``(num_mels, T)`` or of planes ``(..., H, W)``.

    A network trained on L1 answers with the median of what is possible, and a median is blurred: harmonics and onsets
    go first. The 5-point Laplacian, by which microscopes focus (Pech-Pacheco et al. 2000), sees just that. Noise is
    sharp too, so this figure means something only beside a word error rate. NaN for under 3 rows or columns.
    """
    if min(planes.shape[-2:]) < 3:
        return float("nan")
    rows = planes[..., :-2, 1:-1] + planes[..., 2:, 1:-1]
    return float((rows + planes[..., 1:-1, :-2] + planes[..., 1:-1, 2:] - 4 * planes[..., 1:-1, 1:-1]).var())


def mel_cepstral_distortion(mel: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean distance of the mel cepstra of two log-mels ``(num_mels, T)``, frame by frame, in dB (Kubichek
    1993)."""
    num_mels = reference.shape[0]
    order = np.arange(1, CEPSTRAL_COEFFICIENTS + 1)[:, None]
    basis = np.cos(np.pi / num_mels * (np.arange(num_mels) + 0.5) * order) * np.sqrt(2 / num_mels)
    cepstra = basis @ (mel - reference).astype(np.float64)
    # Cepstra of log magnitudes by the orthonormal DCT; the factor makes dB of nats, as in speech coding.
    scale = 10 / np.log(10) * np.sqrt(2) * np.sqrt(2 / num_mels)
    return float(scale * np.sqrt((cepstra**2).sum(axis=0)).mean())


class CodebookUse(NamedTuple):
    """How evenly a set of codes uses its codebook."""

    perplexity: float
    """The number of codes that would have this entropy if all were used evenly: the exponential of the entropy."""
    live_share: float
    """Share of the codebook that occurs at all."""
    counts: np.ndarray
    """``(codebook_size,)`` int64."""


def codebook_use(codes: Iterable[np.ndarray], codebook_size: int) -> CodebookUse:
    """Count all of ``codes``. Raises ValueError for a code outside the codebook."""
    counts = np.zeros(codebook_size, dtype=np.int64)
    for part in codes:
        if part.size and not 0 <= part.min() <= part.max() < codebook_size:
            raise ValueError(f"codes from {part.min()} to {part.max()}: this codebook has 0 to {codebook_size - 1}")
        counts += np.bincount(part.ravel(), minlength=codebook_size)
    return CodebookUse(perplexity(counts), float((counts > 0).mean()), counts)


class FeatureStatistics:
    """Mean and covariance of frames ``(T, D)`` that come in parts."""

    def __init__(self, parts: Iterable[np.ndarray] = ()) -> None:
        self.num_frames = 0
        self._sum = np.zeros(0)
        self._outer = np.zeros((0, 0))
        for frames in parts:
            self.add(frames)

    def add(self, frames: np.ndarray) -> None:
        """Count in a part; one without frames changes nothing."""
        if not len(frames):
            return
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
    """Return the distance of two Gaussians with these means and covariances (Dowson and Landau 1982), as in FID.

    Few frames make it larger, so it compares systems on the same clips only. 0 for the same, None where a side has
    under two frames.
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
