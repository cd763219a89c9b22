"""Which language each clip is in, before its words are believed.

An English-only Whisper writes fluent English of any language. A multilingual one tells the languages apart in a single
pass of its encoder and one step of its decoder, and the first seconds of a clip are enough for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from triforce.ingest.asr.whisper import MEL_FRAME_SAMPLES, RATE_HZ, WINDOW_SAMPLES, Whisper

CROP_S = 3.0
"""Seconds of a clip that are listened to. Measured on 113 clips of six languages with Whisper base: 8 s tell no more
and take 2.3 times as long, and of the 11 that 3 s leave open the whole clip in a window of 30 s settles 5."""

TAIL_S = 0.5
"""Silence behind the crop, seconds. Assumed."""

EXPECTED_ODDS = 3.0
"""By how much the expected language is more probable than any other, before anything is heard. Where the sound is clear
the odds are hundreds to one, and what a source states is wrong often enough. Assumed."""

TERMINOLOGY = {
    "ara": "ar", "ces": "cs", "cze": "cs", "chi": "zh", "cmn": "zh", "zho": "zh", "dan": "da", "deu": "de", "ger": "de",
    "dut": "nl", "nld": "nl", "ell": "el", "gre": "el", "eng": "en", "fas": "fa", "per": "fa", "fin": "fi", "fra": "fr",
    "fre": "fr", "heb": "he", "iw": "he", "hin": "hi", "hun": "hu", "in": "id", "ind": "id", "ita": "it", "jpn": "ja",
    "kor": "ko", "nb": "no", "nob": "no", "nor": "no", "pol": "pl", "por": "pt", "ron": "ro", "rum": "ro", "rus": "ru",
    "spa": "es", "swe": "sv", "tur": "tr", "ukr": "uk", "vie": "vi",
}  # fmt: skip
"""Whisper's code for other codes that feeds and libraries state: ISO 639-2, and withdrawn ones."""


@dataclass(frozen=True)
class Judged:
    """The language of a clip."""

    language: str
    probability: float | None
    """Given what was expected; None where nothing was heard of it."""


class LanguageJudge:
    """Tells the languages of clips with a multilingual Whisper."""

    def __init__(self, whisper: Whisper, batch_size: int, min_probability: float):
        if not whisper.is_multilingual:
            raise ValueError(
                f"language_model {whisper.model!r} knows only English: use a multilingual one, such as 'base'"
            )
        self.whisper, self._batch_size, self._min_probability = whisper, batch_size, min_probability

    def knows(self, language: str | None) -> bool:
        """Return whether it can tell a language, by its code."""
        return self.whisper.knows(language)

    def probabilities(self, clips: Sequence[np.ndarray]) -> list[dict[str, float]]:
        """Return the probability of each language for each clip ``(N,) float32`` at Whisper's rate.

        A clip whose first seconds leave it open is listened to as a whole.
        """
        found = self._listen([clip[: round(CROP_S * RATE_HZ)] for clip in clips], round((CROP_S + TAIL_S) * RATE_HZ))
        unsure = [index for index, each in enumerate(found) if max(each.values()) < self._min_probability]
        again = self._listen([clips[index] for index in unsure], WINDOW_SAMPLES)
        for index, each in zip(unsure, again, strict=True):
            found[index] = each
        return found

    def _listen(self, clips: Sequence[np.ndarray], num_samples: int) -> list[dict[str, float]]:
        """The probabilities for clips that are filled up to ``num_samples``: the same in every batch."""
        found: list[dict[str, float]] = []
        for first in range(0, len(clips), self._batch_size):
            encoded = self.whisper.encode(clips[first : first + self._batch_size], num_samples // MEL_FRAME_SAMPLES)
            found += self.whisper.language_probabilities(encoded)
        return found

    def judge(self, clips: Sequence[np.ndarray], expected: str | None) -> list[Judged]:
        """Return the most probable language of each clip, given which one is expected."""
        return [judged(each, expected) for each in self.probabilities(clips)]

    def common_language(self, clips: Sequence[np.ndarray]) -> Judged | None:
        """Return the language that the first batch of clips is in, with its mean probability; None without clips."""
        found = self.probabilities(clips[: self._batch_size])
        if not found:
            return None
        means = {code: float(np.mean([each[code] for each in found])) for code in found[0]}
        best = max(means, key=lambda code: means[code])
        return Judged(best, means[best])


def judged(probabilities: Mapping[str, float], expected: str | None) -> Judged:
    """Return the language by its ``probabilities`` in the sound and by the one that is ``expected``, by Bayes' rule."""
    weighted = {
        code: probability * (EXPECTED_ODDS if code == expected else 1.0) for code, probability in probabilities.items()
    }
    best = max(weighted, key=lambda code: weighted[code])
    return Judged(best, weighted[best] / sum(weighted.values()))


def whisper_code(stated: str | None) -> str | None:
    """Return Whisper's code of a language that a source states as an ISO 639 code."""
    code = stated.lower().split("-")[0] if stated else None
    return TERMINOLOGY.get(code, code) if code else None
