"""Text to sound with a release: draw candidates, pick the best by Whisper, and try again where words went wrong."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from triforce.flows.speech.characters import Readable, UnknownCharacterError, named, refusal, spoken
from triforce.flows.speech.loudness import faded, level, silence
from triforce.flows.speech.sentences import split_spoken
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.gpt_sampling import Candidate, SamplingConfig
from triforce.models.release import Release
from triforce.models.vocabulary import Segment
from triforce.train.evaluate.judge import Judge, JudgeConfig
from triforce.train.evaluate.metrics import character_errors

logger = logging.getLogger(__name__)

PAUSE_S = 0.3
"""Pause between sentences."""
ROWS = 16
"""Candidates that are drawn side by side. Assumed: more gain little on a CPU, and each takes memory."""
VOICE_S = 5.0
"""Length of the voice prompt, as in training."""


class SpeakConfig(BaseModel):
    """How a text is spoken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Literal["heard", "likeliest"] = Field(
        "heard",
        description="How the best of several candidates is found: by Whisper's transcript, or by the GPT's likelihood.",
    )
    tries: int = Field(
        1, ge=1, le=16, description="Attempts at most at a text of which Whisper transcribes other words."
    )
    max_error: float = Field(
        0.1, ge=0, le=1, description="Share of wrong characters up to which an utterance counts as right."
    )
    speed: float = Field(1.0, ge=0.25, le=4, description="Speed of the speech; 2 takes half the time.")
    level_db: float | None = Field(
        -20.0, le=0, description="Loudness of the speech, dB under full scale. None: not adjusted."
    )
    min_chars_per_s: float = Field(
        5.0, gt=0, description="Characters per second below which speech is cut off; 5 to 21 are usual."
    )
    language: str | None = Field(
        None,
        pattern="^[a-z]{2,3}$",
        description="ISO 639 code of the text: how figures and signs are said. None: English, a book's own.",
    )
    unknown: Literal["drop", "refuse"] = Field(
        "drop",
        description="What is done about letters that the training texts do not have: drop them with a warning, or "
        "refuse the text.",
    )
    sampling: SamplingConfig = SamplingConfig()
    sampler: SamplerConfig = SamplerConfig()
    judge: JudgeConfig = JudgeConfig()

    @property
    def listens(self) -> bool:
        """Whether Whisper is needed."""
        return self.tries > 1 or (self.sampling.num_candidates > 1 and self.rank == "heard")


@dataclass(frozen=True)
class Utterance:
    """A text and its sound."""

    text: str
    """Text that the network read."""
    waveform: np.ndarray
    """``(N,)`` float32 at the release's rate."""
    seed: int
    """Seed of the attempt that was kept."""
    tries: int
    reached_end: bool
    heard: str | None = None
    """Whisper's transcript; None where Whisper was not asked."""
    error: float | None = None
    """Character error rate of the transcript."""


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
        self.language = self.config.language or "en"
        self._warned: set[str] = set()
        if self.voice is not None and "voice" not in known:
            raise ValueError(f"{release.uri}: this GPT knows no voice prompts; leave --voice out")

    @cached_property
    def judge(self) -> Judge:
        """The Whisper model that transcribes utterances."""
        return Judge(self.config.judge)

    @cached_property
    def prompt(self) -> list[Segment]:
        """What stands before a text that is said in the voice."""
        return self.release.voice_prompt(self.voice)

    def speak(self, text: str, *, seed: int = 0) -> Utterance:
        """Speak one text."""
        return self.speak_all([text], [seed])[0]

    def read(self, text: str, *, seed: int = 0) -> Iterator[Utterance]:
        """Speak a text of any length, `ROWS` sentences side by side; `join` makes one sound of them.

        Raises UnknownCharacterError, before any sentence, where nothing of the text can be said.
        """
        self.prepare(text)
        sentences = split_spoken(text, self.language)
        for first in range(0, len(sentences), ROWS):
            part = sentences[first : first + ROWS]
            yield from self.speak_all(part, range(seed + first, seed + first + len(part)))

    def sentences(self, text: str) -> list[str]:
        """Return the sentences of a text as the network reads them, without those of which it can say nothing."""
        found = [spoken(part, self.release.characters, self.language) for part in split_spoken(text, self.language)]
        self._report("".join(sorted(set().union(*(one.skipped for one in found)))))
        return [one.text for one in found if any(c.isalnum() for c in one.text)]

    def prepare(self, text: str) -> Readable:
        """Return a text as the network reads it: figures and signs in words, in characters that it knows.

        What is left out is logged, once a character. Raises UnknownCharacterError where nothing is left, and with
        ``unknown="refuse"`` for any letter or digit.
        """
        known = self.release.characters
        found = spoken(text, known, self.language)
        if not any(c.isalnum() for c in found.text):
            if found.skipped:
                raise refusal(found.skipped, known)
            raise UnknownCharacterError(f"text {text[:40]!r}: nothing to say; give at least one word")
        self._report(found.skipped)
        return found

    def _report(self, skipped: str) -> None:
        """Refuse or warn about what is skipped."""
        if self.config.unknown == "refuse" and any(c.isalnum() for c in skipped):
            raise refusal(skipped, self.release.characters)
        if new := "".join(c for c in skipped if c not in self._warned):
            self._warned.update(new)
            logger.warning("skipped %s, which this release never read in training", named(new))

    def speak_all(self, texts: Sequence[str], seeds: Sequence[int]) -> list[Utterance]:
        """Speak each text with its own seed; Whisper transcribes them together, which is quicker than one by one.

        A text is spoken again, with another seed, as long as `SpeakConfig.tries` allows and words go wrong. One of
        which the release can say nothing is no sound.
        """
        config = self.config
        found = [spoken(text, self.release.characters, self.language) for text in texts]
        self._report("".join(sorted(set().union(*(one.skipped for one in found)))))
        texts = [one.text if any(c.isalnum() for c in one.text) else "" for one in found]
        best: list[Utterance | None] = [None] * len(texts)
        for attempt in range(config.tries):
            todo = [i for i, utterance in enumerate(best) if utterance is None or not self._good(utterance)]
            for i, utterance in zip(todo, self._read(todo, texts, seeds, attempt), strict=True):
                best[i] = better(best[i], utterance)
        return [utterance for utterance in best if utterance is not None]

    def _good(self, utterance: Utterance) -> bool:
        return utterance.error is not None and utterance.error <= self.config.max_error

    def _read(self, todo: list[int], texts: list[str], seeds: Sequence[int], attempt: int) -> list[Utterance]:
        """Return the best of each text's candidates in this attempt."""
        utterances: list[list[Utterance]] = []
        own = {i: attempt_seed(seeds[i], attempt) for i in todo}
        said = [i for i in todo if texts[i]]
        drawn = dict(zip(said, self.draw_all([texts[i] for i in said], [own[i] for i in said]), strict=True))
        for i in todo:
            seed, candidates = own[i], drawn.get(i, [])
            if not self.config.listens:
                candidates = candidates[:1]
            rendered = [self.render(texts[i], candidate, seed, attempt) for candidate in candidates]
            utterances.append(rendered or [Utterance(texts[i], np.zeros(0, np.float32), seed, attempt + 1, True)])
        if self.config.listens:
            flat = [utterance for group in utterances for utterance in group]
            heard = iter(self.listen(flat))
            utterances = [[next(heard) for _ in group] for group in utterances]
        return [
            min(group, key=lambda utterance: (utterance.error or 0.0, not utterance.reached_end))
            for group in utterances
        ]

    def draw_all(self, texts: Sequence[str], seeds: Sequence[int]) -> list[list[Candidate]]:
        """Draw candidate codes for each text from the GPT, `ROWS` of them side by side where it reads word by word."""
        if not self.release.reads or not texts:
            return [self.draw(text, seed) for text, seed in zip(texts, seeds, strict=True)]
        sampling = self.config.sampling  # a reading ends behind its last word, and not before
        return self.release.draw_all(texts, voice=self.voice, seeds=seeds, sampling=sampling, num_rows=ROWS)

    def draw(self, text: str, seed: int) -> list[Candidate]:
        """Draw candidate codes for a text from the GPT."""
        if self.release.reads:
            return self.draw_all([text], [seed])[0]
        rate = self.release.info()["codes_per_second"]
        most = math.ceil(rate * (1.0 + len(text) / self.config.min_chars_per_s))
        sampling = self.config.sampling
        sampling = sampling.model_copy(update={"max_codes": min(sampling.max_codes, most)})
        return self.release.draw(text, voice=self.voice, seed=seed, sampling=sampling)

    def render(self, text: str, candidate: Candidate, seed: int, attempt: int) -> Utterance:
        """Turn a candidate's codes into sound."""
        config = self.config
        waveform, _ = self.release.render(
            candidate.codes,
            text=text,
            spoken=candidate.spoken,
            seed=seed,
            sampler=config.sampler,
            speed=config.speed,
        )
        if config.level_db is not None:
            waveform = level(waveform, self.release.sample_rate_hz, config.level_db)
        return Utterance(text, waveform, seed, attempt + 1, candidate.reached_end)

    def listen(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Return the utterances with Whisper's transcripts and their errors."""
        heard = self.judge([r.waveform for r in utterances], self.release.sample_rate_hz, [r.text for r in utterances])
        return [
            Utterance(r.text, r.waveform, r.seed, r.tries, r.reached_end, words, self._error(r.text, words))
            for r, words in zip(utterances, heard, strict=True)
        ]

    def _error(self, text: str, heard: str) -> float:
        return character_errors(text, heard, self.config.judge.language).rate


def join(utterances: Sequence[Utterance], sample_rate_hz: int) -> np.ndarray:
    """Return utterances one after the other as one waveform, with a pause of `PAUSE_S` between them."""
    pause = silence(PAUSE_S, sample_rate_hz)
    parts = [part for utterance in utterances for part in (faded(utterance.waveform, sample_rate_hz), pause)]
    return np.concatenate(parts[:-1]) if parts else np.zeros(0, np.float32)


def better(before: Utterance | None, utterance: Utterance) -> Utterance:
    """Return the one with fewer wrong characters, the earlier at a tie, with the tries of both counted."""
    if before is None or (utterance.error or 0.0) < (before.error or 0.0):
        return utterance
    return Utterance(
        before.text, before.waveform, before.seed, utterance.tries, before.reached_end, before.heard, before.error
    )


def attempt_seed(seed: int, attempt: int) -> int:
    """Return the seed of an attempt: the first is the seed itself, later ones are far from other texts' seeds."""
    return seed if not attempt else int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0])


def join_voices(voices: Sequence[np.ndarray], sample_rate_hz: int) -> np.ndarray:
    """Return recordings of one voice as one waveform, an even share of `VOICE_S` of each."""
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
