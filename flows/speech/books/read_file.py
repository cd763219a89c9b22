"""A book from a file, by its ending."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from triforce.flows.speech.books.book import MAX_BYTES, Book
from triforce.flows.speech.books.epub import epub_book
from triforce.flows.speech.books.plain import markdown_book, plain_book

READERS = {".txt": plain_book, ".md": markdown_book, ".markdown": markdown_book, ".epub": epub_book}


def read_book_file(path: Path) -> Book:
    """Read a ``.txt``, ``.md`` or ``.epub`` file. Raises ValueError for another kind or for nothing to read."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a .txt, .md or .epub")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: a book is one of {', '.join(READERS)}, not {path.suffix!r}")
    if reader is not epub_book and path.stat().st_size > MAX_BYTES:  # of an EPUB the most may be pictures
        raise ValueError(f"{path}: {path.stat().st_size} bytes; a book has {MAX_BYTES} at most")
    # A name that the locale cannot spell holds halves of characters, which no file may have in it.
    title = os.fsencode(path.stem).decode("utf-8", "replace")
    book = reader(path, title)
    chapters = tuple(chapter for chapter in book.chapters if chapter.paragraphs)
    if not chapters:
        raise ValueError(f"{path}: no text to read in it")
    return replace(book, chapters=chapters)
