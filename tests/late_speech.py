"""Sentences of synthetic voices that tell when their words are said, and guesses of it as late as a recogniser's."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from importlib import resources

import numpy as np
import soundfile

from triforce.flows.examples import voice
from triforce.flows.examples.piper.phonemes import Phonemizer, speak_with_words
from triforce.models.reading.interleave import SOUNDS
from triforce.models.reading.phonemes import PhonemeTokenizer

READER = PhonemeTokenizer()
LATE_S, SPREAD_S = 0.09, 0.05
"""As Whisper tiny.en's times of flite's voice slt: 89 ms late, and 197 at the 90th percentile."""
Spoken = tuple[np.ndarray, int, list[tuple[str, float, float]]]


def by_joe(texts: Iterable[str]) -> Iterator[tuple[str, Spoken]]:
    """Sentences of the voice joe; its network says a sound up to a tenth of a second before it counts its time."""
    phonemizer = Phonemizer(voice.load_voice(num_threads=1, durations=True))
    for text in texts:
        waveform, rate, words = speak_with_words(phonemizer, text)
        if words is not None and len(READER.words(text)) == len(words):
            yield text, (waveform, rate, words)


def by_flite(texts: Iterable[str], name: str = "slt") -> Iterator[tuple[str, Spoken, list[float]]]:
    """Sentences of a voice of flite, and when each of their sounds begins, seconds.

    Left out are those whose phonemes are not as many as the dictionary's, or have other words apart.
    """
    for text in texts:
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            order = ["flite", "-voice", name, "-psdur", "-t", text, "-o", file.name]
            told = subprocess.run(order, check=True, capture_output=True, text=True).stdout.split()
            waveform, rate = soundfile.read(file.name, dtype="float32")
        phonemes, ends = zip(*(each.rsplit(":", 1) for each in told), strict=True)
        edges = [(float(ends[at - 1]), float(ends[at])) for at in range(1, len(told)) if phonemes[at] != "pau"]
        counts = [int(SOUNDS[word.read].sum()) for word in READER.words(text)]
        if sum(counts) == len(edges) and len(counts) == len(text.split()) and "'" not in text:
            bounds = itertools.pairwise(np.cumsum([0, *counts]).tolist())
            words = [(word, edges[a][0], edges[b - 1][1]) for word, (a, b) in zip(text.split(), bounds, strict=True)]
            yield text, (waveform, rate, words), [start for start, _ in edges]


def sentences() -> list[str]:
    """Sentences that no network trained on."""
    lines = resources.files("triforce.flows.examples.piper").joinpath("unseen.txt").read_text(encoding="utf-8")
    return [line.strip() for line in lines.splitlines() if line.strip()]


def guessed(words: list[tuple[str, float, float]], random: np.random.Generator) -> list[tuple[str, float, float]]:
    """Return words with times that are late and at random."""
    edges = np.array([word[1:] for word in words]) + LATE_S
    moved = np.sort((edges + random.normal(0, SPREAD_S, (len(words), 1))).clip(0), axis=0)
    return [(word, *times) for (word, *_), times in zip(words, moved.tolist(), strict=True)]
