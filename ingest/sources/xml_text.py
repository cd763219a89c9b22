"""XML as servers send it, from bytes to text that a parser takes: encodings, document types, and common mistakes.

Declaration, byte order mark, header and bytes may disagree in every pair: the bytes are believed first.
"""

from __future__ import annotations

import codecs
import contextlib
import html.entities
import re
from collections.abc import Iterator

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
"""Encodings that the first sign of XML tells apart where there is no mark (XML 1.0, appendix F)."""

DECLARATION = re.compile(rb"^\s*<\?xml[^>]*?encoding\s*=\s*[\"']\s*([A-Za-z0-9._:-]{1,40})\s*[\"']")

LATIN = re.compile(r"(us-)?ascii|(iso[-_]?)?8859-1|latin-?1|ansi|windows-1252|cp1252", re.IGNORECASE)
"""Names under which Windows' western encoding is sent (WHATWG's Encoding Standard says the same of them)."""


def decode(body: bytes, charset: str | None = None) -> str:
    """Return XML as text, without its mark and declaration. ``charset`` is what the server's header says."""
    for mark, encoding in MARKS:
        if body.startswith(mark):
            text = body[len(mark) :].decode(encoding, "replace")
            if encoding != "utf-8" and "<" in text[:4096]:
                return _without_declaration(text)
            body = body[len(mark) :]  # it does not tell the truth, or says what is tried first anyway
            break
    for encoding in WIDE:
        if body[:256].decode(encoding, "ignore").lstrip().startswith("<"):
            return _without_declaration(body.decode(encoding, "replace"))
    return _without_declaration(next(_narrow(body, charset)))


def _narrow(body: bytes, charset: str | None) -> Iterator[str]:
    """Yield the text by the encodings with markup in plain ASCII that it may have, the most probable first."""
    declared = match.group(1).decode() if (match := DECLARATION.match(body[:500])) else None
    stated = [name for name in (declared, charset) if name and _keeps_ascii(name)]
    if b"\x1b" in body:  # ISO 2022 shifts by escapes, and is plain ASCII otherwise
        yield from _decoded(body, [name for name in stated if "2022" in name])
    yield from _decoded(body, ["utf-8"])
    broken = body.decode("utf-8", "replace")
    num_broken = broken.count("\N{REPLACEMENT CHARACTER}")
    num_whole = sum(character > "\x7f" for character in broken) - num_broken
    if num_whole > num_broken:  # in other encodings few pairs of bytes happen to be UTF-8
        yield broken
    yield from _decoded(body, ["windows-1252" if LATIN.fullmatch(name) else name for name in stated])
    yield body.decode("windows-1252", "replace")


def _decoded(body: bytes, encodings: list[str]) -> Iterator[str]:
    for encoding in encodings:
        with contextlib.suppress(UnicodeError, LookupError):
            yield body.decode(encoding)


def _keeps_ascii(encoding: str) -> bool:
    """Whether markup in plain ASCII is markup in this encoding. In others it may hide, and no client reads them."""
    sample = "<?xml version='1.0'?><!&;>+ADw-"
    with contextlib.suppress(UnicodeError, LookupError):
        return sample.encode().decode(encoding) == sample
    return False


def _without_declaration(text: str) -> str:
    return re.sub(r"^[\ufeff\s]*(<\?xml\b[^>]*\?>)?\s*", "", text, count=1)


MISC = re.compile(r"(?:\s|<!--.*?-->|<\?.*?\?>)*+", re.DOTALL)
"""What may stand before the root: spaces, comments, processing instructions."""

QUOTED = r"\"[^\"]*+\"|'[^']*+'"
DOCTYPE = re.compile(
    rf"<!DOCTYPE(?:[^\[>\"']|{QUOTED})*+"
    rf"(?:\[(?:[^\]\"'<]|{QUOTED}|<!--.*?-->|<\?.*?\?>|<(?:[^>\"']|{QUOTED})*+>)*+\]\s*+)?+>",
    re.DOTALL | re.IGNORECASE,
)


def without_doctype(text: str, url: str) -> str:
    """Return XML without its document type, so that no entity is ever declared, expanded or fetched.

    `Rejected` for one whose end is not found: what it declares would be read as text.
    """
    begin = MISC.match(text).end()
    if not text.startswith("<!", begin):
        return text
    if (found := DOCTYPE.match(text, begin)) is None:
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: a document type that does not end")
    rest = text[found.end() :]
    if rest[MISC.match(rest).end() :].startswith("<!"):
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: declarations behind the document type")
    return rest


ROOT = re.compile(r"<(\w+:)?(rss|feed|rdf|channel|opml)\b", re.IGNORECASE)
CDATA = re.compile(r"(<!\[CDATA\[.*?\]\]>)", re.DOTALL)
REFERENCE = re.compile(r"&(#[0-9]{1,7};|#x[0-9A-Fa-f]{1,6};|[A-Za-z][A-Za-z0-9]{0,31};)?")
ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 (2.2) does not allow."""

USED_PREFIX = re.compile(r"(?:</?|\s)([A-Za-z_][\w.-]{0,30}):[A-Za-z_]")


def mended(text: str, namespaces: dict[str, str]) -> str:
    """Return XML with the mistakes mended that feeds make most: words before the root, ampersands that are none,
    entities of HTML, characters that XML does not know, and prefixes without a namespace.

    ``namespaces`` are those of known prefixes; others get one of their own.
    """
    if root := ROOT.search(text):
        text = text[root.start() :]
    pieces = CDATA.split(ILLEGAL.sub("", text))
    text = "".join(piece if number % 2 else REFERENCE.sub(_reference, piece) for number, piece in enumerate(pieces))
    return _with_namespaces(text, namespaces)


def _reference(match: re.Match[str]) -> str:
    name = match.group(1)
    if name is None:
        return "&amp;"
    if name.startswith("#"):
        code = int(name[2:-1], 16) if name[1] in "xX" else int(name[1:-1])
        return match.group() if code < 0x110000 and not ILLEGAL.match(chr(code)) else ""
    if name in ("amp;", "lt;", "gt;", "quot;", "apos;"):
        return match.group()
    known = html.entities.html5.get(name)
    return f"&amp;{name}" if known is None else "".join(f"&#{ord(character)};" for character in known)


def _with_namespaces(text: str, namespaces: dict[str, str]) -> str:
    """Declare on the root what prefixes it does not declare itself."""
    root = re.match(r"<[^\s/>]+", text)
    if root is None:
        return text
    head = text[: text.find(">") + 1]
    used = {prefix for prefix in USED_PREFIX.findall(CDATA.sub("", text)) if prefix.lower() not in ("xml", "xmlns")}
    missing = sorted(prefix for prefix in used if f"xmlns:{prefix}=" not in re.sub(r"\s*=\s*", "=", head))
    declared = "".join(f' xmlns:{prefix}="{namespaces.get(prefix, f"urn:prefix:{prefix}")}"' for prefix in missing)
    return text[: root.end()] + declared + text[root.end() :]
