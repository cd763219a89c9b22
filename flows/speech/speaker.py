"""Text to sound with a release: candidates, a listener that picks the best, and another try where words went wrong."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from triforce.flows.speech.characters import readable
from triforce.flows.speech.loudness import faded, level, silence
from triforce.flows.speech.sentences import split_sentences
from triforce.models.release import Release
from triforce.models.samplers import SamplerConfig
from triforce.models.sampling import Candidate, SamplingConfig
from triforce.train.evaluate.judge import Judge, JudgeConfig
from triforce.train.evaluate.metrics import character_errors

logger = logging.getLogger(__name__)

PAUSE_S = 0.3
"""Between sentences."""
VOICE_S = 5.0
"""Of recordings of a voice that are shown to the GPT: as long as the voice prompts that it was trained on."""


class SpeakConfig(BaseModel):
    """How a text is spoken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Literal["heard", "likeliest"] = Field(
        "heard", description="How the best of several candidates is found: by what Whisper hears, or by the GPT itself."
    )
    tries: int = Field(1, ge=1, le=16, description="Readings at most of a text in which Whisper hears other words.")
    max_error: float = Field(
        0.1, ge=0, le=1, description="Share of wrong characters up to which a reading counts as right."
    )
    speed: float = Field(1.0, ge=0.25, le=4, description="2 takes half the time.")
    level_db: float | None = Field(
        -20.0, le=0, description="Loudness of the speech, dB under full scale. None: as it comes."
    )
    min_chars_per_s: float = Field(5.0, gt=0, description="A slower voice is cut off; 5 to 21 are usual.")
    unknown: Literal["refuse", "drop"] = Field("refuse", description="What is done about letters never read.")
    sampling: SamplingConfig = SamplingConfig()
    sampler: SamplerConfig = SamplerConfig()
    judge: JudgeConfig = JudgeConfig()

    @property
    def listens(self) -> bool:
        """Whether Whisper is needed."""
        return self.tries > 1 or (self.sampling.num_candidates > 1 and self.rank == "heard")


@dataclass(frozen=True)
class Reading:
    """A text as it was spoken."""

    text: str
    """As the network read it."""
    waveform: np.ndarray
    """``(N,)`` float32 at the release's rate."""
    seed: int
    """Of the try that was kept."""
    tries: int
    reached_end: bool
    heard: str | None = None
    """What Whisper heard; None where nobody listened."""
    error: float | None = None
    """Share of characters that it heard wrong."""


class Speaker:
    """Speaks with a release; loads the networks and, where needed, Whisper once."""

    def __init__(
        self, release: Release, config: SpeakConfig | None = None, *, voices: Sequence[np.ndarray] = ()
    ) -> None:
        self.release, self.config = release, config or SpeakConfig()
        self.voice = join_voices(voices, release.sample_rate_hz) if voices else None
        gpt = release.gpt
        if gpt is None:
            raise FileNotFoundError(f"{release.uri}: no gpt/config.json here; train one with `triforce train gpt`")
        known = {modality.name for modality in gpt.config.vocabulary.modalities}
        if self.voice is not None and "voice" not in known:
            raise ValueError(f"{release.uri}: this GPT knows no voice prompts; leave --voice out")

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.config.judge)

    def speak(self, text: str, *, seed: int = 0) -> Reading:
        """One text."""
        return self.speak_all([text], [seed])[0]

    def read(self, text: str, *, seed: int = 0) -> Iterator[Reading]:
        """A text of any length, a sentence at a time as each is ready; `join` makes one sound of them."""
        known = self.release.characters
        readable(text, known, drop=self.config.unknown == "drop")  # what cannot be read is said before anything is
        for number, sentence in enumerate(split_sentences(text) or [text]):
            yield self.speak(sentence, seed=seed + number)

    def speak_all(self, texts: Sequence[str], seeds: Sequence[int]) -> list[Reading]:
        """Each text by its own seed; Whisper hears them together, which is quicker than one by one.

        Texts are spoken again, with the next seeds, as long as `SpeakConfig.tries` allows and words go wrong.
        """
        config = self.config
        texts = [readable(text, self.release.characters, drop=config.unknown == "drop") for text in texts]
        best: list[Reading | None] = [None] * len(texts)
        for attempt in range(config.tries):
            todo = [i for i, reading in enumerate(best) if reading is None or not self._good(reading)]
            for i, reading in zip(todo, self._read(todo, texts, seeds, attempt), strict=True):
                best[i] = better(best[i], reading)
        return [reading for reading in best if reading is not None]

    def _good(self, reading: Reading) -> bool:
        return reading.error is not None and reading.error <= self.config.max_error

    def _read(self, todo: list[int], texts: list[str], seeds: Sequence[int], attempt: int) -> list[Reading]:
        """The best of each text's candidates in this try."""
        readings: list[list[Reading]] = []
        for i in todo:
            seed = attempt_seed(seeds[i], attempt)
            candidates = self._draw(texts[i], seed) if texts[i] else []
            if not self.config.listens:
                candidates = candidates[:1]
            rendered = [self._render(texts[i], candidate, seed, attempt) for candidate in candidates]
            readings.append(rendered or [Reading(texts[i], np.zeros(0, np.float32), seed, attempt + 1, True)])
        if self.config.listens:
            flat = [reading for group in readings for reading in group]
            heard = iter(self._listen(flat))
            readings = [[next(heard) for _ in group] for group in readings]
        return [min(group, key=lambda reading: (reading.error or 0.0, not reading.reached_end)) for group in readings]

    def _draw(self, text: str, seed: int) -> list[Candidate]:
        rate = self.release.info()["codes_per_second"]
        most = math.ceil(rate * (1.0 + len(text) / self.config.min_chars_per_s))
        sampling = self.config.sampling
        sampling = sampling.model_copy(update={"max_codes": min(sampling.max_codes, most)})
        return self.release.draw(text, voice=self.voice, seed=seed, sampling=sampling)

    def _render(self, text: str, candidate: Candidate, seed: int, attempt: int) -> Reading:
        config = self.config
        waveform, _ = self.release.render(
            candidate.codes, text=text, seed=seed, sampler=config.sampler, speed=config.speed
        )
        if config.level_db is not None:
            waveform = level(waveform, self.release.sample_rate_hz, config.level_db)
        return Reading(text, waveform, seed, attempt + 1, candidate.reached_end)

    def _listen(self, readings: Sequence[Reading]) -> list[Reading]:
        heard = self.judge([r.waveform for r in readings], self.release.sample_rate_hz, [r.text for r in readings])
        return [
            Reading(r.text, r.waveform, r.seed, r.tries, r.reached_end, words, self._error(r.text, words))
            for r, words in zip(readings, heard, strict=True)
        ]

    def _error(self, text: str, heard: str) -> float:
        errors = character_errors(text, heard, self.config.judge.language)
        return errors.errors / errors.total if errors.total else float(bool(errors.errors))


def join(readings: Sequence[Reading], sample_rate_hz: int) -> np.ndarray:
    """Readings one after the other, a pause of `PAUSE_S` between them."""
    pause = silence(PAUSE_S, sample_rate_hz)
    parts = [part for reading in readings for part in (faded(reading.waveform, sample_rate_hz), pause)]
    return np.concatenate(parts[:-1]) if parts else np.zeros(0, np.float32)


def better(before: Reading | None, reading: Reading) -> Reading:
    """The one with fewer wrong characters, having had as many tries as both took; at a tie the earlier one."""
    if before is None or (reading.error or 0.0) < (before.error or 0.0):
        return reading
    return Reading(
        before.text, before.waveform, before.seed, reading.tries, before.reached_end, before.heard, before.error
    )


def attempt_seed(seed: int, attempt: int) -> int:
    """The seed of a try: the first is the seed itself, later ones are far from what other texts are given."""
    return seed if not attempt else int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0])


def join_voices(voices: Sequence[np.ndarray], sample_rate_hz: int) -> np.ndarray:
    """Recordings of one voice as one, an even share of `VOICE_S` of each."""
    most = int(VOICE_S * sample_rate_hz)
    if any(len(voice) < 0.1 * sample_rate_hz for voice in voices):
        raise ValueError("a recording of the voice is shorter than 0.1 s; give one with a sentence or two")
    share = most // len(voices)
    spare = most - sum(min(len(voice), share) for voice in voices)
    parts = []
    for voice in voices:
        take = min(len(voice), share + spare)
        spare -= max(0, take - share)
        parts.append(voice[:take])
    return np.concatenate(parts).astype(np.float32)
