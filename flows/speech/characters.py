"""Text in the characters that a release was trained on: others are spelt in known ones where there is a way."""

from __future__ import annotations

import unicodedata
from collections.abc import Set
from typing import NamedTuple

from triforce.models.reading.figures import in_words
from triforce.models.text import clean_text

SPELT = {
    "’": "'", "‘": "'", "‚": "'", "´": "'", "`": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‹": '"',
    "›": '"', "「": '"', "」": '"', "『": '"', "』": '"', "–": "-", "—": "-", "―": "-", "‐": "-", "‑": "-", "−": "-",
    "…": "...", "&": " and ", "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th",
    "ı": "i", "。": ".", "、": ",", "¿": "", "¡": "", "؟": "?", "،": ",", "؛": ";", "।": ".", "[": "(", "]": ")",
    "{": "(", "}": ")",
}  # fmt: skip
"""Plain spelling of typographic characters and ligatures, for texts typed otherwise than the training texts."""


class UnknownCharacterError(ValueError):
    """The text has letters or digits that the training texts did not have."""


class Readable(NamedTuple):
    """A text that a release can read, and what of the original it cannot."""

    text: str
    skipped: str = ""
    """Letters, digits, marks and signs that are left out, each once, in their order in the alphabet."""


def spoken(text: str, known: Set[str] | None, language: str = "en") -> Readable:
    """Return ``text`` with figures and signs in words of ``language``, in ``known`` characters."""
    return readable(in_words(text, language), known)


def readable(text: str, known: Set[str] | None) -> Readable:
    """Return ``text`` in ``known`` characters; where they are not recorded (None), only clean its white space.

    Tried in turn: the character itself, its other case, its compatibility form, its spelling in `SPELT`, its letter
    without accents. What is unknown all the same becomes a space, a combining mark nothing.
    """
    if known is None:
        return Readable(clean_text(text))
    text = unicodedata.normalize("NFC", text)
    spelt = {character: _spell(character, known) for character in set(text)}
    skipped = "".join(sorted(c for c, s in spelt.items() if s is None and unicodedata.category(c)[0] in "LNMS"))
    return Readable(clean_text("".join(_or_space(c, spelt[c]) for c in text)), skipped)


def named(characters: str) -> str:
    """Return characters as a person finds them: ``'ж' (U+0436)``, at most eight."""
    found = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in characters[:8])
    return found + (" and more" if len(characters) > 8 else "")


def refusal(skipped: str, known: Set[str] | None) -> UnknownCharacterError:
    """Return the error about characters that the release does not know."""
    letters = "".join(sorted(c for c in known or () if c.isprintable() and c != " "))
    return UnknownCharacterError(
        f"the text has {named(skipped)}, which this release never read in training: write it in other words, or with "
        f"what it knows: {letters}"
    )


def _or_space(character: str, spelling: str | None) -> str:
    if spelling is not None:
        return spelling
    return "" if unicodedata.category(character)[0] == "M" else " "


def _spell(character: str, known: Set[str]) -> str | None:
    if character.isspace():
        return " "
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    options = [character, unicodedata.normalize("NFKC", character), SPELT.get(character, ""), plain]
    options += [SPELT.get(option.lower(), "") for option in options]
    options += [option.lower() for option in options] + [option.upper() for option in options]
    for option in options:
        if option.strip() and all(c in known or c == " " for c in option):
            return option
    return None
