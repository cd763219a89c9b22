"""A published transcript as text: WebVTT, SubRip, Podcasting 2.0's JSON, HTML, plain text and books.

What is not said is taken out where it can be told: tags, times, names of speakers in front of what they say. What
stands in brackets is left to the recogniser, see `triforce.ingest.align.tokens`.
"""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser

from triforce.ingest.fetch.transcripts import parse_cues

UNSPOKEN = frozenset({"script", "style", "head", "title", "cite", "time", "nav", "sup", "noscript", "svg"})
"""Elements of HTML whose text is not said; Podcasting 2.0 names the speaker in ``cite`` and the time in ``time``."""
INLINE = frozenset({"a", "abbr", "b", "em", "font", "i", "mark", "q", "s", "small", "span", "strong", "sub", "u"})
"""Elements that do not end a line."""

WORD_TIMES = re.compile(r"<\d+:\d\d:\d\d\.\d{3}><c>")
"""Times inside a line, word by word: automatic captions have them."""
CLOCK = re.compile(r"[\[(]?\b\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?\b[\])]?(?=\s|$)")
SPEAKER = re.compile(
    r"\s*(?:>>+\s*|[-\N{EN DASH}]\s+)?(?:([^\W\d_][\w.'\N{RIGHT SINGLE QUOTATION MARK} -]{0,40}?):(?=\s|$))?"
)
"""What may stand in front of what somebody says: a mark, a name with a colon."""
EMPHASIS = re.compile(r"(?<![^\W_])[_*]+(?=\S)|(?<=\S)[_*]+(?![^\W_])")
"""Marks around words that Project Gutenberg's texts and Markdown set in italics or bold."""
PARTED = re.compile(r"([^\W\d_])[-\N{SOFT HYPHEN}\N{NOT SIGN}]\n[ \t]*([^\W\d_A-Z]+\S*)[ \t]*\n?")
"""A word that goes on in the next line, as in the scanned pages of archive.org."""
MIN_LABELS = 2
"""Lines that begin with the same words and a colon, from which on these are a speaker's name. Assumed."""
MIN_TIMED_SHARE = 0.02
"""Share of lines that begin with a time, from which on it is when they are said. Assumed."""
MIN_MARKED_SHARE = 0.02
"""Share of words with a capital or a mark under which a text is a machine's: written English has 0.25. Assumed."""


def published_lines(text: str, ending: str) -> list[str]:
    """Return the lines of a transcript that may be said, in order; ``ending`` is the stored file's."""
    if ending in ("vtt", "srt", "json"):
        lines = [cue.text for cue in parse_cues(text, ending)]
        if not lines and ending == "json":
            return []
        lines = _without_rolling(lines) or text.splitlines()
    elif ending == "html" or re.match(r"\s*(<!doctype html|<html)", text[:200], re.IGNORECASE):
        lines = html_lines(text)
    else:
        lines = plain_lines(text)
    return without_labels(without_clocks(lines))


def automatic_reason(text: str, lines: list[str]) -> str | None:
    """Return why a transcript is a machine's, or None: it looks like a person's."""
    if WORD_TIMES.search(text):
        return "automatic captions: they have a time for each word"
    words = [word for line in lines for word in line.split()]
    cased = [word for word in words if word.lower() != word.upper()]
    marked = sum(word != word.lower() or not word[-1].isalnum() for word in cased)
    if cased and marked < MIN_MARKED_SHARE * len(cased):
        return "without capitals and punctuation, as automatic transcripts are"
    return None


def without_clocks(lines: list[str]) -> list[str]:
    """Return lines without the times at which they are said, where that is how they begin."""
    found = [CLOCK.match(line.lstrip()) for line in lines]
    is_timed = sum(match is not None for match in found) >= max(MIN_LABELS, MIN_TIMED_SHARE * len(lines))
    return [
        CLOCK.sub(" ", line, count=1) if match and (is_timed or match[0][0] in "[(") else line
        for line, match in zip(lines, found, strict=True)
    ]


def without_labels(lines: list[str]) -> list[str]:
    """Return lines without the names of speakers in front, and without the marks of a change of speaker."""
    found = [SPEAKER.match(line) for line in lines]
    counts = Counter(match[1] for match in found if match and match[1])
    return [
        line[match.end() :] if match and (not match[1] or counts[match[1]] >= MIN_LABELS) else line
        for line, match in zip(lines, found, strict=True)
    ]


def plain_lines(text: str) -> list[str]:
    """Return the lines of a plain text without marks of emphasis, and with the words whole that a line's end parts."""
    text = EMPHASIS.sub("", text)
    return PARTED.sub(r"\1\2\n", text).splitlines()


def html_lines(text: str) -> list[str]:
    """Return the lines of text of an HTML page."""
    reader = _TextOf()
    reader.feed(text)
    reader.close()
    return [" ".join(line.split()) for line in "".join(reader.parts).split("\n") if line.strip()]


class _TextOf(HTMLParser):
    """Collects what a browser would show."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unspoken: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in UNSPOKEN:
            self._unspoken.append(tag)
        elif tag not in INLINE:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unspoken:
            del self._unspoken[self._unspoken.index(tag) :]
        elif tag not in INLINE:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unspoken:
            self.parts.append(data.replace("\n", " "))


def _without_rolling(lines: list[str]) -> list[str]:
    """Return the lines without those that a cue repeats of the one before it, as captions that roll do."""
    kept: list[str] = []
    before = ""
    for line in lines:
        new = line[len(before) :].strip() if before and line.startswith(before + " ") else line
        if line != before or not before:
            kept.append(new)
        before = line
    return [line for line in kept if line]
