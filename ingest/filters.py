"""The one place that turns a clip's raw scores into the reason why it is not for training, or into none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from triforce.ingest.corpus import DropReason

PHANTOM_PHRASES = (
    "thank you for watching",
    "thanks for watching",
    "thank you so much for watching",
    "please subscribe",
    "subscribe to my channel",
    "like and subscribe",
    "subtitles by the amara org community",
    "see you in the next video",
    "i'll see you next time",
    "transcription by castingwords",
)
"""What Whisper writes over music and silence: the ends of the videos it learnt from. A clip of nothing else is
refused."""


class FilterConfig(BaseModel):
    """Thresholds on a clip's scores. A score that is missing is not judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_s: float = Field(3.0, ge=0, description="Shortest clip, seconds.")
    max_s: float = Field(20.0, gt=0, le=30, description="Longest clip, seconds.")
    max_no_speech_prob: float = Field(
        0.6, ge=0, le=1, description="Above it, and under min_avg_logprob, there is no speech."
    )
    min_avg_logprob: float = Field(-1.0, le=0, description="Least mean log probability of the tokens.")
    max_compression_ratio: float = Field(2.4, gt=0, description="Largest ratio of the text to itself compressed.")
    min_unique_word_share: float = Field(
        0.4, ge=0, le=1, description="Least share of different words, of ten words or more."
    )
    max_word_chars: int = Field(25, ge=1, description="A word this long is no word, characters.")
    min_chars_per_s: float = Field(5.0, ge=0, description="Slowest speech, characters a second.")
    max_chars_per_s: float = Field(21.0, gt=0, description="Fastest speech, characters a second.")
    languages: tuple[str, ...] | None = Field(None, description="Languages to keep, ISO 639-1; null: all.")
    min_language_probability: float = Field(0.8, ge=0, le=1, description="Least probability of the clip's language.")
    max_clipped_share: float = Field(0.001, ge=0, le=1, description="Largest share of samples at full scale.")
    min_snr_db: float = Field(10.0, description="Least signal to noise, dB.")
    min_bandwidth_hz: float = Field(0.0, ge=0, description="Least bandwidth, Hz; 9000 keeps full-band speech only.")
    min_rms_dbfs: float = Field(-45.0, le=0, description="Quietest clip, dB of full scale.")


def drop_reason(clip: Mapping[str, Any], config: FilterConfig) -> DropReason | None:
    """Why the clip, a row of the corpus, is refused; the first reason that holds, from the surest to the least;
    None: keep."""
    for reason, holds in _CHECKS:
        if holds(clip, config):
            return reason
    return None


def _above(value: float | None, limit: float) -> bool:
    return value is not None and value > limit


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _is_no_speech(clip: Mapping[str, Any], config: FilterConfig) -> bool:
    return _above(clip.get("no_speech_prob"), config.max_no_speech_prob) and _below(
        clip.get("avg_logprob"), config.min_avg_logprob
    )


def _is_repetition(clip: Mapping[str, Any], config: FilterConfig) -> bool:
    words = _plain_words(clip.get("text"))
    repeats = len(words) >= 10 and len(set(words)) / len(words) <= config.min_unique_word_share
    return repeats or _above(clip.get("compression_ratio"), config.max_compression_ratio)


def _is_wrong_language(clip: Mapping[str, Any], config: FilterConfig) -> bool:
    is_other = config.languages is not None and clip.get("language") not in (None, *config.languages)
    return is_other or _below(clip.get("language_probability"), config.min_language_probability)


def _is_phantom(clip: Mapping[str, Any], config: FilterConfig) -> bool:
    return " ".join(_plain_words(clip.get("text"))) in PHANTOM_PHRASES


def _has_wrong_rate(clip: Mapping[str, Any], config: FilterConfig) -> bool:
    rate = clip.get("chars_per_s")
    return _below(rate, config.min_chars_per_s) or _above(rate, config.max_chars_per_s)


def _plain_words(text: str | None) -> list[str]:
    return re.findall(r"[\w']+", (text or "").lower())


_CHECKS = (
    (DropReason.NO_SPEECH, _is_no_speech),
    (DropReason.NO_TEXT, lambda clip, _: clip.get("text") is not None and not _plain_words(clip["text"])),
    (DropReason.TOO_SHORT, lambda clip, config: _below(clip.get("duration_s"), config.min_s)),
    (DropReason.TOO_LONG, lambda clip, config: _above(clip.get("duration_s"), config.max_s + 1e-3)),
    (DropReason.WRONG_LANGUAGE, _is_wrong_language),
    (DropReason.REPETITION, _is_repetition),
    (
        DropReason.LONG_WORD,
        lambda clip, config: max(map(len, _plain_words(clip.get("text"))), default=0) >= config.max_word_chars,
    ),
    (DropReason.PHANTOM_PHRASE, _is_phantom),
    (DropReason.LOW_CONFIDENCE, lambda clip, config: _below(clip.get("avg_logprob"), config.min_avg_logprob)),
    (DropReason.SPEAKING_RATE, _has_wrong_rate),
    (DropReason.CLIPPED, lambda clip, config: _above(clip.get("clipped_share"), config.max_clipped_share)),
    (DropReason.QUIET, lambda clip, config: _below(clip.get("rms_dbfs"), config.min_rms_dbfs)),
    (DropReason.NOISY, lambda clip, config: _below(clip.get("snr_db"), config.min_snr_db)),
    (DropReason.NARROW_BAND, lambda clip, config: _below(clip.get("bandwidth_hz"), config.min_bandwidth_hz)),
)
