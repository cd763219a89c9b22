"""A page of XHTML as its text: blocks to read, without what is on a page and is not the text.

Notes, their marks, page numbers, tables of contents, title pages and licences are told by what toolchains write of
them: ``epub:type`` and ``role``, class names, ids, and the links between a mark and its note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from typing import NamedTuple

from triforce.flows.speech.books.book import without_page_marks

BLOCKS = frozenset({
    "p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ul", "ol", "dl", "blockquote", "section", "article",
    "td", "th", "tr", "table", "dt", "dd", "figure", "figcaption", "pre", "hr", "body", "header", "footer", "aside",
    "main", "center", "address", "details", "summary", "nav",
})  # fmt: skip
SKIPPED = frozenset({
    "script", "style", "head", "title", "svg", "rt", "rp", "nav", "template", "object", "iframe", "video",
})  # fmt: skip
VOID = frozenset({
    "br", "hr", "img", "link", "meta", "input", "col", "wbr", "area", "base", "source", "track", "embed",
})  # fmt: skip
HEADINGS = frozenset(("h1", "h2", "h3"))
CLOSED_BY = {
    **dict.fromkeys(BLOCKS - {"dt", "dd", "li", "tr", "td", "th"}, frozenset(("p",))),
    "li": frozenset(("li", "p")),
    **dict.fromkeys(("dt", "dd"), frozenset(("dt", "dd", "p"))),
    "tr": frozenset(("tr", "td", "th", "p")),
    **dict.fromkeys(("td", "th"), frozenset(("td", "th", "p"))),
}
"""Elements that the begin of another ends, where nobody closed them."""
SCOPES = frozenset({
    "ul", "ol", "dl", "table", "section", "div", "blockquote", "body", "td", "th", "article", "aside",
})  # fmt: skip
"""Elements behind which nothing is closed unseen."""
MAX_DEPTH = 150
"""Elements inside one another; those below are read as if they stood beside."""

NOT_TEXT = frozenset({
    "note", "noteref", "footnote", "footnotes", "notes", "endnote", "endnotes", "rearnote", "rearnotes",
    "pagebreak", "page-list", "pagelist", "toc", "toc-brief", "landmarks", "loi", "lot", "loa", "lov", "index",
    "backlink", "titlepage", "halftitle", "halftitlepage", "imprint", "imprimatur", "colophon", "copyright-page",
    "cover", "credits", "credit", "other-credits",
})  # fmt: skip
"""Structures by ``epub:type``, ``role`` without "doc-", and the types of a package's guide, that are not read."""
GUIDE = {"title-page": "titlepage", "copyright": "copyright-page", "text": "bodymatter", "start": "bodymatter"}
"""Types of an EPUB 2's guide by the name of the same structure in EPUB 3."""
CLASSES = re.compile(
    r"(?:page-?(?:num(?:ber)?|no|break)s?|x-ebookmaker-pageno|pagenumber|note-?ref\w*|foot-?note-?(?:ref|back|anchor)?s?"
    r"|fn-?(?:ref|anchor|back|num)|footnote-text|footnote-hr|end-?notes?|endnote-?ref|tnote|trans-?notes?"
    r"|transcribers?-?notes?|pg-?boilerplate|pg-?header|pg-?footer|toc|contents-list|mso(?:footnote|endnote)\w*|msotoc\w*"
    r"|visually-?hidden|sr-only|screen-reader-(?:text|only)|hidden|titlepage|halftitlepage|copyright(?:page)?|colophon)",
    re.IGNORECASE,
)
"""Class names, whole, of what is not read."""
IDS = re.compile(
    r"pg-header|pg-footer|pg-machine-header|_?(?:ftn|edn)\d+|footnotes?|endnotes?|coverpage-wrapper", re.IGNORECASE
)
MARK = re.compile(r"[\[({]?(?:note |n\. ?)?(?:\d{1,4}|[ivxlc]{1,6}|[a-z]|[*†‡§¶#]{1,4})[\])}.]?", re.IGNORECASE)
"""The mark of a note: a number, a letter or a sign, with brackets or without."""
BACK = frozenset("↩↑↵⏎^⤴⮐▲←\ufe0e\ufe0f")
"""Signs of a link back to the text."""
NOTE_TARGET = re.compile(
    r"_?(?:ftn|edn|fn|en|note|footnote|endnote|rearnote|noteref|foot|nota|fussnote|n)[-_:.]?(?:ref)?\w{0,3}[-_:.]?\d+\w*",
    re.IGNORECASE,
)
"""Names of places that marks of notes point to."""
MAX_NOTE_CHARS = 6000
MIN_LINKS, LINKED = 3, 0.7
"""Links to other places, and their share of the words, from which a list is a table of contents. Assumed."""


class Node:
    """An element: its tag, its attributes, and the text and elements in it."""

    def __init__(self, tag: str, attributes: dict[str, str], parent: Node | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Node | str] = []
        self.skip = False

    def walk(self) -> Iterator[Node]:
        """Yield this element and those in it, in order."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += [child for child in reversed(node.children) if isinstance(child, Node)]

    def text(self) -> str:
        """Return all text in it, with its white space as one space each."""
        parts = (child.text() if isinstance(child, Node) else child for child in self.children)
        return " ".join("".join(parts).split())

    @property
    def id(self) -> str:
        """The name that links point to."""
        return self.attributes.get("id") or (self.attributes.get("name", "") if self.tag == "a" else "")

    @property
    def types(self) -> set[str]:
        """Its structures, by ``epub:type`` and by ``role``."""
        found = self.attributes.get("epub:type", "").split()
        return {*found, *(role.removeprefix("doc-") for role in self.attributes.get("role", "").split())}

    def is_skipped(self) -> bool:
        """Whether it is not read, with all that is in it."""
        attributes = self.attributes
        if self.skip or self.tag in SKIPPED or "hidden" in attributes or self.types & NOT_TEXT:
            return True
        if re.search(r"display:\s*none|visibility:\s*hidden", attributes.get("style", ""), re.IGNORECASE):
            return True
        if any(CLASSES.fullmatch(name) for name in attributes.get("class", "").split()):
            return True
        if attributes.get("id") and IDS.fullmatch(attributes["id"]):
            return True
        return self.tag == "a" and set(self.text()) <= BACK and bool(self.text())


class Block(NamedTuple):
    """A paragraph or heading, and the names of places in it."""

    words: str
    heading: bool
    names: tuple[str, ...]


class _Builder(HTMLParser):
    """Markup as elements; what is not closed is closed by what may not stand in it."""

    def __init__(self) -> None:
        super().__init__()
        self.root = self.at = Node("", {}, None)
        self.depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        tag = tag.rpartition(":")[2]
        self._close_before(tag)
        node = Node(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(node)
        if tag not in VOID and self.depth < MAX_DEPTH:
            self.at, self.depth = node, self.depth + 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.at.tag == tag.rpartition(":")[2] and tag not in VOID:
            self._up()

    def handle_endtag(self, tag: str) -> None:
        tag = tag.rpartition(":")[2]
        node: Node | None = self.at
        while node is not None and node.tag != tag:
            node = node.parent
        while node is not None and self.at.parent is not None:
            closed = self.at
            self._up()
            if closed is node:
                break

    def handle_data(self, data: str) -> None:
        self.at.children.append(data)

    def _up(self) -> None:
        assert self.at.parent is not None
        self.at, self.depth = self.at.parent, self.depth - 1

    def _close_before(self, tag: str) -> None:
        closed = CLOSED_BY.get(tag, frozenset())
        node: Node | None = self.at
        while node is not None and node.tag not in closed:
            if node.tag in SCOPES:
                return
            node = node.parent
        while node is not None:
            last = self.at is node
            self._up()
            if last:
                return


def parse(markup: str) -> Node:
    """Return the elements of a page."""
    builder = _Builder()
    builder.feed(markup)
    builder.close()
    return builder.root


def is_mark(node: Node) -> bool:
    """Whether a link is the mark of a note."""
    target = node.attributes.get("href", "")
    if node.tag != "a" or "#" not in target:
        return False
    text = node.text()
    if not MARK.fullmatch(text):
        return False
    if node.types & {"noteref"} or any(CLASSES.fullmatch(name) for name in node.attributes.get("class", "").split()):
        return True
    raised = any(one.tag == "sup" for one in node.walk()) or _within(node, "sup")
    named = NOTE_TARGET.fullmatch(target.rpartition("#")[2]) is not None
    return raised or named or text[0] in "[({*†‡§¶"


def _within(node: Node, tag: str) -> bool:
    above = node.parent
    while above is not None and above.tag != tag:
        above = above.parent
    return above is not None


def note_of(target: Node) -> Node | None:
    """Return the element that a place in a note belongs to; None where it is no note's."""
    node: Node | None = target
    while node is not None and node.tag not in ("p", "li", "dd", "dt", "td", "aside", "div", "section"):
        node = node.parent
    if node is None or len(node.text()) > MAX_NOTE_CHARS or any(one.tag in HEADINGS for one in node.walk()):
        return None
    if node is not target and not node.text().startswith(target.text()[:20]):
        return None
    return node


def blocks(root: Node) -> list[Block]:
    """Return the blocks of a page in order."""
    return _Reader(root).blocks


class _Reader:
    """Collects the blocks of a page."""

    def __init__(self, root: Node) -> None:
        self.blocks: list[Block] = []
        self._words, self._heading, self._names = "", False, []
        self._read(root)
        self._end()
        if self._names and self.blocks:  # places behind the last word
            last = self.blocks[-1]
            self.blocks[-1] = last._replace(names=(*last.names, *self._names))

    def _read(self, node: Node) -> None:
        for child in node.children:
            if isinstance(child, str):
                self._words += child
            else:
                self._element(child)

    def _element(self, node: Node) -> None:
        tag = node.tag
        if node.id:
            if tag in BLOCKS:
                self._end()
            self._names.append(node.id)
        if node.is_skipped() or is_mark(node) or _is_raised_mark(node, self._words) or _is_contents(node):
            self._names += [one.id for one in node.walk() if one.id and one is not node]
            return
        if tag == "br":
            if self._heading:
                self._words += " "
            else:
                self._end()
        elif tag == "sup" and re.fullmatch(r"[23]", node.text()):
            self._words += {"2": "²", "3": "³"}[node.text()]
        elif tag == "img":
            initial = node.attributes.get("alt", "")
            self._words += initial if len(initial) == 1 and initial.isalpha() else ""
        elif tag in BLOCKS:
            self._end()
            self._heading = tag in HEADINGS
            self._read(node)
            self._end()
        else:
            self._read(node)

    def _end(self) -> None:
        words = " ".join(without_page_marks(self._words).split())
        if words:
            self.blocks.append(Block(words, self._heading, tuple(self._names)))
            self._names = []
        self._words = ""
        self._heading = self._heading and not words


def _is_raised_mark(node: Node, before: str) -> bool:
    """Whether a raised number or sign behind a word is a note's mark: no exponent, no ordinal's ending."""
    if node.tag != "sup" or not re.fullmatch(r"[\[(]?(?:\d{1,3}|[*†‡§]{1,3})[\])]?", node.text()):
        return False
    word = re.search(r"([^\W\d_]{3,}|[.,;:!?…)\"'”’»])\s*$", before)
    return word is not None


def _is_contents(node: Node) -> bool:
    """Whether an element is a table of contents: most of its words are links to other places of the book."""
    if node.tag not in ("ul", "ol", "dl", "table", "div", "section", "p", "blockquote", "body"):
        return False
    links = [one for one in node.walk() if one.tag == "a" and "://" not in one.attributes.get("href", ":// ")]
    links = [link for link in links if link.text() and not is_mark(link)]
    if len(links) < MIN_LINKS:
        return False
    return sum(len(link.text()) for link in links) >= LINKED * len(re.sub(r"[\s.·…\d]+", " ", node.text()))


def skip_notes(pages: Iterable[tuple[str, Node]], resolve: Callable[[str, str], str]) -> int:
    """Mark the notes that the marks of ``pages`` point to, and return how many were found.

    A note stands behind its mark, in its page or a later one: a link the other way leads back to the text.
    """
    places: dict[tuple[str, str], tuple[int, Node]] = {}
    marks: list[tuple[int, str, Node]] = []
    number = 0
    for name, root in pages:
        for node in root.walk():
            number += 1
            if node.id:
                places.setdefault((name, node.id), (number, node))
            if is_mark(node):
                marks.append((number, name, node))
    found = 0
    for order, name, mark in marks:
        page, _, place = mark.attributes["href"].partition("#")
        there = places.get((resolve(name, page) if page else name, place))
        if there is None or there[0] < order:
            continue
        note = note_of(there[1])
        if note is not None and not any(one is mark for one in note.walk()):
            found += not note.skip
            note.skip = True
    return found
