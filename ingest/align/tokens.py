"""Texts as tokens to show and units to compare: what is written, and what of it two transcripts must have in common.

A token is a word with the marks that stand at it. Its units are its words in lower case without marks and accents:
``Twenty-three,`` has two, a dash none. Where words are written without spaces, each character is a token.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from triforce.ingest.asr.writing import script_of

_ASCII_UNIT = re.compile(r"[a-z0-9]+")
_DASH = re.compile(r"(?<=\N{EM DASH}|\N{HORIZONTAL ELLIPSIS})(?=\w)|(?<=--)(?=\w)")
"""Behind a dash between two words: clips are cut there."""
_APOSTROPHES = str.maketrans("", "", "'\N{RIGHT SINGLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}`")
_OPENING, _CLOSING = "([{<", ")]}>"


@dataclass(frozen=True, slots=True)
class Token:
    """A word as it is published."""

    text: str
    """With its punctuation, without spaces."""
    has_space: bool
    """Whether a space stands before it."""
    units: tuple[str, ...]
    is_aside: bool = False
    """Whether it stands in brackets: a remark that is perhaps not said."""


def tokenize(pieces: Iterable[str]) -> list[Token]:
    """Return the tokens of text that comes in ``pieces``, each of which ends a word.

    A mark that stands alone joins the token before it, an opening one the token after it.
    """
    tokens: list[Token] = []
    opening, depth = "", 0
    for piece in pieces:
        for word in piece.split():
            for part, has_space in _split(word):
                units = units_of(part)
                is_aside = depth > 0 or part[0] in _OPENING
                depth = max(0, depth + _balance(part))
                if units:
                    tokens.append(Token(opening + part, has_space or bool(opening), units, is_aside))
                    opening = ""
                elif tokens and not opening and not _is_opening(part):
                    last = tokens[-1]
                    text = f"{last.text} {part}" if has_space else last.text + part
                    tokens[-1] = Token(text, last.has_space, last.units, last.is_aside)
                else:
                    opening += part
        depth = 0  # no remark goes on in the next line
    return tokens


def units_of(text: str) -> tuple[str, ...]:
    """Return the units of a word."""
    plain = text.lower().translate(_APOSTROPHES)
    if plain.isascii():
        return tuple(_ASCII_UNIT.findall(plain))
    plain = unicodedata.normalize("NFKD", plain.casefold())
    kept = "".join(
        character if character.isalnum() else "" if unicodedata.category(character)[0] == "M" else " "
        for character in plain
    )
    return tuple(kept.split())


def joined(tokens: Iterable[Token]) -> str:
    """Return tokens as one text."""
    return "".join((" " if token.has_space else "") + token.text for token in tokens).strip()


def _split(word: str) -> Iterator[tuple[str, bool]]:
    """The parts of a word at dashes between words, and in scripts without spaces."""
    for at, clause in enumerate(_DASH.split(word)):
        for part, has_space in _parts(clause):
            yield part, has_space and not at


def _parts(word: str) -> Iterator[tuple[str, bool]]:
    """The word, or, of a script without spaces, its characters with the marks behind each."""
    if word.isascii():
        yield word, True
        return
    part, has_space = "", True
    was_alone = False
    for character in word:
        script = script_of(character)
        is_alone = script is not None and not script.has_spaces
        is_mark = unicodedata.category(character)[0] in "MPS"
        if part and not is_mark and (is_alone or was_alone):
            yield part, has_space
            part, has_space = "", False
        if not is_mark:
            was_alone = is_alone
        part += character
    yield part, has_space


def _balance(text: str) -> int:
    return sum(text.count(mark) for mark in _OPENING) - sum(text.count(mark) for mark in _CLOSING)


def _is_opening(text: str) -> bool:
    return all(unicodedata.category(character) in ("Ps", "Pi", "Sc") or character in "\"'¿¡" for character in text)
