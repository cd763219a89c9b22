"""EPUB 2 and 3 as books: pages in the order of the spine, chapters by the book's own table of contents.

What is damaged costs itself alone: a page that is missing, a spine that names none, a package that is no XML. What
ends the reading is sorted by `FAILURES`.
"""

from __future__ import annotations

import html
import logging
import posixpath
import re
import struct
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree

from triforce.flows.speech.books.book import CREDITS, GUTENBERG, MAX_BYTES, Book
from triforce.flows.speech.books.contents import Entry, Page, chapters_of, nav_entries, ncx_entries
from triforce.flows.speech.books.decoding import decode
from triforce.flows.speech.books.headings import is_contents, language_of
from triforce.flows.speech.books.page import GUIDE, NOT_TEXT, Block, Node, blocks, parse, skip_notes

logger = logging.getLogger(__name__)

MAX_COVER_BYTES = 64_000_000


class LockedError(ValueError):
    """The text is encrypted."""


class TooLargeError(ValueError):
    """There is more text than a book has."""


class NoPagesError(ValueError):
    """Nothing in the archive is a page."""


class Failure(NamedTuple):
    """Why an EPUB is not read, and what to do next."""

    kind: type[Exception]
    what: str
    next: str


FAILURES = (
    Failure(LockedError, "its text is copy-protected", "give one without copy protection"),
    Failure(TooLargeError, f"more than {MAX_BYTES} bytes of text", "it was packed to do harm; leave it"),
    Failure(NoPagesError, "not a whole EPUB: no page in it", "open it in a reader; an empty one was made wrongly"),
    Failure(zipfile.BadZipFile, "not a whole EPUB: no zip archive, or a damaged one", "fetch it again"),
    Failure(zipfile.LargeZipFile, "not a whole EPUB: a zip archive of more than 2 GB", "take pictures out of it"),
    Failure(NotImplementedError, "packed in a way that Python's zip cannot read", "unpack it and pack it with zip"),
    Failure(RuntimeError, "the archive asks for a password", "unpack it with the password and pack it with zip"),
    Failure(zlib.error, "not a whole EPUB: a member is damaged", "fetch it again"),
    Failure(EOFError, "not a whole EPUB: it ends too early", "fetch it again"),
    Failure(struct.error, "not a whole EPUB: the archive's list is damaged", "fetch it again"),
    Failure(KeyError, "not a whole EPUB: a member that it names is missing", "fetch it again"),
    Failure(
        ElementTree.ParseError, "not a whole EPUB: its package is no XML", "convert it with Calibre's ebook-convert"
    ),
    Failure(OSError, "the file cannot be read", "look at its permissions and at the disk"),
)
"""Errors by class, the first that fits: what it means, and what to do next."""


def epub_book(path: Path, name: str) -> Book:
    """Read an EPUB, by ``name`` where it has no title.

    Raises ValueError, which says by `FAILURES` what to do, for one that cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive, path).book(name)
    except tuple(failure.kind for failure in FAILURES) as error:
        failure = next(failure for failure in FAILURES if isinstance(error, failure.kind))
        detail = f" ({error})" if str(error) else ""
        raise ValueError(f"{path}: {failure.what}{detail}; {failure.next}") from error


class _Reader:
    """An open EPUB."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive, self.path = archive, path
        # Some archivers of Windows part folders by their own sign.
        self.infos = {item.filename.replace("\\", "/"): item for item in reversed(archive.infolist())}
        self.names = {name.casefold(): name for name in self.infos}
        texts = [item for name, item in self.infos.items() if name.lower().endswith(TEXT_ENDINGS)]
        if sum(item.file_size for item in texts) > MAX_BYTES:
            raise TooLargeError
        self._refuse_locked()

    def _refuse_locked(self) -> None:
        """Fonts may be encrypted; a text that is cannot be read."""
        if "meta-inf/license.lcpl" in self.names or "meta-inf/sinf.xml" in self.names:
            raise LockedError
        if "meta-inf/encryption.xml" in self.names:
            locks = _xml(self._read("META-INF/encryption.xml"))
            if any(
                re.search(r"html?$|\.opf$", e.attrib.get("URI", "")) for e in locks.iterfind(".//{*}CipherReference")
            ):
                raise LockedError

    def _read(self, name: str) -> bytes:
        """Return a member's bytes, whatever the case of the letters in its name."""
        return self.archive.read(self.infos[self.names[name.casefold()]])

    @cached_property
    def package_name(self) -> str:
        """Name of the package document: as the container says, else the only one there is."""
        try:
            roots = _xml(self._read("META-INF/container.xml")).iterfind(".//{*}rootfile")
            named = [unquote(root.attrib.get("full-path", "")).lstrip("/") for root in roots]
        except (KeyError, ElementTree.ParseError):
            named = []
        found = [name for name in named if name.casefold() in self.names]
        found += [name for name in self.names.values() if name.lower().endswith(".opf")]
        if not found:
            raise NoPagesError
        return found[0]

    @cached_property
    def package(self) -> ElementTree.Element:
        """The package document."""
        return _xml(self._read(self.package_name))

    @cached_property
    def items(self) -> dict[str, dict[str, str]]:
        """Attributes of the manifest's items by id."""
        return {
            item.attrib.get("id", str(n)): item.attrib for n, item in enumerate(self.package.iterfind(".//{*}item"))
        }

    def resolve(self, base: str, href: str) -> str:
        """Return the name in the archive of what ``href`` in the member ``base`` points to."""
        name = posixpath.normpath(posixpath.join(posixpath.dirname(base), unquote(href.partition("#")[0])))
        return self.names.get(name.casefold(), name)

    def item_name(self, item: dict[str, str]) -> str:
        return self.resolve(self.package_name, item.get("href", ""))

    def book(self, name: str) -> Book:
        """Return the book."""
        roots = self._roots()
        if not roots:
            raise NoPagesError
        entries, landmarks = self._contents()
        skip_notes(roots.items(), self.resolve)
        sizes = {name: len(root.text()) for name, root in roots.items()}
        kept = {
            name: root
            for name, root in roots.items()
            if not _is_beside(landmarks.get(name, set()), sizes[name], sum(sizes.values()))
        }
        pages = _without_boilerplate([Page(name, blocks(root)) for name, root in kept.items()])
        if not any(page.blocks for page in pages):  # a book of what is skipped elsewhere: notes, an index
            pages = [Page(name, _all_blocks(root)) for name, root in roots.items()]
        title = self.about("title") or name
        chapters = chapters_of(pages, entries, title)
        sample = " ".join(paragraph for chapter in chapters for paragraph in chapter.paragraphs[:50])
        language = language_of(self.about("language"), sample)
        return Book(title, chapters, self.authors(), language, self.year(), self.cover())

    def _roots(self) -> dict[str, Node]:
        """Return the pages by name in the order of the spine; of a spine without pages, in the manifest's order."""
        references = list(self.package.iterfind(".//{*}itemref"))
        linear = [r for r in references if r.attrib.get("linear") != "no"] or references
        wanted = [self.items.get(r.attrib.get("idref", "")) for r in linear]
        if missing := [r.attrib.get("idref") for r, item in zip(linear, wanted, strict=True) if item is None]:
            logger.warning("%s: the spine names %s, which the book does not have", self.path, missing[:5])
        pages = [item for item in wanted if item is not None and _is_page(item)]
        pages = pages or [item for item in self.items.values() if _is_page(item)]
        names = [self.item_name(item) for item in pages if "nav" not in item.get("properties", "").split()]
        names = names or [name for name in self.names.values() if name.lower().endswith(("html", "htm"))]
        found: dict[str, Node] = {}
        for name in dict.fromkeys(names):
            try:
                found[name] = parse(decode(self._read(name), name))
            except (KeyError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
                logger.warning("%s: page %s is left out: %s", self.path, name, error)
        return found

    def _contents(self) -> tuple[list[Entry], dict[str, set[str]]]:
        """Return the table of contents, of the navigation document first, and the structures of pages by name."""
        entries: list[Entry] = []
        landmarks: dict[str, set[str]] = {}
        for reference in self.package.iterfind(".//{*}guide/{*}reference"):
            kind = reference.attrib.get("type", "").lower()
            name = self.resolve(self.package_name, reference.attrib.get("href", ""))
            if "#" not in reference.attrib.get("href", ""):
                landmarks.setdefault(name, set()).add(GUIDE.get(kind, kind))
        for item in self.items.values():
            name = self.item_name(item)
            try:
                if "nav" in item.get("properties", "").split():
                    root = parse(decode(self._read(name), name))
                    entries = nav_entries(root, name, self.resolve)
                    self._add_landmarks(root, name, landmarks)
            except (KeyError, ValueError) as error:
                logger.warning("%s: no navigation document: %s", self.path, error)
        return entries or self._ncx(), landmarks

    def _ncx(self) -> list[Entry]:
        spine = self.package.find(".//{*}spine")
        named = self.items.get(spine.attrib.get("toc", "")) if spine is not None else None
        kinds = [item for item in self.items.values() if "ncx" in item.get("media-type", "") + item.get("href", "")]
        for item in [*([named] if named else []), *kinds]:
            name = self.item_name(item)
            try:
                if entries := ncx_entries(_xml(self._read(name)), name, self.resolve):
                    return entries
            except (KeyError, ElementTree.ParseError) as error:
                logger.warning("%s: no table of contents in %s: %s", self.path, name, error)
        return []

    def _add_landmarks(self, root: Node, name: str, landmarks: dict[str, set[str]]) -> None:
        for nav in (node for node in root.walk() if node.tag == "nav" and "landmarks" in node.types):
            for link in (
                node for node in nav.walk() if node.tag == "a" and "#" not in node.attributes.get("href", "#")
            ):
                landmarks.setdefault(self.resolve(name, link.attributes["href"]), set()).update(link.types)

    def about(self, name: str) -> str | None:
        """Return the first element of the package's metadata with this name."""
        found = (
            " ".join("".join(e.itertext()).split()) for e in self.package.iterfind(f".//{{*}}metadata//{{*}}{name}")
        )
        return next(filter(None, found), None)

    def authors(self) -> str | None:
        """Return the authors, without translators and others who took part."""
        roles = {
            meta.attrib.get("refines", "").lstrip("#"): (meta.text or "").strip()
            for meta in self.package.iterfind(".//{*}meta")
            if meta.attrib.get("property") == "role"
        }
        found = []
        for creator in self.package.iterfind(".//{*}metadata//{*}creator"):
            role = next((value for key, value in creator.attrib.items() if key.rpartition("}")[2] == "role"), None)
            role = role or roles.get(creator.attrib.get("id", ""), "aut")
            name = " ".join((creator.text or "").split())
            if name and role == "aut":
                found.append(name)
        return ", ".join(dict.fromkeys(found)) or self.about("creator")

    def year(self) -> int | None:
        """Return the year of publication, by the first date that has one."""
        found = [*self.package.iterfind(".//{*}metadata//{*}date")]
        found.sort(key=lambda date: not any("publication" in value for value in date.attrib.values()))
        years = (re.search(r"\b(1\d{3}|20\d\d)\b", date.text or "") for date in found)
        return next((int(year[1]) for year in years if year), None)

    def cover(self) -> bytes | None:
        """Return the picture of the cover: as the package says, as its cover page shows, or by its name."""
        pictures = {self.item_name(i): i for i in self.items.values() if i.get("media-type", "").startswith("image/")}
        named = [name for name, item in pictures.items() if "cover-image" in item.get("properties", "").split()]
        for meta in self.package.iterfind(".//{*}meta"):
            if meta.attrib.get("name") == "cover":
                content = meta.attrib.get("content", "")
                named.append(self.item_name(self.items.get(content, {"href": content})))
        named += self._on_cover_page()
        named += [name for name, item in pictures.items() if "cover" in f"{name} {item.get('id', '')}".lower()]
        for name in named:
            key = name.casefold()
            if key in self.names and not key.endswith(("html", "htm", "svg")):
                if self.infos[self.names[key]].file_size > MAX_COVER_BYTES:
                    logger.warning("%s: the cover %s is over %d bytes", self.path, name, MAX_COVER_BYTES)
                    continue
                try:
                    return self._read(name)
                except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                    logger.warning("%s: no cover: %s", self.path, error)
        return None

    def _on_cover_page(self) -> list[str]:
        found = []
        for reference in self.package.iterfind(".//{*}guide/{*}reference"):
            name = self.resolve(self.package_name, reference.attrib.get("href", ""))
            if reference.attrib.get("type", "").lower() == "cover" and name.lower().endswith(("html", "htm", "xml")):
                try:
                    root = parse(decode(self._read(name), name))
                except (KeyError, ValueError):
                    continue
                for node in root.walk():
                    source = node.attributes.get("src") or node.attributes.get("xlink:href")
                    if node.tag in ("img", "image") and source:
                        found.append(self.resolve(name, source))
        return found


MAX_FRONT_CHARS = 3000
"""Characters of a title page, an imprint or the like at most. Assumed."""
LONG_MATTER = frozenset(("footnotes", "endnotes", "rearnotes", "notes", "index", "toc", "loi", "lot"))
"""Structures beside the text that may be longer."""
TEXT_ENDINGS = ("html", "htm", "xml", "opf", "ncx")


def _is_beside(types: set[str], size: int, total: int) -> bool:
    """Whether a page of these structures is not read: one that holds the text too, as a book of one file does, is."""
    short = size <= MAX_FRONT_CHARS or bool(types & LONG_MATTER)
    return bool(types & NOT_TEXT) and short and size <= total / 2


def _is_page(item: dict[str, str]) -> bool:
    kind = item.get("media-type", "")
    return "html" in kind or (kind in ("", "text/plain", "text/x-oeb1-document") and "htm" in item.get("href", ""))


def _xml(data: bytes) -> ElementTree.Element:
    """Parse XML; where it is not well-formed, once more with entities, lone ampersands and junk in front mended."""
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError:
        text = decode(data, "")
        text = re.sub(r"^[^<]*<\?xml[^>]*\?>", "", text).lstrip()
        text = re.sub(r"&(?!(?:amp|lt|gt|quot|apos|#\d+|#x[\da-fA-F]+);)", "&amp;", html_entities(text))
        return ElementTree.fromstring("".join(c for c in text if c.isprintable() or c in "\t\n\r"))


def html_entities(text: str) -> str:
    """Return XML with the entities of HTML, which XML lacks, as the characters that they name."""
    keep = {"amp", "lt", "gt", "quot", "apos"}
    return re.sub(r"&([A-Za-z]\w+);", lambda m: m[0] if m[1] in keep else html.unescape(m[0]), text)


def _all_blocks(root: Node) -> list[Block]:
    words = root.text()
    return [Block(words, False, ())] if words else []


def _without_boilerplate(pages: list[Page]) -> list[Page]:
    """Return pages without the licence around a book, lines about the file's making, and headings of nothing."""
    marks = [
        (p, b) for p, page in enumerate(pages) for b, block in enumerate(page.blocks) if GUTENBERG.match(block.words)
    ]
    starts = [place for place in marks if "START" in _upper(pages, place)]
    ends = [place for place in marks if "END OF" in _upper(pages, place)]
    start, end = max(starts, default=(-1, -1)), min(ends, default=(len(pages), 0))
    kept = []
    for number, page in enumerate(pages):
        found = [block for b, block in enumerate(page.blocks) if start < (number, b) < end]
        found = [block for block in found if not CREDITS.match(block.words) and not is_contents(block.words)]
        kept.append(Page(page.name, found))
    return kept if any(page.blocks for page in kept) else pages


def _upper(pages: list[Page], place: tuple[int, int]) -> str:
    return pages[place[0]].blocks[place[1]].words.upper()
