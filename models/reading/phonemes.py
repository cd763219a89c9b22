"""Text as phonemes and letters: words of a pronouncing dictionary as ARPAbet, all others as they are written.

Every word begins with the boundary piece, a space, so that the pieces of a text fall apart into words again.
Punctuation goes with the word before it, opening brackets and quotation marks with the word behind. In training some
known words are spelt too (`PhonemeTokenizer.words`), so that the network learns to read letters and unknown words come
out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from triforce.models.reading.lexicon import PHONEMES, pronounce, spell_out
from triforce.models.reading.normalise import READABLE, normalise

BOUNDARY = 0
"""Piece that begins every word."""
PUNCTUATION = '.,;:!?-"()'
LETTERS = "abcdefghijklmnopqrstuvwxyz'"
SYMBOLS = (" ", *PUNCTUATION, *LETTERS, *PHONEMES)
"""The pieces in the order of their numbers; they never change."""
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}
INITIALISMS = frozenset({"us", "it", "pc", "ai", "id", "un", "am", "pm", "ad", "or", "la", "ok"})
"""Words of the dictionary that are names of letters where they are written in capitals among small letters."""
VOWELS = frozenset("aeiouy")
MAX_LETTERS = 3
"""Longest unknown word in capitals that is read letter by letter; without a vowel, up to twice as long, in any case."""


class WordPieces(NamedTuple):
    """A word in both forms, each beginning with `BOUNDARY`."""

    read: np.ndarray
    """Its phonemes where it is known, else its letters, ``(L,)`` int64."""
    spelt: np.ndarray
    """Its letters, ``(L,)`` int64."""


class PhonemeTokenizer:
    """The front end ``phonemes``; with ``spell_all`` it is the front end ``characters``: all words in letters."""

    def __init__(self, *, spell_all: bool = False) -> None:
        self.spell_all = spell_all

    @property
    def name(self) -> Literal["phonemes", "characters"]:
        """Name of the front end."""
        return "characters" if self.spell_all else "phonemes"

    @property
    def size(self) -> int:
        """Number of pieces."""
        return len(SYMBOLS)

    @property
    def characters(self) -> frozenset[str] | None:
        """Those that normalised text has."""
        return READABLE

    def words(self, text: str) -> list[WordPieces]:
        """Return the words of ``text``, normalised, in both forms."""
        return [word_pieces(word, self.spell_all) for word in split_words(normalise(text))]

    def encode(self, text: str) -> np.ndarray:
        """Return the pieces ``(L,)`` int64 of ``text``, normalised; no piece for a text without letters or digits."""
        found = self.words(text)
        return np.concatenate([word.read for word in found]) if found else np.zeros(0, np.int64)

    def split(self, pieces: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Split pieces into words, each from its boundary on; raises ValueError where they do not begin with one."""
        pieces = np.asarray(pieces, dtype=np.int64)
        starts = np.flatnonzero(pieces == BOUNDARY)
        if len(pieces) and (not len(starts) or starts[0]):
            raise ValueError(f"pieces {pieces[:4].tolist()}...: the first has to be {BOUNDARY}, a word's boundary")
        return np.split(pieces, starts[1:]) if len(pieces) else []

    def decode(self, codes: Iterable[int]) -> str:
        """Return pieces as text: letters as letters, phonemes in braces, as in ``{HH AH0 L OW1}, xyzzy``."""
        runs = re.findall(
            r"\d+ ?|\D", "".join(f"{c} " if c >= len(SYMBOLS) - len(PHONEMES) else SYMBOLS[c] for c in map(int, codes))
        )
        text, inside = "", False
        for run in runs:
            phoneme = run[0].isdigit()
            text += ("{" if phoneme and not inside else "") + ("}" if inside and not phoneme else "")
            text += (" " if phoneme and inside else "") + (SYMBOLS[int(run)] if phoneme else run)
            inside = phoneme
        return (text + ("}" if inside else "")).strip()

    def to_json(self) -> str:
        """Return the front end as JSON."""
        return json.dumps({"type": self.name, "symbols": SYMBOLS}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PhonemeTokenizer:
        """Rebuild what `to_json` returned; raises ValueError for pieces of another version."""
        saved = json.loads(text)
        if tuple(saved["symbols"]) != SYMBOLS:
            raise ValueError(
                f"front end {saved['type']} of {len(saved['symbols'])} pieces: this version has {len(SYMBOLS)}, or in "
                "another order; read it with the version that made it"
            )
        return cls(spell_all=saved["type"] == "characters")


def split_words(text: str) -> list[str]:
    """Split normalised text at its spaces; what holds no letter joins the word before, or the first word."""
    words: list[str] = []
    before = ""
    for part in text.split():
        if not any(c.isalpha() for c in part):
            if words:
                words[-1] += part
            else:
                before += part
        else:
            words.append(before + part)
            before = ""
    return words


@lru_cache(maxsize=1 << 17)
def word_pieces(word: str, spell_all: bool) -> WordPieces:
    """Return the pieces of a word with its punctuation; the arrays are shared, so they are read only."""
    spelt = np.array([BOUNDARY, *(NUMBERS[c] for c in word.lower() if c in NUMBERS)], np.int64)
    read = spelt if spell_all else np.array([BOUNDARY, *(NUMBERS[symbol] for symbol in _read(word))], np.int64)
    spelt.flags.writeable = read.flags.writeable = False
    return WordPieces(read, spelt)


def _read(word: str) -> list[str]:
    """Return the symbols of a word: of the whole where it is known with its hyphens, else of its parts."""
    symbols: list[str] = []
    for part in re.findall(r"[a-zA-Z']+(?:-[a-zA-Z']+)*|.", word):
        if not any(c.isalpha() for c in part):
            symbols += [c for c in part if c in NUMBERS and c != "'"]
        elif "-" in part and (known := pronounce(part.lower())) is not None:
            symbols += known
        else:
            for number, piece in enumerate(part.split("-")):
                symbols += [*(["-"] if number else []), *_read_plain(piece)]
    return symbols


def _read_plain(word: str) -> list[str]:
    """Return the symbols of a word of letters and apostrophes."""
    lower, bare = word.lower(), word.lower().strip("'")
    if not bare:
        return []
    capitals = word.isupper() and len(bare) > 1 and "'" not in bare
    if capitals and bare in INITIALISMS:
        return spell_out(bare)
    for option in (lower, bare):
        if (known := pronounce(option)) is not None:
            return known
    unspeakable = not VOWELS.intersection(bare) and "'" not in bare and len(bare) <= 2 * MAX_LETTERS
    if unspeakable or (capitals and len(bare) <= MAX_LETTERS):
        return spell_out(bare)
    return list(bare)
