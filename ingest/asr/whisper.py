"""The Whisper engine: faster-whisper and CTranslate2, wrapped in this one place.

`triforce.ingest.asr.transcribe` transcribes a corpus's clips with it, `triforce.train.evaluate.judge` recognises what
is evaluated. What differs between the two is how clips are packed, decoded and checked; the calls are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import ctranslate2
import faster_whisper
import numpy as np
import soxr
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import TranscriptionOptions, get_suppressed_tokens

from triforce.ingest.asr.repetition import MAX_COMPRESSION_RATIO
from triforce.ingest.asr.weights import find_whisper
from triforce.ingest.asr.word_times import AlignedWords, group_tokens
from triforce.ingest.media.samples import to_float32

RATE_HZ = 16_000
WINDOW_S = 30
"""What Whisper's encoder was trained on, and its limit."""
WINDOW_SAMPLES = WINDOW_S * RATE_HZ
MEL_FRAME_SAMPLES = RATE_HZ // 100
"""Samples of a mel frame."""
FRAME_SAMPLES = 2 * MEL_FRAME_SAMPLES
"""Samples of an encoder frame: the encoder's stride is two mel frames."""
WINDOW_MEL_FRAMES = WINDOW_SAMPLES // MEL_FRAME_SAMPLES
NON_SPEECH = -1
"""The place of all tokens that are no speech, in a list of tokens to suppress."""

Encoded: TypeAlias = ctranslate2.StorageView
"""What the encoder makes of windows: ``(B, T, D)``, `FRAME_SAMPLES` samples a frame."""


@dataclass(frozen=True)
class Hypothesis:
    """What was recognised in one window."""

    tokens: list[int]
    """Text tokens, without special ones."""
    text: str
    no_speech_prob: float
    avg_logprob: float | None = None
    """Mean natural logarithm of the tokens' probabilities, where it was asked for."""
    compression_ratio: float | None = None
    temperature: float = 0.0


@dataclass(frozen=True)
class Fallback:
    """When a result is not good enough, and at what temperatures it is tried again (Radford et al. 2022, 4.5)."""

    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    min_avg_logprob: float = -1.0
    max_no_speech_prob: float = 0.6
    """With less than ``min_avg_logprob``, a higher probability is silence and not tried again."""
    max_compression_ratio: float = MAX_COMPRESSION_RATIO
    best_of: int = 5
    """Samples at a temperature above 0, the most probable of which is taken."""
    seed: int = 0


class Whisper:
    """A Whisper model, loaded once.

    ``model`` is what `find_whisper` takes. ``compute_type`` is CTranslate2's arithmetic; ``default`` is int8 on the CPU
    and float16 on a GPU. ``num_threads`` on the CPU: 0 follows OMP_NUM_THREADS or the cores.
    """

    def __init__(
        self,
        model: str,
        *,
        device: Literal["cpu", "cuda"] = "cpu",
        compute_type: str = "default",
        num_threads: int = 0,
    ) -> None:
        self.model, self.path = model, find_whisper(model)
        if compute_type == "default":
            compute_type = "int8" if device == "cpu" else "float16"
        self._whisper = WhisperModel(self.path, device=device, compute_type=compute_type, cpu_threads=num_threads)
        self.is_multilingual: bool = self._whisper.model.is_multilingual
        self._tokenizers: dict[str, Tokenizer] = {}

    @property
    def name(self) -> str:
        """The model's name without folders, as in ``whisper-tiny.en``."""
        return f"whisper-{self.model.rstrip('/').rsplit('/', 1)[-1]}"

    def check_language(self, language: str | None) -> None:
        """Raise ValueError for a language, an ISO 639-1 code, that the model does not know; None is any."""
        if not self.is_multilingual and language not in (None, "en"):
            raise ValueError(
                f"language is {language!r}, but the Whisper model {self.model!r} knows only English: use a "
                "multilingual one, such as 'base' or 'large-v3'"
            )
        if language is not None:
            self._tokenizer(language)

    def knows(self, language: str | None) -> bool:
        """Return whether the model transcribes a language, by its code."""
        return language in self._whisper.supported_languages

    def encode(self, waveforms: Sequence[np.ndarray], num_mel_frames: int = WINDOW_MEL_FRAMES) -> Encoded:
        """Encode sounds ``(N,)`` float32 at `RATE_HZ`, filled up with silence to ``num_mel_frames``.

        An even number below `WINDOW_MEL_FRAMES` makes the encoder quicker, whose time grows with the square of it.
        """
        features = []
        for waveform in waveforms:
            padded = np.zeros(num_mel_frames * MEL_FRAME_SAMPLES, np.float32)
            padded[: len(waveform)] = waveform
            features.append(self._whisper.feature_extractor(padded, padding=0)[:, :num_mel_frames])
        return self._whisper.encode(np.stack(features))

    def encode_zero_padded(self, waveforms: Sequence[np.ndarray]) -> Encoded:
        """Encode sounds of 30 s at most, their log-mels filled up with zeros to 30 s, as faster-whisper itself does.

        Zeros are louder than silence, so the results differ a little from those of `encode`.
        """
        features = [pad_or_trim(self._whisper.feature_extractor(waveform)[..., :-1]) for waveform in waveforms]
        return self._whisper.encode(np.stack(features))

    def language_probabilities(self, encoded: Encoded) -> list[dict[str, float]]:
        """Return the probability of each language, by its code, for each window. Multilingual models only."""
        found = self._whisper.model.detect_language(encoded)
        return [{token[2:-2]: probability for token, probability in window} for window in found]

    def generate(
        self,
        encoded: Encoded,
        language: str,
        *,
        beam_size: int = 1,
        max_new_tokens: int | None = None,
        suppressed: Sequence[int] = (NON_SPEECH,),
    ) -> list[Hypothesis]:
        """Decode each window in ``language``, at temperature 0, by beam search or, with ``beam_size`` 1, greedily.

        ``max_new_tokens`` is at most what the model's context holds beside the prompt, which is also its default.
        `NON_SPEECH` in ``suppressed`` stands for the tokens that the model's own config names.
        """
        tokenizer = self._tokenizer(language)
        prompt = self._prompt(tokenizer)
        results = self._whisper.model.generate(
            encoded,
            [prompt] * encoded.shape[0],
            beam_size=beam_size,
            max_length=self._whisper.max_length if max_new_tokens is None else len(prompt) + max_new_tokens,
            suppress_blank=True,
            suppress_tokens=list(suppressed),
            return_no_speech_prob=True,
        )
        return [
            Hypothesis(_text_tokens(result, tokenizer), _text(result, tokenizer), result.no_speech_prob)
            for result in results
        ]

    def generate_with_fallback(
        self, encoded: Encoded, language: str, fallback: Fallback, *, beam_size: int = 1, max_new_tokens: int
    ) -> Hypothesis:
        """Decode one window at rising temperatures until the text passes Whisper's own tests."""
        tokenizer = self._tokenizer(language)
        settings = dict.fromkeys(TranscriptionOptions.__dataclass_fields__) | {
            "beam_size": beam_size,
            "best_of": fallback.best_of,
            "patience": 1,
            "length_penalty": 1,
            "repetition_penalty": 1,
            "no_repeat_ngram_size": 0,
            "log_prob_threshold": fallback.min_avg_logprob,
            "no_speech_threshold": fallback.max_no_speech_prob,
            "compression_ratio_threshold": fallback.max_compression_ratio,
            "temperatures": list(fallback.temperatures),
            "suppress_blank": True,
            "suppress_tokens": self.non_speech_tokens(language),
            "without_timestamps": True,
            "max_initial_timestamp": 1.0,
            "max_new_tokens": max_new_tokens,
        }
        ctranslate2.set_random_seed(fallback.seed)
        result, avg_logprob, temperature, ratio = self._whisper.generate_with_fallback(
            encoded, self._prompt(tokenizer), tokenizer, TranscriptionOptions(**settings)
        )
        return Hypothesis(
            _text_tokens(result, tokenizer),
            _text(result, tokenizer),
            result.no_speech_prob,
            avg_logprob,
            ratio,
            temperature,
        )

    def align(self, encoded: Encoded, language: str, tokens: Sequence[list[int]]) -> list[AlignedWords]:
        """Return the words of each window's text ``tokens``, with their times in the window."""
        tokenizer = self._tokenizer(language)
        alignments = self._whisper.model.align(encoded, tokenizer.sot_sequence, list(tokens), 2 * encoded.shape[1])
        found = []
        for own, alignment in zip(tokens, alignments, strict=True):
            pieces, piece_tokens = tokenizer.split_to_word_tokens([*own, tokenizer.eot])
            found.append(group_tokens(pieces, piece_tokens, alignment.alignments, alignment.text_token_probs))
        return found

    def non_speech_tokens(self, language: str) -> list[int]:
        """Return the tokens of marks, music and tasks that never stand in a transcript."""
        return list(get_suppressed_tokens(self._tokenizer(language), [NON_SPEECH]))

    def _tokenizer(self, language: str) -> Tokenizer:
        if language not in self._tokenizers:
            self._tokenizers[language] = Tokenizer(
                self._whisper.hf_tokenizer, self.is_multilingual, task="transcribe", language=language
            )
        return self._tokenizers[language]

    def _prompt(self, tokenizer: Tokenizer) -> list[int]:
        return self._whisper.get_prompt(tokenizer, [], without_timestamps=True)


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what is recognised."""
    return {"faster-whisper": faster_whisper.__version__, "ctranslate2": ctranslate2.__version__}


def resample(waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Return ``(N,)`` float in [-1, 1] or int16 as float32 at `RATE_HZ`. Raises ValueError for another shape."""
    if waveform.ndim != 1:
        raise ValueError(f"a clip has the shape {waveform.shape}: give one channel, (N,)")
    if waveform.dtype == np.int16:
        waveform = to_float32(waveform)
    waveform = np.ascontiguousarray(waveform, dtype=np.float32)
    if sample_rate_hz == RATE_HZ or not waveform.size:
        return waveform
    return soxr.resample(waveform, sample_rate_hz, RATE_HZ)


def _text_tokens(result: ctranslate2.models.WhisperGenerationResult, tokenizer: Tokenizer) -> list[int]:
    return [token for token in result.sequences_ids[0] if token < tokenizer.eot]


def _text(result: ctranslate2.models.WhisperGenerationResult, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(result.sequences_ids[0]).strip()
