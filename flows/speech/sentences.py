"""Paragraphs split into pieces that can be spoken at once: sentences, and parts of sentences that are too long."""

from __future__ import annotations

import re
from collections.abc import Iterator

from triforce.models.reading.figures import in_words
from triforce.models.reading.tidy import tidy

MAX_CHARS = 220
"""Longest piece in characters: about 15 s of speech, as long as the training clips are. Assumed."""
BREAKS = (r"(?<=[;:])\s+|(?<=[；：])", r"(?<=[,،])\s+|(?<=[，、])|\s+(?=[-–—(])", r"\s+")
"""Places where a long sentence may be split, the better ones first."""
LINES = re.compile(r"\n\s*\n|\n(?=[ \t]*(?:#{1,6}[ \t]|[-*•‣▪●][ \t]|\d{1,3}[.)][ \t]))")
"""Where a text that a person types or pastes parts into paragraphs, headings and list items."""


def split_sentences(text: str, language: str = "en", max_chars: int = MAX_CHARS) -> list[str]:
    """Return the sentences of a paragraph, none over ``max_chars``; a word longer than that is cut.

    Sentences are found by ``sentencex``, which knows the abbreviations of many languages.
    """
    if max_chars < 8:
        raise ValueError(f"max_chars {max_chars}: at least 8")
    sentences = filter(_says, _sentences(text, language))
    return [piece for sentence in sentences for piece in _parts(sentence, max_chars)]


def split_spoken(text: str, language: str = "en", max_chars: int = MAX_CHARS) -> list[str]:
    """Return the sentences of a text of any number of paragraphs as they are said: figures and signs in words.

    Sentences are found before abbreviations lose their full stops, and parted by the length of what is said.
    """
    paragraphs = (tidy(part, language) for part in LINES.split(text))
    sentences = (in_words(part, language) for whole in paragraphs for part in _sentences(whole, language))
    return [piece for sentence in sentences if _says(sentence) for piece in _parts(sentence, max_chars)]


def _says(sentence: str) -> bool:
    return any(c.isalnum() for c in sentence)


def _sentences(text: str, language: str) -> list[str]:
    import sentencex

    return [sentence.strip() for sentence in sentencex.segment(language, " ".join(text.split()))]


def _parts(sentence: str, max_chars: int, level: int = 0) -> Iterator[str]:
    """Split a sentence into as few parts as needed, as even in length as the breaks allow."""
    if len(sentence) <= max_chars:
        yield sentence
        return
    if level == len(BREAKS):
        yield from (sentence[start : start + max_chars] for start in range(0, len(sentence), max_chars))
        return
    aim = len(sentence) / -(-len(sentence) // max_chars)
    part = ""
    for piece in _pieces(BREAKS[level], sentence):
        joined = part + piece
        if part and (len(joined.strip()) > max_chars or len(part) >= aim):
            yield from _parts(part.strip(), max_chars, level + 1)
            joined = piece
        part = joined
    if part.strip():
        yield from _parts(part.strip(), max_chars, level + 1)


def _pieces(pattern: str, sentence: str) -> Iterator[str]:
    """Yield what lies between the places that a pattern finds, each with the white space behind it."""
    start = 0
    for found in re.finditer(pattern, sentence):
        yield sentence[start : found.end()]
        start = found.end()
    yield sentence[start:]
