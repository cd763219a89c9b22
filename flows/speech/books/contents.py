"""The table of contents of an EPUB, and chapters by it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from triforce.flows.speech.books.book import Chapter, group_chapters
from triforce.flows.speech.books.headings import is_contents
from triforce.flows.speech.books.page import Block, Node

MAX_LEVEL = 2
"""Levels of a table of contents that begin chapters wherever they point; deeper ones do at the top of a page."""


class Entry(NamedTuple):
    """An entry of a table of contents."""

    title: str
    page: str
    """Name of the page in the archive."""
    place: str
    """Name of the place in the page; empty for its top."""
    level: int


class Page(NamedTuple):
    """A page of the book."""

    name: str
    blocks: list[Block]


def nav_entries(root: Node, name: str, resolve: Callable[[str, str], str]) -> list[Entry]:
    """Return the entries of an EPUB 3's navigation document."""
    navs = [node for node in root.walk() if node.tag == "nav"] or [root]
    nav = next((node for node in navs if "toc" in node.types), navs[0])
    found: list[Entry] = []

    def collect(node: Node, level: int) -> None:
        for child in node.children:
            if not isinstance(child, Node):
                continue
            if child.tag == "a" and child.attributes.get("href") and child.text():
                page, _, place = child.attributes["href"].partition("#")
                found.append(Entry(child.text(), resolve(name, page) if page else name, place, level))
            else:
                collect(child, level + (child.tag == "ol" or child.tag == "ul"))

    collect(nav, 0)
    return found


def ncx_entries(ncx: ElementTree.Element, name: str, resolve: Callable[[str, str], str]) -> list[Entry]:
    """Return the entries of an EPUB 2's ``toc.ncx``."""
    found: list[Entry] = []

    def collect(parent: ElementTree.Element, level: int) -> None:
        for point in parent.iterfind("{*}navPoint"):
            label = point.find("{*}navLabel/{*}text")
            content = point.find("{*}content")
            title = " ".join("".join(label.itertext()).split()) if label is not None else ""
            if title and content is not None:
                page, _, place = content.attrib.get("src", "").partition("#")
                found.append(Entry(title, resolve(name, page), place, level))
            collect(point, level + 1)

    for points in ncx.iterfind(".//{*}navMap"):
        collect(points, 1)
    return found


def chapters_of(pages: Sequence[Page], entries: Sequence[Entry], title: str) -> tuple[Chapter, ...]:
    """Return a book's chapters: by its table of contents, or by headings where that tells less."""
    by_headings = group_chapters([(block.words, block.heading) for page in pages for block in page.blocks], title)
    starts = _starts(pages, entries)
    if len(starts) < 2 and len(by_headings) > len(starts):
        return by_headings
    chapters: list[tuple[str, list[Block]]] = []
    for number, block in enumerate(block for page in pages for block in page.blocks):
        if number in starts or not chapters:
            chapters.append((starts.get(number, title), []))
        chapters[-1][1].append(block)
    return tuple(_spoken(name, found) for name, found in _joined(chapters, title))


def _starts(pages: Sequence[Page], entries: Sequence[Entry]) -> dict[int, str]:
    """Return the titles of chapters by the number of the block that each begins with."""
    first: dict[str, int] = {}
    places: dict[tuple[str, str], int] = {}
    number = 0
    for page in pages:
        if page.blocks:
            first.setdefault(page.name, number)
        for block in page.blocks:
            for place in block.names:
                places.setdefault((page.name, place), number)
            number += 1
    found: dict[int, str] = {}
    for entry in sorted(entries, key=lambda entry: entry.level):
        if entry.page not in first or is_contents(entry.title):
            continue
        top = first[entry.page]
        start = places.get((entry.page, entry.place), top if not entry.place or entry.level <= 1 else None)
        if start is None or (entry.level > MAX_LEVEL and start != top):
            continue
        if start not in found:
            found[start] = entry.title
        elif _letters(entry.title) not in _letters(found[start]):
            found[start] += f": {entry.title}"
    return found


def _joined(chapters: list[tuple[str, list[Block]]], title: str) -> list[tuple[str, list[Block]]]:
    """Join what has headings alone, as the page of a part or of the title, to the chapter behind it."""
    joined: list[tuple[str, list[Block]]] = []
    for name, found in chapters:
        if joined and all(block.heading for block in joined[-1][1]):
            above, headings = joined.pop()
            name = name if _letters(above) == _letters(title) else f"{above}: {name}"
            found = [*headings, *found]
        joined.append((name, found))
    return joined


def _spoken(name: str, found: list[Block]) -> Chapter:
    """Return a chapter whose first words are its title, which the page itself may not have."""
    words = tuple(block.words for block in found)
    beginning = _letters("".join(words[:3]))
    last = _letters(name.rpartition(": ")[2])
    titled = (
        any(block.heading for block in found[:2]) or beginning.startswith(_letters(name)) or beginning.startswith(last)
    )
    return Chapter(name, words if titled else (name, *words))


def _letters(text: str) -> str:
    return re.sub(r"\W+", "", text).casefold()
