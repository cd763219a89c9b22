"""How speech is written: words and their length in any script, so that what is said of text holds for it.

A limit in characters or words is one of English until it says otherwise. Chinese writes a syllable a character and no
spaces, German glues words together, Hindi writes vowels as marks that are no letters to a regular expression.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple


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
    if text.isascii():
        return float(len(text))
    return sum(1.0 if (script := script_of(character)) is None else script.letters for character in text)


def plain_words(text: str | None) -> list[str]:
    """Return the words of a text in lower case without punctuation; text without spaces is one word up to a mark."""
    if text is None or text.isascii():
        return _ASCII_WORD.findall((text or "").lower())
    kept = [
        character if character.isalnum() or character in "'_" or unicodedata.category(character)[0] == "M" else " "
        for character in text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    ]
    return "".join(kept).split()


def spaced_words(text: str | None) -> list[str]:
    """Return the words that are written with spaces: of mixed text, the parts in such scripts."""
    return [part for has_spaces, part in _parts(text) if has_spaces]


def repeatable_units(text: str | None) -> list[str]:
    """Return the parts of a text that seldom come twice: words, and without spaces each run of three characters."""
    units: list[str] = []
    for has_spaces, part in _parts(text):
        units += [part] if has_spaces else [part[at : at + 3] for at in range(max(1, len(part) - 2))]
    return units


def _parts(text: str | None) -> Iterator[tuple[bool, str]]:
    for word in plain_words(text):
        if word.isascii():
            yield True, word
            continue
        for has_spaces, part in itertools.groupby(word, _has_spaces):
            yield has_spaces, "".join(part)


def _has_spaces(character: str) -> bool:
    script = script_of(character)
    return script is None or script.has_spaces
