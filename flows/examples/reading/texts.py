"""Public-domain sentences to read aloud: the King James Bible and the fortunes, out of Debian packages."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

from triforce.flows.examples import debian

PACKAGES = ["bible-kjv", "bible-kjv-text", "fortunes", "fortunes-min"]
FORTUNES = ("education", "fortunes", "law", "literature", "love", "people", "politics", "science", "wisdom", "work")
MIN_WORDS, MAX_WORDS = 4, 15
"""Words of a sentence, 2 to 6 s of speech: text and speech are aligned soonest with short sentences."""
TIMEOUT_S = 120.0


def sentences(cache: Path, seed: int = 0) -> list[str]:
    """Return all sentences of a fit length, each once, in an order that the seed fixes."""
    root = debian.unpack(PACKAGES, cache / "texts")
    verses = re.findall(r"^\s+\d+ (.+)$", bible(root), re.MULTILINE)
    folder = root / "usr/share/games/fortunes"
    sayings = [without_source(text) for name in FORTUNES for text in fortunes(folder / name)]
    found = {part for text in [*verses, *sayings] for part in split_sentences(text)}
    ordered = sorted(found)
    random.Random(seed).shuffle(ordered)
    return ordered


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text that have only words and plain punctuation, no figures."""
    parts = re.split(r"(?<=[.!?;:])\s+", " ".join(text.split()))
    return [part for part in parts if MIN_WORDS <= len(part.split()) <= MAX_WORDS and _readable(part)]


def _readable(part: str) -> bool:
    return re.fullmatch(r"[A-Za-z][A-Za-z ,;:.!?'-]+", part) is not None and not re.search(r"[A-Z]{2}|\.\.|--", part)


def bible(root: Path) -> str:
    """Return the verses of the King James Bible, one a line, out of the unpacked packages."""
    command = [str(root / "usr/bin/bible"), "-p", str(root / "usr/lib"), "-l100000"]
    done = subprocess.run(command, input=b"gen1:1-rev22:21\n", capture_output=True, timeout=TIMEOUT_S, check=True)
    return done.stdout.decode(errors="replace")


def fortunes(path: Path) -> list[str]:
    """Return the fortunes of a file."""
    if not path.exists():  # which files there are depends on the release of Debian
        return []
    return re.split(r"^%$", path.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE)


def without_source(text: str) -> str:
    """Return a fortune without the line that names its source."""
    return re.split(r"\n\s*-- ", text)[0]
