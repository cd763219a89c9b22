"""Bytes of a text file as text: by its mark, by UTF-8, by what it says of itself, by how it looks."""

from __future__ import annotations

import codecs
import re

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks; that of UTF-32 begins with one of UTF-16."""
DECLARED = re.compile(rb"(?:charset|encoding)[ \t]*[=:][ \t]*[\"']?([A-Za-z0-9_:.-]+)", re.IGNORECASE)
"""An encoding in an XML declaration, a meta element or Project Gutenberg's head."""
CANDIDATES = (
    *("cp1250", "iso8859_2", "cp1251", "koi8_r", "cp866", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257"),
    *("gb18030", "big5", "cp932", "euc_jp", "cp949"),
)
"""Encodings that texts are found in beside Unicode's and the Western one."""
WESTERN = frozenset("àâäáãåçèéêëìíîïñòóôöõùúûüÿœæßøšžª°º¿¡§£€©«»‹›“”‘’‚„…–—•™® ´·½¼¾×")
"""What Western texts have beside ASCII, in small letters."""
COMMON = frozenset(" \n,.\u3000。，")
"""Characters that are in every text; of other bytes they come by chance alone."""
SAMPLE_BYTES = 200_000
MIN_WESTERN = 0.95
"""Share of the other characters that must be `WESTERN`. Assumed."""


def decode(data: bytes, name: str) -> str:
    """Return the text of a file. Raises ValueError, with ``name``, for what is no text."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace").removeprefix("\ufeff")
    if wide := _wide(data):
        return data.decode(wide, "replace")
    if b"\0" in data:
        raise ValueError(f"{name}: not text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode(_encoding(data), "replace")


def _wide(data: bytes) -> str | None:
    """Return the encoding of UTF-16 without a mark: the order of bytes in which there are line ends and spaces."""
    sample = data[: SAMPLE_BYTES // 2 * 2]
    if b"\0" not in sample or len(data) % 2:
        return None
    texts = {name: sample.decode(name, "replace") for name in ("utf-16-le", "utf-16-be")}
    name = max(texts, key=lambda name: sum(c in COMMON for c in texts[name]))
    odd = sum(not (c.isprintable() or c.isspace()) or c == "\ufffd" for c in texts[name])
    return name if odd <= 0.02 * len(texts[name]) and any(c in COMMON for c in texts[name]) else None


def _encoding(data: bytes) -> str:
    """Return the encoding of bytes that are not whole UTF-8."""
    text = data.decode("utf-8", "replace")
    if text.count("\ufffd") * 20 < sum(ord(c) > 127 for c in text):  # a few damaged bytes
        return "utf-8"
    declared = DECLARED.search(data[:4000])
    if declared and (found := _known(declared[1].decode("ascii"))):
        return found
    sample = data[:SAMPLE_BYTES]
    if _is_western(sample.decode("cp1252", "replace")):
        return "cp1252"
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=list(CANDIDATES), threshold=0.5).best()
    return best.encoding if best else "cp1252"


def _known(name: str) -> str | None:
    """Return Python's name of a declared encoding that these bytes can have; Latin-1 is what Windows means by it."""
    try:
        found = codecs.lookup(name).name
    except LookupError:
        return None
    if found.startswith(("utf", "ascii")):
        return None
    return "cp1252" if found == "iso8859-1" else found


def _is_western(text: str) -> bool:
    others = [c for c in text if ord(c) > 127]
    letters = sum(c.isalpha() for c in text)
    within = re.findall(r"(?<=\w)[^\x00-\x7f](?=\w)", text)
    odd = sum(not c.isalpha() and c not in "’·" for c in within)
    share = sum(c.lower() in WESTERN for c in others) / len(others)
    return share >= MIN_WESTERN and odd <= 0.02 * len(others) and len(others) < 0.4 * max(letters, 1)
