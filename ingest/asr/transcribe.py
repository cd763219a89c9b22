"""Transcripts of a corpus's clips: neighbours share a window, windows share a batch, suspects are transcribed again.

Whisper's encoder was made for 30 s, and its time grows with the square of that: given less, it is quicker by more than
the share that is left out. Neighbouring clips are packed into a window with a short silence between them, the encoder
sees no more than the window holds, and the text is shared out by the times of its words. Scores are computed per clip
from its own tokens. A clip whose result looks wrong is transcribed again alone, with fallback to higher temperatures,
and in 30 s where it repeats itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from triforce.ingest.asr.config import TranscribeConfig
from triforce.ingest.asr.language import Judged, LanguageJudge, whisper_code
from triforce.ingest.asr.repetition import compression_ratio, repeats_its_end
from triforce.ingest.asr.transcript import Transcript, is_silence, suspects
from triforce.ingest.asr.whisper import (
    MEL_FRAME_SAMPLES,
    RATE_HZ,
    WINDOW_MEL_FRAMES,
    WINDOW_SAMPLES,
    Encoded,
    Fallback,
    Hypothesis,
    Whisper,
    resample,
)
from triforce.ingest.asr.window_packing import Window, batches_of_like_length, pack_in_order
from triforce.ingest.asr.word_times import AlignedWords, share_out, within
from triforce.ingest.asr.writing import NON_LATIN
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ

TAIL_S = 1.0
"""Silence behind the last clip of a window, seconds: with less, Whisper repeats its last phrase more often.
Measured."""
MAX_NEW_TOKENS = 220
"""Tokens of a window at most: 448 is the model's limit with its prompt; 30 s of fast speech are about 130. Past this it
is a loop."""
MAX_TOKENS_PER_S = 10
"""Tokens per second of a clip transcribed alone: twice what the fastest speech needs, so a loop over noise ends soon.
Assumed."""
NON_LATIN_TOKENS = 3
"""Both limits are so many times as high for languages in other scripts, a letter of which may take as many tokens. The
model's context ends the longest."""
CONTEXT_TOKENS = 440
"""Tokens that the model's context of 448 holds beside the prompt."""
TEMPERATURES = (0.0, 0.5, 1.0)
"""Temperatures of the fallback of Radford et al. 2022, 4.5, in half as many steps: what needs more is hardly ever
speech."""


class Transcriber:
    """Transcribes clips. ``Transcriber(config)``, or the config's fields as keywords: ``Transcriber(model="base")``.

    ``whisper`` is an engine that is loaded already; without it the config's model is loaded.
    """

    def __init__(self, config: TranscribeConfig | None = None, *, whisper: Whisper | None = None, **settings):
        if config is not None and settings:
            raise ValueError(f"both a config and {sorted(settings)} were given: put the settings into the config")
        self.config = config or TranscribeConfig(**settings)
        self.whisper = whisper or Whisper(
            self.config.model,
            device=self.config.device,
            compute_type=self.config.compute_type,
            num_threads=self.config.cpu_threads,
        )
        self.whisper.check_language(self.config.language)
        self._judge = self._load_judge()
        self._other = self._for_other_languages()

    def _load_judge(self) -> LanguageJudge | None:
        name, settings = self.config.language_model, self.config
        if name is None or name == self.whisper.model:
            whisper = self.whisper
        else:
            try:
                whisper = Whisper(
                    name, device=settings.device, compute_type=settings.compute_type, num_threads=settings.cpu_threads
                )
            except (OSError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"language_model {name!r} cannot be loaded ({error}): pip install 'triforce[whisper]', or set "
                    "transcribe.language_model=null, and nothing tells foreign speech"
                ) from error
        if name is None and not whisper.is_multilingual:
            return None
        return LanguageJudge(whisper, settings.batch_size, settings.min_language_probability)

    def _for_other_languages(self) -> Transcriber | None:
        """The judge's model as a transcriber, where the config's model knows fewer languages."""
        if (
            self._judge is None
            or not self.config.other_languages
            or self.config.language
            or self.whisper.is_multilingual
        ):
            return None
        settings = {"model": self._judge.whisper.model, "language_model": None}
        return Transcriber(self.config.model_copy(update=settings), whisper=self._judge.whisper)

    @property
    def name(self) -> str:
        """The model's name, which stands as ``asr_model`` beside every text."""
        return self.whisper.name

    def detect_language(
        self, waveforms: Sequence[np.ndarray], sample_rate_hz: int = SAMPLE_RATE_HZ, *, hint: str | None = None
    ) -> tuple[str, float | None]:
        """Return the language to expect of a recording, and its mean probability over its first clips.

        It is the config's, else the ``hint`` of its source, else that of its first clips. The probability is None
        where no clip was listened to.
        """
        if self._judge is None or self.config.language:
            return self.config.language or "en", None
        if self._judge.knows(code := whisper_code(hint)):
            return str(code), None
        clips = [resample(waveform, sample_rate_hz) for waveform in waveforms[: self.config.batch_size]]
        found = self._judge.common_language(clips)
        return (found.language, found.probability) if found else ("en", None)

    def transcribe(
        self, waveforms: Sequence[np.ndarray], sample_rate_hz: int = SAMPLE_RATE_HZ, *, language: str | None = None
    ) -> list[Transcript]:
        """Return one transcript per clip, in order. ``waveforms`` are ``(N,)``, float in [-1, 1] or int16, up to 30 s.

        ``language`` is the expected one, which `detect_language` found; without it it is found from these clips. Each
        clip is transcribed in its own language, by the config's model or, where that does not know it, by the one that
        tells languages; a clip in a language that neither knows, or the config does not want, has no text.
        """
        clips = [resample(waveform, sample_rate_hz) for waveform in waveforms]
        for number, clip in enumerate(clips):
            if len(clip) > WINDOW_SAMPLES:
                raise ValueError(f"clip {number} is {len(clip) / RATE_HZ:.1f} s long, and Whisper takes 30 s: cut it")
        if language is None:
            language, _ = self.detect_language(waveforms, sample_rate_hz)
        heard = [Judged(language, None)] * len(clips) if self._judge is None else self._judge.judge(clips, language)
        transcripts: dict[int, Transcript] = {}
        for code in sorted({each.language for each in heard}):
            own = [index for index, each in enumerate(heard) if each.language == code]
            writer = self._writer(code)
            if writer is None:
                found = [Transcript(None, code, None)] * len(own)
            else:
                found = writer._transcribe_in(code, [clips[index] for index in own])
            name = (writer or self).name
            for index, transcript in zip(own, found, strict=True):
                probability = heard[index].probability
                transcripts[index] = replace(transcript, language_probability=probability, asr_model=name)
        return [transcripts[index] for index in range(len(clips))]

    def _writer(self, language: str) -> Transcriber | None:
        """What transcribes speech in ``language``, None where it is not wanted or nothing knows it."""
        if self.config.language and language != self.config.language:
            return None
        return next((each for each in (self, self._other) if each and each.whisper.knows(language)), None)

    def _transcribe_in(self, language: str, clips: Sequence[np.ndarray]) -> list[Transcript]:
        transcripts: dict[int, Transcript] = {}
        windows = self.pack(clips)
        for batch in batches_of_like_length(windows, self.config.batch_size):
            transcripts |= self._transcribe_batch(clips, batch, language)
        durations_s = [len(clip) / RATE_HZ for clip in clips]
        for index in suspects(transcripts, durations_s, windows, self.config):
            is_stuck = repeats_its_end(transcripts[index].text or "")
            transcripts[index] = self._transcribe_alone(clips[index], language, is_whole=is_stuck)
        return [transcripts[index] for index in range(len(clips))]

    def pack(self, clips: Sequence[np.ndarray]) -> list[Window]:
        """Return the windows of clips at Whisper's rate: neighbours together, or one each where packing is off."""
        if not self.config.pack:
            return [Window((index,), (0,), len(clip)) for index, clip in enumerate(clips)]
        return pack_in_order(clips, round(self.config.pack_gap_s * RATE_HZ), round(self.config.window_s * RATE_HZ))

    def encode(self, clips: Sequence[np.ndarray], windows: Sequence[Window], *, is_whole: bool = False) -> Encoded:
        """Encode windows in no more than the longest of them fills, or, with ``is_whole``, in 30 s."""
        num_frames = WINDOW_MEL_FRAMES
        if not is_whole:
            longest = max(window.num_samples for window in windows) + round(TAIL_S * RATE_HZ)
            num_frames = min(num_frames, 2 * -(-longest // (2 * MEL_FRAME_SAMPLES)))
        return self.whisper.encode([window.waveform(clips) for window in windows], num_frames)

    def _transcribe_batch(
        self, clips: Sequence[np.ndarray], windows: list[Window], language: str
    ) -> dict[int, Transcript]:
        encoded = self.encode(clips, windows)
        hypotheses = self.whisper.generate(
            encoded,
            language,
            beam_size=self.config.beam_size,
            max_new_tokens=max_tokens(language),
            suppressed=self.whisper.non_speech_tokens(language),
        )
        aligned = self.whisper.align(encoded, language, [hypothesis.tokens for hypothesis in hypotheses])
        transcripts: dict[int, Transcript] = {}
        for window, words, hypothesis in zip(windows, aligned, hypotheses, strict=True):
            shares = share_out(words, _bounds(window, clips))
            for index, share in zip(window.clips, shares, strict=True):
                transcripts[index] = _transcript(share, hypothesis, language)
        return transcripts

    def _transcribe_alone(self, clip: np.ndarray, language: str, *, is_whole: bool = False) -> Transcript:
        """Transcribe one clip by itself in the window, at rising temperatures until its text passes Whisper's own
        tests."""
        encoded = self.encode([clip], [Window((0,), (0,), len(clip))], is_whole=is_whole)
        duration_s = len(clip) / RATE_HZ
        found = self.whisper.generate_with_fallback(
            encoded,
            language,
            self._fallback(),
            beam_size=self.config.beam_size,
            max_new_tokens=max_tokens(language, duration_s),
        )
        if repeats_its_end(found.text) and not is_whole:
            return self._transcribe_alone(clip, language, is_whole=True)
        is_empty = is_silence(found.text, found.avg_logprob, found.no_speech_prob, duration_s, self.config)
        words = [] if is_empty or not found.tokens else self.whisper.align(encoded, language, [found.tokens])[0].words
        return Transcript(
            "" if is_empty else found.text,
            language,
            None,
            [within(word, 0.0, duration_s) for word in words],
            found.avg_logprob,
            found.no_speech_prob,
            compression_ratio(found.text),
            found.temperature,
        )

    def _fallback(self) -> Fallback:
        return Fallback(
            temperatures=TEMPERATURES,
            min_avg_logprob=self.config.min_avg_logprob,
            max_no_speech_prob=self.config.max_no_speech_prob,
            max_compression_ratio=self.config.max_compression_ratio,
            seed=self.config.seed,
        )


def _bounds(window: Window, clips: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """Starts and ends of a window's clips, seconds."""
    return [
        (start / RATE_HZ, (start + len(clips[index])) / RATE_HZ)
        for index, start in zip(window.clips, window.starts, strict=True)
    ]


def max_tokens(language: str, duration_s: float | None = None) -> int:
    """Return the most tokens that a window in ``language`` may give, or a clip of ``duration_s`` alone."""
    least = MAX_NEW_TOKENS if duration_s is None else min(MAX_NEW_TOKENS, 20 + math.ceil(MAX_TOKENS_PER_S * duration_s))
    return min(CONTEXT_TOKENS, NON_LATIN_TOKENS * least) if language in NON_LATIN else least


def _transcript(share: AlignedWords, found: Hypothesis, language: str) -> Transcript:
    """Return the transcript of a clip that shared its window."""
    return Transcript(
        share.text,
        language,
        None,
        share.words,
        share.avg_logprob,
        found.no_speech_prob,
        compression_ratio(share.text),
    )
