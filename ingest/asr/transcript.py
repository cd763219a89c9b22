"""A clip's transcript, and the tests by which one looks wrong and is made again."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from triforce.ingest.asr.config import TranscribeConfig
from triforce.ingest.asr.repetition import repeats_its_end
from triforce.ingest.asr.window_packing import Window
from triforce.ingest.asr.word_times import Word
from triforce.ingest.asr.writing import spoken_letters


@dataclass(frozen=True)
class Transcript:
    """What was recognised in one clip, with Whisper's own scores."""

    text: str | None
    """None where the clip is in a language that is not transcribed."""
    language: str
    language_probability: float | None
    """Given the language that was expected; None where no model was asked."""
    words: list[Word] = field(default_factory=list)
    avg_logprob: float | None = None
    """Mean natural logarithm of the tokens' probabilities; None without text."""
    no_speech_prob: float | None = None
    """Probability that there is no speech: in the clip if it was transcribed alone, else in the window it shared."""
    compression_ratio: float = 0.0
    temperature: float = 0.0
    asr_model: str | None = None
    """Name of the model that wrote the text, or would have."""


def suspects(
    transcripts: Mapping[int, Transcript],
    durations_s: Sequence[float],
    windows: Sequence[Window],
    config: TranscribeConfig,
) -> list[int]:
    """Return the clips to transcribe again, with their neighbours in the window.

    The neighbours, since over noise a word may have gone to the wrong side.
    """
    found = {index for index, one in transcripts.items() if is_suspect(one, durations_s[index], config)}
    beside = {
        other
        for window in windows
        for one, next_one in itertools.pairwise(window.clips)
        for index, other in ((one, next_one), (next_one, one))
        if index in found
    }
    stuck = {index for index, one in transcripts.items() if repeats_its_end(one.text or "")}
    return sorted(found | beside | stuck)


def is_suspect(transcript: Transcript, duration_s: float, config: TranscribeConfig) -> bool:
    """Return whether a transcript has no text, improbable or repetitive text, or too little or too much of it."""
    if not transcript.text or transcript.avg_logprob is None:
        return True
    rate = spoken_letters(transcript.text) / max(duration_s, 0.1)
    return (
        transcript.avg_logprob < config.min_avg_logprob
        or transcript.compression_ratio > config.max_compression_ratio
        or (transcript.no_speech_prob or 0.0) > config.max_no_speech_prob
        or not config.min_chars_per_s <= rate <= config.max_chars_per_s
    )


def is_silence(
    text: str, avg_logprob: float, no_speech_prob: float, duration_s: float, config: TranscribeConfig
) -> bool:
    """Return whether what was recognised in a clip alone is to be taken for silence."""
    is_doubtful = avg_logprob < config.min_avg_logprob or spoken_letters(text) < config.min_chars_per_s * duration_s
    return not duration_s or (no_speech_prob > config.max_no_speech_prob and is_doubtful)
