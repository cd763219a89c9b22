"""How speech is written: words and their length in any script, so that what is said of text holds for it.

A limit in characters or words is one of English until it says otherwise. Chinese writes a syllable a character and no
spaces, German glues words together, Hindi writes vowels as marks that are no letters to a regular expression.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar


class Script(NamedTuple):
    """A range of characters that is not written as the Latin alphabet is."""

    first: int
    last: int
    name: str
    letters: float
    """Letters of an alphabet that are said in the time of one character. English is spoken at 14.5 characters a second;
    syllables a second: English 6.2, Mandarin 5.2, Japanese 7.8 (Pellegrino, Coupe and Marsico 2011), Korean 7."""
    has_spaces: bool
    """Whether words are written apart."""


SCRIPTS = (
    Script(0x0590, 0x05FF, "Hebrew", 1.25, True),
    Script(0x0600, 0x06FF, "Arabic", 1.25, True),
    Script(0x0E00, 0x0E7F, "Thai", 1.0, False),
    Script(0x0E80, 0x0EFF, "Lao", 1.0, False),
    Script(0x0F00, 0x0FFF, "Tibetan", 1.0, False),
    Script(0x1000, 0x109F, "Burmese", 1.0, False),
    Script(0x1200, 0x137F, "Ethiopic", 2.0, True),
    Script(0x1780, 0x17FF, "Khmer", 1.0, False),
    Script(0x3005, 0x3007, "Han", 3.0, False),
    Script(0x3040, 0x30FF, "Kana", 2.0, False),
    Script(0x3400, 0x4DBF, "Han", 3.0, False),
    Script(0x4E00, 0x9FFF, "Han", 3.0, False),
    Script(0xAC00, 0xD7A3, "Hangul", 2.0, True),
    Script(0xF900, 0xFAFF, "Han", 3.0, False),
    Script(0xFF66, 0xFF9F, "Kana", 2.0, False),
    Script(0x20000, 0x323AF, "Han", 3.0, False),
)
"""In order. All other characters count as one letter, and are written with spaces."""

NON_LATIN = frozenset({
    "am", "ar", "as", "ba", "be", "bg", "bn", "bo", "el", "fa", "gu", "he", "hi", "hy", "ja", "ka", "kk", "km",
    "kn", "ko", "lo", "mk", "ml", "mn", "mr", "my", "ne", "pa", "ps", "ru", "sa", "sd", "si", "sr", "ta", "te",
    "tg", "th", "tt", "uk", "ur", "yi", "yue", "zh",
})  # fmt: skip
"""Languages, by Whisper's codes, whose characters take Whisper's tokenizer up to several tokens each."""

_ASCII_WORD = re.compile(r"[a-z0-9'_]+")
"""A word of text in ASCII, which needs no look at each character."""
_FIRSTS = [script.first for script in SCRIPTS]


def script_of(character: str) -> Script | None:
    """Return the script of a character, None where it is written as the Latin alphabet is."""
    code = ord(character)
    script = SCRIPTS[bisect_right(_FIRSTS, code) - 1]
    return script if script.first <= code <= script.last else None


def spoken_letters(text: str) -> float:
    """Return the length of a text in letters of an alphabet: the number of its characters, where it is in one."""
    return float(len(text)) if text.isascii() else sum(map(_LETTERS.__getitem__, text))


def plain_words(text: str | None) -> list[str]:
    """Return the words of a text in lower case without punctuation; text without spaces is one word up to a mark."""
    if text is None or text.isascii():
        return _ASCII_WORD.findall((text or "").lower())
    return text.lower().translate(_IN_WORDS).split()


def spaced_words(text: str | None) -> list[str]:
    """Return the words that are written with spaces: of mixed text, the parts in such scripts."""
    return [part for has_spaces, part in _parts(plain_words(text)) if has_spaces]


def repeatable_units(text: str | None) -> list[str]:
    """Return the parts of a text that seldom come twice: words, and without spaces each run of three characters."""
    return units_of(plain_words(text))[0]


def units_of(words: list[str]) -> tuple[list[str], list[str]]:
    """Return what `repeatable_units` and `spaced_words` give for a text of these plain words."""
    units: list[str] = []
    spaced: list[str] = []
    for has_spaces, part in _parts(words):
        units += [part] if has_spaces else [part[at : at + 3] for at in range(max(1, len(part) - 2))]
        spaced += [part] if has_spaces else []
    return units, spaced


def _parts(words: list[str]) -> Iterator[tuple[bool, str]]:
    for word in words:
        if word.isascii():
            yield True, word
            continue
        for has_spaces, part in itertools.groupby(word, _HAS_SPACES.__getitem__):
            yield has_spaces, "".join(part)


Key = TypeVar("Key", str, int)
Value = TypeVar("Value")


class _Remembered(dict[Key, Value]):
    """A function, remembered: of the few characters that texts are made of it is asked for millions of times."""

    def __init__(self, function: Callable[[Key], Value]) -> None:
        self._function = function

    def __missing__(self, key: Key) -> Value:
        return self.setdefault(key, self._function(key))


def _letters(character: str) -> float:
    script = script_of(character)
    return 1.0 if script is None else script.letters


def _has_spaces(character: str) -> bool:
    script = script_of(character)
    return script is None or script.has_spaces


def _in_word(code: int) -> str:
    """What becomes of a character in plain words, by its code."""
    character = chr(code)
    if character == "\N{RIGHT SINGLE QUOTATION MARK}":
        return "'"
    return character if character.isalnum() or character in "'_" or unicodedata.category(character)[0] == "M" else " "


_LETTERS, _HAS_SPACES, _IN_WORDS = _Remembered(_letters), _Remembered(_has_spaces), _Remembered(_in_word)
