"""What a book is here: chapters of paragraphs, and what is known of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_BYTES = 50_000_000
"""Largest text of a book, in bytes; the Bible has 5 million. A larger one was packed to do harm."""


@dataclass(frozen=True)
class Chapter:
    """A chapter of a book."""

    title: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Book:
    """A book's text and what is known of it."""

    title: str
    chapters: tuple[Chapter, ...]
    author: str | None = None
    language: str = "en"
    year: int | None = None
    cover: bytes | None = None
    """The picture of its cover, as the file holds it."""


def group_chapters(parts: Iterable[tuple[str, bool]], title: str) -> tuple[Chapter, ...]:
    """Group paragraphs and headings, in order, into chapters.

    A heading is read as its chapter's first words; one right below another, as in "Chapter I" and its name, begins no
    chapter of its own.
    """
    names: list[str] = []
    paragraphs: list[list[str]] = []
    below_heading = False
    for words, heading in parts:
        if heading and below_heading:
            names[-1] += f": {words}"
        elif heading or not names:
            names.append(words if heading else title)
            paragraphs.append([])
        paragraphs[-1].append(words)
        below_heading = heading
    return tuple(Chapter(name, tuple(read)) for name, read in zip(names, paragraphs, strict=True))


GUTENBERG = re.compile(r"^\*\*\* ?(START|END) OF (?:THE|THIS) PROJECT GUTENBERG.*$", re.MULTILINE | re.IGNORECASE)
"""Lines between which the book itself stands."""
CREDITS = re.compile(
    r"End of (?:the )?Project Gutenberg|Produced by|Transcribed (?:from|by)|E-text prepared by|This (?:e-?text|etext) ",
    re.IGNORECASE,
)
"""Beginnings of paragraphs about the making of the file."""
ON_THE_PAGE = (
    re.compile(r"[\[{](?:Pg|Page|p\.|S\.|Seite)\s*[\divxlc]+[\]}]", re.IGNORECASE),
    re.compile(
        r"\[(?:Illustration|Footnote|Transcriber'?s note|Sidenote|Abbildung|Fußnote|Note)\b[^\[\]]*\]", re.IGNORECASE
    ),
    re.compile(r"(?<=[^\s\d])\[(?:\d{1,4}|[a-z]|[*†‡§]{1,3})\]"),
)  # fmt: skip
"""Page numbers, pictures, notes and their marks, as plain text writes them."""


def without_page_marks(text: str) -> str:
    """Return text without what is on a page and is not the text."""
    for pattern in ON_THE_PAGE:
        text = pattern.sub("", text)
    return text
