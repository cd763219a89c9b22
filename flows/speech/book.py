"""A book's chapters and paragraphs, from plain text, Markdown or EPUB."""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

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


def read_book_file(path: Path) -> Book:
    """Read a ``.txt``, ``.md`` or ``.epub`` file. Raises ValueError for another kind or for nothing to read."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a .txt, .md or .epub")
    readers = {".txt": _plain_book, ".md": _markdown_book, ".markdown": _markdown_book, ".epub": _epub_book}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: a book is one of {', '.join(readers)}, not {path.suffix!r}")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; a book has {MAX_BYTES} at most")
    book = reader(path)
    chapters = tuple(chapter for chapter in book.chapters if chapter.paragraphs)
    if not chapters:
        raise ValueError(f"{path}: no text to read in it")
    return replace(book, chapters=chapters)


HEADING = re.compile(
    r"^(?:(?:chapter|part|book|canto|act|scene|letter)\s+(?:[ivxlcdm]+|\d+|one|two|three|four|five|six|seven|eight|nine"
    r"|ten|eleven|twelve)\b.{0,80}|(?:prologue|epilogue|preface|introduction|foreword|afterword|[ivxlcdm]{1,7}\.))$",
    re.IGNORECASE,
)
GUTENBERG = re.compile(r"^\*\*\* ?(START|END) OF (?:THE|THIS) PROJECT GUTENBERG.*$", re.MULTILINE)


def _plain_book(path: Path) -> Book:
    """Split at empty lines into paragraphs; a line alone that looks like a chapter's heading begins a chapter."""
    text = _decoded(path.read_bytes(), str(path)).replace("\r\n", "\n").replace("\r", "\n")
    title, author = path.stem, None
    marks = list(GUTENBERG.finditer(text))
    if marks and marks[0][1] == "START":
        head = text[: marks[0].start()]
        title, author = (
            found[1].strip() if (found := re.search(rf"^{name}: *(.+)$", head, re.MULTILINE)) else default
            for name, default in (("Title", title), ("Author", author))
        )
        text = text[marks[0].end() : marks[-1].start() if marks[-1][1] == "END" else None]
    blocks = (" ".join(block.split()) for block in re.split(r"\n\s*\n", text))
    parts = ((block, bool(HEADING.match(block))) for block in blocks if block)
    return Book(title, _chapters(parts, title), author)


def _markdown_book(path: Path) -> Book:
    """Take the heading of the first level as title, where there is only one; others begin chapters."""
    from markdown_it import MarkdownIt

    text = _decoded(path.read_bytes(), str(path))
    front = re.match(r"\A---\n(.*?)\n---\n", text, re.DOTALL)
    tokens = MarkdownIt("commonmark").parse(text[front.end() :] if front else text)
    parts: list[tuple[str, bool]] = []
    levels: list[int] = []
    for before, token in pairwise(tokens):
        if token.type == "inline" and (words := _spoken(token)):
            heading = before.type == "heading_open"
            parts.append((words, heading))
            levels.append(int(before.tag[1]) if heading else 0)
    title = path.stem
    if levels.count(1) == 1 and levels[0] == 1:
        title = parts.pop(0)[0]
    named = re.search(r"^(?:title): *[\"']?(.+?)[\"']?$", front[1], re.MULTILINE) if front else None
    author = re.search(r"^(?:author): *[\"']?(.+?)[\"']?$", front[1], re.MULTILINE) if front else None
    title = named[1] if named else title
    return Book(title, _chapters(parts, title), author[1] if author else None)


def _spoken(inline: object) -> str:
    """Return the words of a Markdown line: text and code, no pictures, no addresses."""
    words = ""
    for child in getattr(inline, "children", None) or []:
        if child.type in ("text", "code_inline"):
            words += child.content
        elif child.type in ("softbreak", "hardbreak"):
            words += " "
    return " ".join(words.split())


def _chapters(parts: Iterable[tuple[str, bool]], title: str) -> tuple[Chapter, ...]:
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


class _Page(HTMLParser):
    """The text blocks of a page of XHTML, and which of them are headings."""

    BLOCKS = frozenset(
        ("p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "blockquote", "section", "article", "td", "th")
    ) | {"dt", "dd", "figcaption", "pre", "br", "hr", "body"}
    SKIPPED = frozenset(("script", "style", "head", "title", "svg", "rt", "rp", "nav"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.blocks: list[tuple[str, bool]] = []
        self._words, self._heading, self._hidden = "", False, 0
        self.feed(text)
        self._end()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in self.SKIPPED
        if tag in self.BLOCKS and not (tag == "br" and self._heading):
            self._end()
            self._heading = tag in ("h1", "h2", "h3")
        elif tag == "br":
            self._words += " "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.SKIPPED:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in self.SKIPPED and self._hidden > 0
        if tag in self.BLOCKS and tag != "br":
            self._end()

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._words += data

    def _end(self) -> None:
        if words := " ".join(self._words.split()):
            self.blocks.append((words, self._heading))
        self._words, self._heading = "", False


def _epub_book(path: Path) -> Book:
    """Read the pages of an EPUB 2 or 3 in the order of its spine."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_epub(archive, path)
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError, StopIteration) as error:
        raise ValueError(f"{path}: not a whole EPUB: {error or type(error).__name__}") from error


def _read_epub(archive: zipfile.ZipFile, path: Path) -> Book:
    texts = [item for item in archive.infolist() if item.filename.endswith(("html", "htm", "xml", "opf"))]
    if sum(item.file_size for item in texts) > MAX_BYTES:
        raise ValueError(f"{path}: more than {MAX_BYTES} bytes of text")
    if "META-INF/encryption.xml" in archive.namelist():  # fonts may be; a text that is cannot be read
        locks = ElementTree.fromstring(archive.read("META-INF/encryption.xml"))
        if any("html" in lock.attrib.get("URI", "") for lock in locks.iterfind(".//{*}CipherReference")):
            raise ValueError(f"{path}: encrypted; give one without copy protection")
    container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
    package_path = next(iter(container.iterfind(".//{*}rootfile"))).attrib["full-path"]
    package = ElementTree.fromstring(archive.read(package_path))
    items = {item.attrib["id"]: item.attrib for item in package.iterfind(".//{*}item")}
    parts: list[tuple[str, bool]] = []
    for reference in package.iterfind(".//{*}itemref"):
        item = items.get(reference.attrib["idref"], {})
        if reference.attrib.get("linear") == "no" or "nav" in item.get("properties", "").split():
            continue
        if "html" in item.get("media-type", ""):
            name = posixpath.normpath(posixpath.join(posixpath.dirname(package_path), unquote(item["href"])))
            parts += _Page(_decoded(archive.read(name), name)).blocks

    def about(name: str) -> str | None:
        return next((e.text.strip() for e in package.iterfind(f".//{{*}}{name}") if e.text and e.text.strip()), None)

    title = about("title") or path.stem
    return Book(title, _chapters(parts, title), about("creator"), (about("language") or "en").split("-")[0].lower())


def _decoded(data: bytes, name: str) -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        if b"\0" in data:
            raise ValueError(f"{name}: not text") from None
        return data.decode("cp1252", errors="replace")
