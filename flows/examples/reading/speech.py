"""Hours of one synthetic voice as a corpus of clips with their exact texts, made on all cores."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import soxr

from triforce.flows.examples import voice
from triforce.flows.examples.piper.phonemes import Phonemizer, speak_with_words
from triforce.ingest.clips.make_clip import sound_clip
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, TRANSCRIPT, Clip, Recording, Word, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.samples import to_int16

SENTENCES_PER_RECORDING = 50
WORDS_PER_HOUR = 12_400
"""Words that the voice speaks in an hour; measured on 1700 sentences."""


def write_reading(corpus: Corpus, texts: Sequence[str], source: str = "reading") -> float:
    """Write ``texts`` into the corpus, read by piper's voice, and return the seconds of all its clips.

    Recordings that are there are left alone.
    """
    parts = [texts[i : i + SENTENCES_PER_RECORDING] for i in range(0, len(texts), SENTENCES_PER_RECORDING)]
    known = corpus.clipped_ids(source)
    missing = [
        (corpus.uri, source, number, list(part))
        for number, part in enumerate(parts)
        if make_recording_id(source, f"part-{number:05d}") not in known
    ]
    if missing:
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            for _ in pool.map(_write_part, missing):
                pass
    durations = corpus.clips(["duration_s"], kept_only=True)["duration_s"]
    return float(np.sum(durations.to_numpy()))


def _write_part(job: tuple[str, str, int, list[str]]) -> None:
    uri, source, number, texts = job
    corpus, name = Corpus(uri), f"part-{number:05d}"
    recording = Recording(
        recording_id=make_recording_id(source, name),
        source=source,
        source_kind="synthetic",
        source_id=name,
        url=f"piper:{name}",
        title=name,
        author="piper joe",
        licence="public domain text, synthetic voice",
    )
    corpus.write_recording(recording)
    corpus.write_clips(recording, _clips(recording, texts))


def _clips(recording: Recording, texts: list[str]) -> Iterator[Clip]:
    start = 0
    for text in texts:
        waveform, words = speak(text)
        samples = to_int16(waveform)
        known = {"text": text, "words": words, "asr_model": TRANSCRIPT, "language": "en", "speaker": "joe"}
        yield sound_clip(recording, start, samples, **known)
        start += len(samples)


def speak(text: str) -> tuple[np.ndarray, tuple[Word, ...] | None]:
    """Return a text as ``(N,)`` float32 at the corpus's rate, and its words with their times where they are clear."""
    from piper import SynthesisConfig

    # Little variation: the same word takes nearly the same time and sound each time, as a practised reader's does.
    manner = SynthesisConfig(noise_scale=0.2, noise_w_scale=0.1)
    waveform, rate, times = speak_with_words(_phonemizer(), text, manner)
    words = None if times is None else tuple(Word(f" {word}", start, end) for word, start, end in times)
    return soxr.resample(waveform, rate, SAMPLE_RATE_HZ), words


@functools.cache
def _phonemizer() -> Phonemizer:
    """The voice of this process, on one thread: the processes share the cores between them."""
    return Phonemizer(voice.load_voice(num_threads=1, durations=True))
