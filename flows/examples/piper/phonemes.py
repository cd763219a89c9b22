"""A text as a piper voice's phonemes, and which phonemes belong to which word.

piper phonemises whole sentences and says nothing of words; espeak-ng runs some together ("of the") and parts others
("twenty-three"). So the groups of phonemes between spaces are aligned with the words, by what each word sounds like
alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance.Levenshtein import distance

from triforce.flows.examples.piper.prepared import NO_WORD, SpokenText
from triforce.flows.examples.voice import load_voice

SPACE = " "
SILENT = frozenset("ˈˌː.,:;!?\"'()-¡¿ ")
"""Stress, length and punctuation: no sounds of their own, as far as words are told apart."""

MOST_WORDS = NO_WORD
MOST_JOINED = 4
MAX_COST = 0.6
"""Share of a sentence's sounds that may differ from its words' alone; beyond it the alignment is not believed."""


class Phonemizer:
    """Texts to phonemes, by piper's espeak-ng."""

    def __init__(self, voice: Any | None = None) -> None:
        self.voice = voice if voice is not None else load_voice(num_threads=1)
        self._alone = functools.lru_cache(maxsize=200_000)(self._phonemise_alone)

    def spoken_text(self, text: str, name: str = "", source: str = "", licence: str = "") -> SpokenText | None:
        """Return one sentence as phonemes with their words, or None where they cannot be told apart.

        Words are ``text.split()``. Symbols that the voice has no id for are left out, as piper leaves them out.
        """
        parts = self.voice.phonemize(text)
        words = text.split()
        if len(parts) != 1 or len(words) > MOST_WORDS:
            return None
        table = self.voice.config.phoneme_id_map
        symbols = [symbol for symbol in parts[0] if len(table.get(symbol, ())) == 1]
        owners = align(symbols, [self._alone(word.strip(".,:;!?").lower()) for word in words])
        if owners is None:
            return None
        ids = np.array([table[symbol][0] for symbol in symbols], np.uint8)
        return SpokenText(name, text, ids, np.array(owners, np.uint8), source, licence)

    def _phonemise_alone(self, word: str) -> str:
        return sounds(symbol for part in self.voice.phonemize(word) for symbol in part)


def speak_with_words(
    phonemizer: Phonemizer, text: str, manner: Any = None
) -> tuple[np.ndarray, int, list[tuple[str, float, float]] | None]:
    """Speak a text by piper's own network; return ``(N,)`` float32, its rate in Hz, and its words with their times.

    The phonemizer's voice is one that tells durations. There are no words where the text is several sentences to
    espeak-ng, or where `Phonemizer` finds none.
    """
    chunks = list(phonemizer.voice.synthesize(text, manner, include_alignments=True))
    waveform, rate = np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate
    spoken = phonemizer.spoken_text(text)
    durations = chunks[0].phoneme_id_samples
    if len(chunks) != 1 or spoken is None or durations is None or len(durations) != spoken.num_ids:
        return waveform, rate, None
    return waveform, rate, spoken.word_times(durations / rate)


def sounds(symbols: Iterable[str]) -> str:
    """Return the symbols that are sounds, joined."""
    return "".join(symbol for symbol in symbols if symbol not in SILENT)


def align(symbols: Sequence[str], alone: Sequence[str]) -> list[int] | None:
    """Return the word of each symbol, from the sounds of each word alone; None where that is not clear.

    A group between spaces is one word, up to ``MOST_JOINED`` words run together, or a part of a word.
    """
    groups = _groups(symbols)
    heard = [sounds(symbols[start:end]) for start, end in groups]
    steps = _path(heard, alone)
    if steps is None:
        return None
    owners = [NO_WORD] * len(symbols)
    for (first_group, last_group), (first_word, last_word) in steps:
        start, end = groups[first_group][0], groups[last_group - 1][1]
        places = [at for at in range(start, end) if symbols[at] not in ".,:;!? "]
        if last_word - first_word == 1:
            dealt = [first_word] * len(places)
        else:
            dealt = _deal([symbols[at] for at in places], alone[first_word:last_word], first_word)
        for at, word in zip(places, dealt, strict=True):
            owners[at] = word
    present = set(owners)
    return owners if all(word in present for word in range(len(alone))) else None


def _groups(symbols: Sequence[str]) -> list[tuple[int, int]]:
    """Return begin and end of each run of symbols between spaces that has sounds."""
    groups, start = [], 0
    for at in [*(at for at, symbol in enumerate(symbols) if symbol == SPACE), len(symbols)]:
        if sounds(symbols[start:at]):
            groups.append((start, at))
        start = at + 1
    return groups


Step = tuple[tuple[int, int], tuple[int, int]]


def _path(heard: Sequence[str], alone: Sequence[str]) -> list[Step] | None:
    """Return the cheapest way through groups and words together, as ranges of both."""
    if len(heard) == len(alone) and all(
        2 * distance(said, expected) <= max(len(said), len(expected))
        for said, expected in zip(heard, alone, strict=True)
    ):
        return [((at, at + 1), (at, at + 1)) for at in range(len(heard))]
    moves = [(1, 1), *((1, num) for num in range(2, MOST_JOINED + 1)), *((num, 1) for num in range(2, MOST_JOINED + 1))]
    best: dict[tuple[int, int], tuple[float, tuple[int, int] | None]] = {(0, 0): (0.0, None)}
    for i in range(len(heard) + 1):
        for j in range(len(alone) + 1):
            if (i, j) not in best or abs(i * len(alone) - j * len(heard)) > 4 * max(len(heard), len(alone)):
                continue
            for di, dj in moves:
                if i + di > len(heard) or j + dj > len(alone):
                    continue
                said, expected = "".join(heard[i : i + di]), "".join(alone[j : j + dj])
                cost = best[i, j][0] + distance(said, expected) + 0.5 * (di + dj - 2)
                if cost < best.get((i + di, j + dj), (float("inf"), None))[0]:
                    best[i + di, j + dj] = (cost, (i, j))
    end = (len(heard), len(alone))
    if end not in best or best[end][0] > MAX_COST * max(1, sum(map(len, heard))):
        return None
    steps: list[Step] = []
    while (before := best[end][1]) is not None:
        steps.append(((before[0], end[0]), (before[1], end[1])))
        end = before
    return steps[::-1]


def _deal(symbols: Sequence[str], words: Sequence[str], first: int) -> list[int]:
    """Deal the symbols of words run together to the words: the cut with the smallest distances."""
    best: list[dict[int, tuple[float, list[int]]]] = [{0: (0.0, [])}]
    for word in words:
        reached: dict[int, tuple[float, list[int]]] = {}
        for start, (cost, cuts) in best[-1].items():
            for end in range(start + 1, len(symbols) + 1):
                total = cost + distance(sounds(symbols[start:end]), word)
                if total < reached.get(end, (float("inf"), []))[0]:
                    reached[end] = (total, [*cuts, end])
        best.append(reached)
    if len(symbols) not in best[-1]:
        return [first] * len(symbols)
    cuts = [0, *best[-1][len(symbols)][1]]
    return [first + number for number in range(len(words)) for _ in range(cuts[number], cuts[number + 1])]
