"""What is said in each clip: faster-whisper over exactly our clips, many in one window, many windows in one batch.

Whisper's encoder was made for 30 s, and its time grows with the square of that: given less, it is quicker by more than
the share that is left out. Neighbouring clips are packed into a window with a short silence between them, the encoder
hears no more than the window holds, and the text is shared out by the times of its words. Scores are computed per clip
from its own tokens. A clip whose result looks wrong is heard again alone, with fallback to higher temperatures, and in
30 s where it stutters, so neither costs a clip its chance.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import ctranslate2
import numpy as np
import soxr
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import TranscriptionOptions, get_suppressed_tokens
from pydantic import BaseModel, ConfigDict, Field

from triforce.ingest.asr.weights import find_whisper
from triforce.ingest.corpus.schema import SAMPLE_RATE_HZ

logger = logging.getLogger(__name__)

RATE_HZ = 16_000
WINDOW_SAMPLES = 30 * RATE_HZ
"""Whisper's window."""
FRAME_SAMPLES = RATE_HZ // 100
"""Of a mel frame."""
TAIL_S = 1.0
"""Silence heard after the last clip of a window: with less, Whisper says its last phrase again more often.
Measured."""
TOKENS_PER_S = 50
"""Encoder frames a second: 10 ms mel frames, halved by the encoder's stride."""
MAX_NEW_TOKENS = 220
"""For a window: 448 is the model's limit with its prompt; 30 s of fast speech are about 130. Past this it is a
loop."""
MAX_TOKENS_PER_S = 10
"""Of a clip heard alone: twice what the fastest speech needs, so a loop over noise ends soon. Assumed."""
TEMPERATURES = (0.0, 0.5, 1.0)
"""Of the fallback of Radford et al. 2022, 4.5, in half as many steps: what needs more is hardly ever speech."""


class TranscribeConfig(BaseModel):
    """Speech recognition."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(
        "tiny.en", min_length=1, description="Whisper model: a name, a hub id, or a folder of CTranslate2 weights."
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the model runs.")
    compute_type: str = Field(
        "default", description="CTranslate2 type; 'default' is int8 on the CPU, float16 on a GPU."
    )
    language: str | None = Field(
        None, description="ISO 639-1 code; null: detected, where the model knows more than English."
    )
    beam_size: int = Field(5, ge=1, le=20, description="Hypotheses kept while decoding.")
    batch_size: int = Field(8, ge=1, le=128, description="Windows of 30 s decoded together.")
    cpu_threads: int = Field(1, ge=0, description="Threads of one transcriber on the CPU; 0: CTranslate2's choice.")
    pack: bool = Field(True, description="Whether neighbouring clips share a window.")
    window_s: float = Field(
        28.0,
        gt=0,
        le=30,
        description="Clips are packed into a window up to this length; the encoder hears no more. 15 is quicker by a "
        "tenth, but of speech in two voices it makes a third more word errors, whole phrases among them.",
    )
    pack_gap_s: float = Field(0.4, ge=0.0, le=2.0, description="Silence between clips that share a window, seconds.")
    seed: int = Field(0, ge=0, description="Of the sampling at temperatures over zero.")
    max_compression_ratio: float = Field(2.4, gt=0, description="Text more repetitive than this is heard again.")
    min_avg_logprob: float = Field(-1.0, lt=0, description="Text less probable than this is heard again.")
    max_no_speech_prob: float = Field(
        0.6, gt=0, le=1, description="Clips more probably without speech are heard again."
    )
    min_language_probability: float = Field(
        0.8, ge=0, le=1, description="Windows less probably in the language are heard again."
    )
    min_chars_per_s: float = Field(5.0, ge=0, description="Clips with less text are heard again: batches drop speech.")
    max_chars_per_s: float = Field(25.0, gt=0, description="Clips with more text are heard again.")


@dataclass(frozen=True)
class Word:
    word: str
    start_s: float
    """From the clip's start."""
    end_s: float
    probability: float


@dataclass(frozen=True)
class Transcript:
    """What was heard in one clip, with Whisper's own scores."""

    text: str
    language: str
    language_probability: float | None
    """None where the language was given or the model knows only one."""
    words: list[Word] = field(default_factory=list)
    avg_logprob: float | None = None
    """Mean natural logarithm of the tokens' probabilities; None without text."""
    no_speech_prob: float | None = None
    """Of the clip where it was heard alone, else of the window it shared."""
    compression_ratio: float = 0.0
    temperature: float = 0.0


@dataclass(frozen=True)
class _Window:
    """Clips that are heard together: their indices and their first samples in the window."""

    clips: list[int]
    starts: list[int]

    def num_samples(self, clips: Sequence[np.ndarray]) -> int:
        return self.starts[-1] + len(clips[self.clips[-1]])


@dataclass
class _Heard:
    """One window's result: tokens with probabilities and times, grouped to words."""

    words: list[Word]
    logprobs: list[list[float]]
    """Of the tokens of each word."""
    no_speech_prob: float


class Transcriber:
    """A Whisper model, loaded once. ``Transcriber(config)``, or the config's fields as keywords:
    ``Transcriber(model="base")``."""

    def __init__(self, config: TranscribeConfig | None = None, **settings):
        if config is not None and settings:
            raise ValueError(f"both a config and {sorted(settings)} were given: put the settings into the config")
        self.config = config or TranscribeConfig(**settings)
        default = "int8" if self.config.device == "cpu" else "float16"
        self._whisper = WhisperModel(
            find_whisper(self.config.model),
            device=self.config.device,
            compute_type=default if self.config.compute_type == "default" else self.config.compute_type,
            cpu_threads=self.config.cpu_threads,
        )
        self.is_multilingual: bool = self._whisper.model.is_multilingual
        if not self.is_multilingual and self.config.language not in (None, "en"):
            raise ValueError(
                f"transcribe.language is {self.config.language!r}, but the model {self.config.model!r} knows only "
                "English: use a multilingual one, such as 'base' or 'large-v3'"
            )

    @property
    def name(self) -> str:
        """What stands as ``asr_model`` beside every text."""
        return f"whisper-{self.config.model.rstrip('/').rsplit('/', 1)[-1]}"

    def detect_language(
        self, waveforms: Sequence[np.ndarray], sample_rate_hz: int = SAMPLE_RATE_HZ
    ) -> tuple[str, float | None]:
        """The language of clips of one recording, and its mean probability over their windows; None where it is not
        in question."""
        if self.config.language or not self.is_multilingual:
            return self.config.language or "en", None
        clips = [_to_16k(waveform, sample_rate_hz) for waveform in waveforms]
        windows = self._windows(clips)[: self.config.batch_size]
        if not windows:
            return "en", None
        totals: dict[str, float] = {}
        for probabilities in self._language_probabilities(self._encode(clips, windows)):
            for language, probability in probabilities.items():
                totals[language] = totals.get(language, 0.0) + probability / len(windows)
        best = max(totals, key=lambda language: totals[language])
        return best, totals[best]

    def transcribe(
        self, waveforms: Sequence[np.ndarray], sample_rate_hz: int = SAMPLE_RATE_HZ, *, language: str | None = None
    ) -> list[Transcript]:
        """One transcript per clip, in order. ``waveforms`` are ``(N,)``, float in [-1, 1] or int16, of 30 s at most.

        ``language`` is what `detect_language` found; without it the config's counts, or it is detected from these
        clips.
        """
        clips = [_to_16k(waveform, sample_rate_hz) for waveform in waveforms]
        for number, clip in enumerate(clips):
            if len(clip) > WINDOW_SAMPLES:
                raise ValueError(f"clip {number} is {len(clip) / RATE_HZ:.1f} s long, and Whisper hears 30 s: cut it")
        if language is None:
            language, _ = self.detect_language(waveforms, sample_rate_hz)
        tokenizer = Tokenizer(self._whisper.hf_tokenizer, self.is_multilingual, task="transcribe", language=language)
        transcripts: dict[int, Transcript] = {}
        windows = self._windows(clips)
        for batch in self._batches(clips, windows):
            transcripts |= self._transcribe_batch(clips, batch, tokenizer, language)
        for index in self._suspects(clips, windows, transcripts):
            is_stuck = repeats_its_end(transcripts[index].text)
            transcripts[index] = self._hear_alone(clips[index], tokenizer, language, is_whole=is_stuck)
        return [transcripts[index] for index in range(len(clips))]

    def _windows(self, clips: list[np.ndarray]) -> list[_Window]:
        gap, limit = round(self.config.pack_gap_s * RATE_HZ), round(self.config.window_s * RATE_HZ)
        windows: list[_Window] = []
        end = 0
        for index, clip in enumerate(clips):
            if windows and self.config.pack and end + gap + len(clip) <= limit:
                windows[-1].clips.append(index)
                windows[-1].starts.append(end + gap)
                end += gap + len(clip)
            else:
                windows.append(_Window([index], [0]))
                end = len(clip)
        return windows

    def _batches(self, clips: list[np.ndarray], windows: list[_Window]) -> Iterator[list[_Window]]:
        """Windows of like length together: the encoder's time grows with the longest."""
        ordered = sorted(windows, key=lambda window: window.num_samples(clips))
        for first in range(0, len(ordered), self.config.batch_size):
            yield ordered[first : first + self.config.batch_size]

    def _encode(
        self, clips: list[np.ndarray], windows: list[_Window], *, is_whole: bool = False
    ) -> ctranslate2.StorageView:
        """``is_whole``: 30 s, as Whisper was trained; else no more than the longest window fills, as the encoder's
        time grows with the square."""
        features = []
        longest = max(window.num_samples(clips) for window in windows) + round(TAIL_S * RATE_HZ)
        num_frames = WINDOW_SAMPLES // FRAME_SAMPLES
        if not is_whole:
            num_frames = min(num_frames, 2 * -(-longest // (2 * FRAME_SAMPLES)))
        for window in windows:
            waveform = np.zeros(num_frames * FRAME_SAMPLES, np.float32)
            for index, start in zip(window.clips, window.starts, strict=True):
                waveform[start : start + len(clips[index])] = clips[index]
            features.append(self._whisper.feature_extractor(waveform, padding=0)[:, :num_frames])
        return self._whisper.encode(np.stack(features))

    def _language_probabilities(self, encoded: ctranslate2.StorageView) -> list[dict[str, float]]:
        return [
            {token[2:-2]: probability for token, probability in window}
            for window in self._whisper.model.detect_language(encoded)
        ]

    def _transcribe_batch(
        self, clips: list[np.ndarray], windows: list[_Window], tokenizer: Tokenizer, language: str
    ) -> dict[int, Transcript]:
        encoded = self._encode(clips, windows)
        probabilities: list[float | None] = [None] * len(windows)
        if self.is_multilingual:
            probabilities = [found.get(language) for found in self._language_probabilities(encoded)]
        prompt = self._whisper.get_prompt(tokenizer, [], without_timestamps=True)
        results = self._whisper.model.generate(
            encoded,
            [prompt] * len(windows),
            beam_size=self.config.beam_size,
            max_length=len(prompt) + MAX_NEW_TOKENS,
            suppress_tokens=list(get_suppressed_tokens(tokenizer, [-1])),
            return_no_speech_prob=True,
        )
        tokens = [[token for token in result.sequences_ids[0] if token < tokenizer.eot] for result in results]
        aligned = self._align(encoded, tokens, tokenizer)
        transcripts: dict[int, Transcript] = {}
        for window, (words, logprobs), result, probability in zip(
            windows, aligned, results, probabilities, strict=True
        ):
            heard = _Heard(words, logprobs, result.no_speech_prob)
            transcripts |= _share_out(heard, clips, window, language, probability)
        return transcripts

    def _align(
        self, encoded: ctranslate2.StorageView, tokens: list[list[int]], tokenizer: Tokenizer
    ) -> list[tuple[list[Word], list[list[float]]]]:
        """Words with their times in the window, and the log probabilities of each word's tokens."""
        alignments = self._whisper.model.align(encoded, tokenizer.sot_sequence, tokens, 2 * encoded.shape[1])
        return [
            _words(tokenizer, window_tokens, alignment)
            for window_tokens, alignment in zip(tokens, alignments, strict=True)
        ]

    def _suspects(
        self, clips: list[np.ndarray], windows: list[_Window], transcripts: dict[int, Transcript]
    ) -> list[int]:
        """Clips to hear again, with their neighbours in the window: over noise a word may have gone to the wrong
        side."""
        suspects = {index for index in transcripts if self._is_suspect(transcripts[index], len(clips[index]) / RATE_HZ)}
        beside = {
            other
            for window in windows
            for one, next_one in itertools.pairwise(window.clips)
            for index, other in ((one, next_one), (next_one, one))
            if index in suspects
        }
        stuck = {index for index in transcripts if repeats_its_end(transcripts[index].text)}
        return sorted(suspects | beside | stuck)

    def _is_suspect(self, transcript: Transcript, duration_s: float) -> bool:
        config = self.config
        if not transcript.text or transcript.avg_logprob is None:
            return True
        rate = len(transcript.text) / max(duration_s, 0.1)
        return (
            transcript.avg_logprob < config.min_avg_logprob
            or transcript.compression_ratio > config.max_compression_ratio
            or (transcript.no_speech_prob or 0.0) > config.max_no_speech_prob
            or not config.min_chars_per_s <= rate <= config.max_chars_per_s
            or (
                transcript.language_probability is not None
                and transcript.language_probability < config.min_language_probability
            )
        )

    def _hear_alone(
        self, clip: np.ndarray, tokenizer: Tokenizer, language: str, *, is_whole: bool = False
    ) -> Transcript:
        """One clip by itself in the window, at rising temperatures until the text passes Whisper's own tests."""
        window = _Window([0], [0])
        encoded = self._encode([clip], [window], is_whole=is_whole)
        probability = self._language_probabilities(encoded)[0].get(language) if self.is_multilingual else None
        prompt = self._whisper.get_prompt(tokenizer, [], without_timestamps=True)
        ctranslate2.set_random_seed(self.config.seed)
        result, avg_logprob, temperature, compression_ratio = self._whisper.generate_with_fallback(
            encoded, prompt, tokenizer, self._fallback_options(tokenizer, len(clip) / RATE_HZ)
        )
        text = tokenizer.decode(result.sequences_ids[0]).strip()
        if repeats_its_end(text) and not is_whole:
            return self._hear_alone(clip, tokenizer, language, is_whole=True)
        is_silence = result.no_speech_prob > self.config.max_no_speech_prob and (
            avg_logprob < self.config.min_avg_logprob or len(text) < self.config.min_chars_per_s * len(clip) / RATE_HZ
        )
        is_silence |= not len(clip)
        tokens = [] if is_silence else [token for token in result.sequences_ids[0] if token < tokenizer.eot]
        words = self._align(encoded, [tokens], tokenizer)[0][0] if tokens else []
        words = [_within(word, 0.0, len(clip) / RATE_HZ) for word in words]
        text = "" if is_silence else text
        return Transcript(
            text, language, probability, words, avg_logprob, result.no_speech_prob, compression_ratio, temperature
        )

    def _fallback_options(self, tokenizer: Tokenizer, duration_s: float) -> TranscriptionOptions:
        config = self.config
        settings = dict.fromkeys(TranscriptionOptions.__dataclass_fields__)
        settings |= {
            "beam_size": config.beam_size,
            "best_of": 5,
            "patience": 1,
            "length_penalty": 1,
            "repetition_penalty": 1,
            "no_repeat_ngram_size": 0,
            "log_prob_threshold": config.min_avg_logprob,
            "no_speech_threshold": config.max_no_speech_prob,
            "compression_ratio_threshold": config.max_compression_ratio,
            "temperatures": list(TEMPERATURES),
            "suppress_blank": True,
            "suppress_tokens": list(get_suppressed_tokens(tokenizer, [-1])),
            "without_timestamps": True,
            "max_initial_timestamp": 1.0,
            "max_new_tokens": min(MAX_NEW_TOKENS, 20 + math.ceil(MAX_TOKENS_PER_S * duration_s)),
        }
        return TranscriptionOptions(**settings)


def _to_16k(waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    if waveform.ndim != 1:
        raise ValueError(f"a clip has the shape {waveform.shape}: give one channel, (N,)")
    if waveform.dtype == np.int16:
        waveform = waveform.astype(np.float32) / 32768.0
    waveform = np.ascontiguousarray(waveform, dtype=np.float32)
    return waveform if sample_rate_hz == RATE_HZ else soxr.resample(waveform, sample_rate_hz, RATE_HZ)


def _words(
    tokenizer: Tokenizer, tokens: list[int], alignment: ctranslate2.models.WhisperAlignmentResult
) -> tuple[list[Word], list[list[float]]]:
    pieces, piece_tokens = tokenizer.split_to_word_tokens([*tokens, tokenizer.eot])
    if len(pieces) <= 1:
        return [], []
    path = np.asarray(alignment.alignments)
    first_frames = path[np.searchsorted(path[:, 0], np.arange(len(tokens) + 1)).clip(max=len(path) - 1), 1]
    words: list[Word] = []
    logprobs: list[list[float]] = []
    at, opening = 0, ""
    for piece, own_tokens in zip(pieces[:-1], piece_tokens[:-1], strict=True):
        stop = at + len(own_tokens)
        probabilities = alignment.text_token_probs[at:stop]
        own_logprobs = [math.log(max(probability, 1e-10)) for probability in probabilities]
        start_s, end_s = float(first_frames[at]) / TOKENS_PER_S, float(first_frames[stop]) / TOKENS_PER_S
        at = stop
        is_mark = not any(character.isalnum() for character in piece)
        if is_mark and piece.startswith(" ") and piece.strip():
            opening += piece  # an opening quotation mark or bracket belongs to the word after it
        elif is_mark and words:
            words[-1] = Word(words[-1].word + piece, words[-1].start_s, words[-1].end_s, words[-1].probability)
            logprobs[-1] += own_logprobs
        else:
            word = opening + piece.removeprefix(" ") if opening else piece
            words.append(Word(word, start_s, end_s, float(np.mean(probabilities))))
            logprobs.append(own_logprobs)
            opening = ""
    return words, logprobs


def _share_out(
    heard: _Heard, clips: list[np.ndarray], window: _Window, language: str, language_probability: float | None
) -> dict[int, Transcript]:
    """Each word goes to the clip that its middle lies in or next to."""
    bounds = [
        (start / RATE_HZ, (start + len(clips[index])) / RATE_HZ)
        for index, start in zip(window.clips, window.starts, strict=True)
    ]
    words: list[list[Word]] = [[] for _ in bounds]
    logprobs: list[list[float]] = [[] for _ in bounds]
    for word, own_logprobs in zip(heard.words, heard.logprobs, strict=True):
        middle = (word.start_s + word.end_s) / 2
        at = min(range(len(bounds)), key=lambda i: max(bounds[i][0] - middle, middle - bounds[i][1], 0.0))
        words[at].append(_within(word, *bounds[at]))
        logprobs[at] += own_logprobs
    transcripts = {}
    for at, index in enumerate(window.clips):
        text = "".join(word.word for word in words[at]).strip()
        transcripts[index] = Transcript(
            text,
            language,
            language_probability,
            words[at],
            float(np.mean(logprobs[at])) if logprobs[at] else None,
            heard.no_speech_prob,
            compression_ratio(text),
        )
    return transcripts


def _within(word: Word, start_s: float, end_s: float) -> Word:
    """The word with times from the start of the clip that lies there, and none past its end."""
    first, last = (round(min(max(time_s, start_s), end_s) - start_s, 2) for time_s in (word.start_s, word.end_s))
    return Word(word.word, first, last, word.probability)


def repeats_its_end(text: str) -> bool:
    """Whether the text's last words, two or more, stand there twice: so Whisper goes on where it hears no end."""
    words = re.findall(r"[\w']+", text.lower())
    return any(words[-length:] == words[-2 * length : -length] for length in range(2, len(words) // 2 + 1))


def compression_ratio(text: str) -> float:
    """Bytes of the text by bytes of it compressed: Whisper's measure of repetition; 0 for no text."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
