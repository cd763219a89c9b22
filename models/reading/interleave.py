"""Reading: text, and speech in which the pieces of text stand before the codes that say them.

A document is ``<text> pieces </text> <reading> codes pieces codes pieces ... </reading>``. A code belongs to the word,
or the piece, in which its centre lies; codes before the first word's start come first. In training the network decides
when a word or a piece begins and what it sounds like (the codes). By words, all pieces of a word stand before its
codes, and those after the first are given. By pieces, each phoneme or letter stands before its own codes; of the time
of a word each takes a share by `DURATIONS`, and so does the pause behind a comma. Then a code's sound is that of the
last piece before it, and the network need not learn where in a word it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from triforce.models.reading.phonemes import BOUNDARY, PUNCTUATION, SYMBOLS, PhonemeTokenizer, WordPieces
from triforce.models.vocabulary import ReadingUnits

PAUSES = frozenset(".,;:!?-")
"""Punctuation that takes time of its own, behind a word."""
MILLISECONDS = """
AA0 85 AA1 85 AE0 76 AE1 76 AH0 55 AH1 46 AO0 77 AO1 73 AW0 94 AW1 92 AY0 128 AY1 113 B 54 CH 103 D 49 DH 31 EH0 61
EH1 62 ER0 85 ER1 93 EY0 134 EY1 101 F 64 G 74 HH 39 IH0 59 IH1 43 IY0 89 IY1 82 JH 96 K 64 L 57 M 47 N 44 NG 52 OW0
96 OW1 94 OY0 133 OY1 133 P 58 R 47 S 89 SH 95 T 42 TH 73 UH0 33 UH1 33 UW0 81 UW1 61 V 48 W 37 Y 47 Z 80 ZH 87
' 0 a 62 b 60 c 73 d 45 e 46 f 50 g 48 h 7 i 58 j 105 k 42 l 45 m 50 n 47 o 54 p 63 q 66 r 48 s 76 t 44 u 44 v 58 w
32 x 141 y 65 z 113 pause 105
"""
"""Mean duration of phonemes, letters and a pause. Measured by `tests/benchmarks/measure_durations.py` on 67 000 words
of the voice `joe`: phonemes explain 93 % of the variance of a word's duration, letters 90 % (1.4 for vowels, 1 for
consonants: 84 %). What is too rare is taken as the other stress.
"""


def _durations() -> np.ndarray:
    fields = MILLISECONDS.split()
    known = dict(zip(fields[::2], map(float, fields[1::2]), strict=True))
    names = ["pause" if symbol in PAUSES else symbol.replace("2", "1") for symbol in SYMBOLS]
    return np.array([known.get(name, 0.0) for name in names])


DURATIONS = _durations()
"""Mean duration of each piece in milliseconds, ``(P,)``; 0 for the boundary of words, quotes and brackets."""
SOUNDS = np.array([symbol != SYMBOLS[BOUNDARY] and symbol not in PUNCTUATION for symbol in SYMBOLS])
"""Whether a piece is a letter or a phoneme, bool ``(P,)``."""
GAP_S = 0.03
"""Silence between words from which a pause is taken to lie there, and not within the word before. Assumed."""
TimedWord = tuple[str, float, float] | tuple[str, float, float, Sequence[float]]
"""A word as it is written, its start and end in seconds from the clip's start, and, where they are known, the starts
of its pieces as it is read."""


class WordTimes(NamedTuple):
    """Words and when they are said."""

    words: list[WordPieces]
    starts_s: np.ndarray
    """Start of each word in seconds, ``(W,)``."""
    ends_s: np.ndarray
    """End of each word in seconds, ``(W,)``, at most the start of the next."""
    pieces_s: list[np.ndarray] | None = None
    """Start of each piece of each word as it is read, in seconds, the first with the word, where they are known: then
    so are the pauses, which no word's time holds."""


def time_words(reader: PhonemeTokenizer, text: str, words: Sequence[TimedWord]) -> WordTimes | None:
    """Return the words of ``text`` as `PhonemeTokenizer.words` has them with their times.

    ``words`` are those of the recogniser or synthesiser. Where one of them is several words when it is normalised
    (1984), these share its time; one that goes on behind a hyphen, as Whisper splits them ("non", "-stop"), is part of
    the one before. Returns None where the two do not match word for word, or times run backwards.
    """
    found = reader.words(text)
    words = _joined_at_hyphens(words)
    times: list[tuple[float, float]] = []
    if len(found) == len(words):
        times = [(word[1], word[2]) for word in words]
    else:
        for written, start, end in (word[:3] for word in words):
            count = len(reader.words(written))
            step = (end - start) / max(1, count)
            times += [(start + step * i, start + step * (i + 1)) for i in range(count)]
    if len(times) != len(found) or not found or any(b < a for (a, _), (b, _) in itertools.pairwise(times)):
        return None
    starts, ends = np.array(times).T
    ends = np.maximum(starts, np.minimum(ends, np.append(starts[1:], np.inf)))
    return WordTimes(found, starts, ends, _known_pieces(found, words))


def _known_pieces(found: Sequence[WordPieces], words: Sequence[TimedWord]) -> list[np.ndarray] | None:
    """Return the starts of the pieces of each word, where ``words`` have them of all."""
    given = [word[3] for word in words if len(word) == 4]
    if len(given) != len(found) or any(len(own) != len(word.read) for own, word in zip(given, found, strict=True)):
        return None
    return [np.asarray(own, dtype=np.float64) for own in given]


def starts_of_pieces(timed: WordTimes, words: Sequence[np.ndarray]) -> np.ndarray:
    """Return the start in seconds of each piece ``(L,)`` of words that are given as these pieces: known ones where a
    word is given as it is read, else by `piece_times`.
    """
    pieces, word = np.concatenate(words), np.repeat(np.arange(len(words)), [len(each) for each in words])
    known = timed.pieces_s
    times = piece_times(pieces, word, timed.starts_s, timed.ends_s, apart=known is not None)
    if known is not None:
        as_read = np.array([np.array_equal(own, both.read) for own, both in zip(words, timed.words, strict=True)])
        lengths = [len(own) if read else 0 for own, read in zip(words, as_read, strict=True)]
        times[as_read[word]] = np.concatenate([own[:n] for own, n in zip(known, lengths, strict=True)])
    return times


def piece_times(
    pieces: np.ndarray, words: np.ndarray, starts_s: np.ndarray, ends_s: np.ndarray, *, apart: bool | np.ndarray = False
) -> np.ndarray:
    """Return the start in seconds of each piece ``(L,)`` of words ``(L,)``, which are numbered in ascending order.

    ``starts_s`` and ``ends_s`` ``(W,)`` are the words' times. A pause behind a word is part of the word's time where
    the next begins at its end, as a synthesiser's words do; a recogniser's leave it between them, and with ``apart``,
    of all or of each ``(W,)``, they always do.
    """
    gaps = np.append(starts_s[1:], 0.0) - ends_s
    durations = np.where(((gaps > GAP_S) | apart)[words] & ~SOUNDS[pieces], 0.0, DURATIONS[pieces])
    total = np.bincount(words, weights=durations, minlength=len(starts_s))
    behind = np.concatenate([[0.0], durations.cumsum()])
    first = np.searchsorted(words, np.arange(len(starts_s)))
    before = behind[:-1] - behind[first][words]
    share = np.where(total[words] > 0, before / np.maximum(total[words], 1e-9), 0.0)
    return starts_s[words] + (ends_s - starts_s)[words] * np.clip(share, 0.0, 1.0)


def begins_unit(pieces: np.ndarray, units: ReadingUnits) -> np.ndarray:
    """Return for each of the pieces ``(L,)`` of whole words whether the network decides that it begins, bool.

    By words that is a word's boundary; by pieces, also every piece but those up to the first sound of a word.
    """
    pieces = np.asarray(pieces, dtype=np.int64)
    boundary = pieces == BOUNDARY
    if units == "words":
        return boundary
    places = np.arange(len(pieces))
    word = np.maximum.accumulate(np.where(boundary, places, -1))
    sound = np.maximum.accumulate(np.where(SOUNDS[pieces], places, -1))
    sounded = np.concatenate([[-1], sound[:-1]]) > word
    return boundary | sounded


def _joined_at_hyphens(words: Sequence[TimedWord]) -> list[TimedWord]:
    joined: list[TimedWord] = []
    for word in words:
        if joined and word[0].startswith("-"):
            before, start, *_ = joined.pop()
            joined.append((before + word[0], start, word[2]))
        else:
            joined.append(word)
    return joined


def codes_before(starts_s: np.ndarray, num_codes: int, codes_per_s: float) -> np.ndarray:
    """Return how many codes ``(W,)`` int64 come before each word: those whose centre is before its start."""
    before = np.ceil(np.asarray(starts_s, dtype=np.float64) * codes_per_s - 0.5)
    return np.clip(before, 0, num_codes).astype(np.int64)


def pieces_at_codes(pieces: np.ndarray, before: np.ndarray, num_codes: int) -> np.ndarray:
    """Return the piece that is said at each code, ``(num_codes,)`` int64: the last of the pieces ``(L,)`` before which
    ``before`` ``(L,)``, ascending, of the codes have passed; -1 where none has begun.
    """
    begun = np.searchsorted(before, np.arange(num_codes), side="right")
    return np.append(np.asarray(pieces, np.int64), -1)[begun - 1]


def interleave(codes: np.ndarray, pieces: np.ndarray, before: np.ndarray, num_codes: int) -> np.ndarray:
    """Return the codes of a ``reading`` segment: ``codes`` with the pieces ``(L,)``, numbered from ``num_codes``, where
    ``before`` ``(L,)`` of the codes have passed.
    """
    return np.insert(np.asarray(codes, dtype=np.int64).reshape(-1), before, pieces + num_codes)


def reading_weights(codes: np.ndarray, num_codes: int, units: ReadingUnits = "words") -> np.ndarray:
    """Return the weight in the loss of each token of a ``reading`` segment with its markers, ``(L + 2,)`` float32.

    1 for codes, pieces that begin a unit and the end; 0 for the begin marker and pieces that are given.
    """
    decided = codes < num_codes
    decided[~decided] = begins_unit(codes[~decided] - num_codes, units)
    return np.concatenate([[False], decided, [True]]).astype(np.float32)
