"""Classifiers of digits that were trained on real data alone, and know nothing of our networks."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from triforce.flows.examples.digits.data import WORDS
from triforce.models.audio.mel import MelConfig, log_mel

SPEECH_FRAMES = 24
"""Frames, of `SPEECH_BANDS` bands, that a spoken word is stretched to. Assumed."""
SPEECH_BANDS = 25


class ImageJudge:
    """A support vector machine on the pixels of handwritten digits (RBF kernel, gamma as scikit-learn's example)."""

    def __init__(self, images: Sequence[np.ndarray], words: Sequence[str]) -> None:
        from sklearn.svm import SVC

        self._classifier = SVC(gamma=0.001, C=10).fit(np.stack([_grey(image) for image in images]), list(words))

    def __call__(self, images: Sequence[np.ndarray]) -> list[str]:
        """Return the words of images ``(8, 8, 3)`` uint8."""
        return list(self._classifier.predict(np.stack([_grey(image) for image in images])))


def _grey(image: np.ndarray) -> np.ndarray:
    return image.mean(-1).reshape(-1) * (16 / 255)


class SpeechJudge:
    """A support vector machine on the shape of a word's mel spectrogram."""

    def __init__(self, waveforms: Sequence[np.ndarray], words: Sequence[str]) -> None:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        features = np.stack([word_shape(waveform) for waveform in waveforms])
        self._classifier = make_pipeline(StandardScaler(), SVC(C=10)).fit(features, list(words))

    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Return the words of ``(N,)`` float32 at 24 kHz; "" for a sound too short for a word."""
        long = [index for index, waveform in enumerate(waveforms) if len(waveform) >= 2400]
        heard = [""] * len(waveforms)
        if long:
            found = self._classifier.predict(np.stack([word_shape(waveforms[index]) for index in long]))
            for index, word in zip(long, found, strict=True):
                heard[index] = str(word)
        return heard


def word_shape(waveform: np.ndarray) -> np.ndarray:
    """Return the features of a word: its log-mel without the mean level, at a fixed size."""
    mel = log_mel(torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32)), _front_end())
    level = mel.mean(0)
    loud = torch.nonzero(level > level.max() - 0.6 * (level.max() - level.min()))[:, 0]
    mel = mel[:, int(loud[0]) : int(loud[-1]) + 1]
    size = (SPEECH_BANDS, SPEECH_FRAMES)
    small = torch.nn.functional.interpolate(mel[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    return (small - small.mean()).flatten().numpy()


@functools.cache
def _front_end() -> MelConfig:
    return MelConfig()


def read_word(text: str) -> str:
    """Return the digit's word in a transcript, as in "7." or " Seven!"; "" where there is none."""
    cleaned = "".join(c for c in text.lower() if c.isalnum() or c == " ").split()
    for part in cleaned:
        if part in WORDS:
            return part
        if part.isdigit() and len(part) == 1:
            return WORDS[int(part)]
    return ""
