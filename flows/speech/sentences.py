"""Paragraphs split into pieces that can be spoken at once: sentences, and parts of sentences that are too long."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_CHARS = 220
"""Longest piece in characters: about 15 s of speech, as long as the training clips are. Assumed."""
BREAKS = (r"(?<=[;:])\s+", r"(?<=,)\s+|\s+(?=[-–—(])", r"\s+")
"""Places where a long sentence may be split, the better ones first."""


def split_sentences(text: str, language: str = "en", max_chars: int = MAX_CHARS) -> list[str]:
    """Return the sentences of a paragraph, none over ``max_chars``; a word longer than that is cut.

    Sentences are found by ``sentencex``, which knows the abbreviations of many languages.
    """
    if max_chars < 8:
        raise ValueError(f"max_chars {max_chars}: at least 8")
    return [piece for sentence in _sentences(text, language) for piece in _parts(sentence, max_chars)]


def _sentences(text: str, language: str) -> list[str]:
    import sentencex

    found = (sentence.strip() for sentence in sentencex.segment(language, " ".join(text.split())))
    return [sentence for sentence in found if any(c.isalnum() for c in sentence)]


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
    for piece in re.split(BREAKS[level], sentence):
        joined = f"{part} {piece}".strip()
        if part and (len(joined) > max_chars or len(part) >= aim):
            yield from _parts(part, max_chars, level + 1)
            joined = piece
        part = joined
    if part:
        yield from _parts(part, max_chars, level + 1)
