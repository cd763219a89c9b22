"""Plain text and Markdown as books."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from triforce.flows.speech.books.book import CREDITS, GUTENBERG, Book, group_chapters, without_page_marks
from triforce.flows.speech.books.decoding import decode
from triforce.flows.speech.books.headings import LEADERS, find_heading, is_contents, language_of

ENDS = (".", "!", "?", "…", ":", '"', "”", "’", "»", "。", "！", "？", "」", "』", "*", ")")
"""Signs that a paragraph ends with, and a line within one only by chance."""
LONG_LINE = 160
"""Characters of a line above which nobody broke it by hand. Assumed."""
MIN_ENDING = 0.6
"""Share of lines that end as paragraphs do from which each line is one. Assumed: of broken lines a fifth do."""
INDENT = re.compile(r"^(?:[ \t]{2,}|\t|　)")


def plain_book(path: Path, name: str) -> Book:
    """Read plain text, by ``name`` where it has no title: headings begin chapters.

    Paragraphs are parted by empty lines, by indents, or are a line each.
    """
    text = decode(path.read_bytes(), str(path)).replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")
    title, author, language, text = _without_gutenberg(text, name)
    blocks = [(words, find_heading(words)) for words in _blocks(without_page_marks(text))]
    blocks = [(words, heading) for words, heading in blocks if not CREDITS.match(words)]
    again = Counter(_key(words) for words, heading in blocks if heading)
    parts = []
    for number, (words, heading) in enumerate(blocks):
        followed = number + 1 < len(blocks) and blocks[number + 1][1] is not None
        listed = heading and (LEADERS.search(words) or (followed and again[_key(words)] > 1))
        if heading:
            again[_key(words)] -= 1
        if not listed and not is_contents(words):
            parts.append((_plain(words), heading is not None))
    languages = Counter(heading.language for _, heading in blocks if heading and heading.language)
    spoken = languages.most_common(1)[0][0] if languages else None
    sample = " ".join(words for words, _ in parts[:400])
    return Book(title, group_chapters(parts, title), author, language_of(language, sample, spoken))


def _key(heading: str) -> str:
    return re.sub(r"\W+", "", LEADERS.sub("", heading)).casefold()


def _plain(words: str) -> str:
    """Return words without the marks of emphasis in plain text."""
    return " ".join(re.sub(r"(?<!\w)([_=*~]{1,2})(?=\S)([^_=*~]+?)(?<=\S)\1(?!\w)", r"\2", words).split())


def _without_gutenberg(text: str, title: str) -> tuple[str, str | None, str | None, str]:
    """Return title, author, language and text of a file; Project Gutenberg's says the former in front of the text."""
    marks = list(GUTENBERG.finditer(text))
    if not marks or marks[0][1].upper() != "START":
        return title, None, None, text
    head = text[: marks[0].start()]

    def named(name: str) -> str | None:
        found = re.search(rf"^{name}: *(.+)$", head, re.MULTILINE)
        return found[1].strip() if found else None

    end = marks[-1].start() if marks[-1][1].upper() == "END" else None
    return named("Title") or title, named("Author"), named("Language"), text[marks[0].end() : end]


def _blocks(text: str) -> Iterator[str]:
    """Yield the paragraphs and headings of a text, each in one line."""
    groups = [group.split("\n") for group in re.split(r"\n[ \t　]*(?:\n[ \t　]*)+", text.strip("\n"))]
    each_line = _is_a_paragraph_each(groups)
    for lines in groups:
        for block in _paragraphs([line for line in lines if line.strip()], each_line):
            if block:
                yield block


def _is_a_paragraph_each(groups: list[list[str]]) -> bool:
    """Whether each line of a text is a paragraph: lines are longer than anyone breaks them, or end as paragraphs do."""
    lines = [line.rstrip() for lines in groups for line in lines if line.strip()]
    if not lines:
        return False
    inner = [line.rstrip() for lines in groups for line in lines[:-1] if line.strip() and not find_heading(line)]
    if sorted(map(len, lines))[int(0.9 * (len(lines) - 1))] > LONG_LINE:
        return True
    return bool(inner) and sum(line.endswith(ENDS) for line in inner) >= MIN_ENDING * len(inner)


def _paragraphs(lines: list[str], each_line: bool) -> Iterator[str]:
    """Yield the paragraphs of lines without an empty one among them."""
    if each_line:
        yield from (" ".join(line.split()) for line in lines)
        return
    whole = " ".join(" ".join(lines).split())
    if len(lines) > 1 and find_heading(lines[0]) and not (find_heading(whole) and not whole.endswith((".", "!", "?"))):
        yield " ".join(lines[0].split())
        yield from _paragraphs(lines[1:], each_line)
        return
    indented = [bool(INDENT.match(line)) for line in lines]
    starts = [0, *(n for n in range(1, len(lines)) if indented[n])] if not all(indented) or len(lines) == 1 else [0]
    if all(indented) and any(line.startswith("　") for line in lines):  # Chinese and Japanese indent each paragraph
        starts = list(range(len(lines)))
    glue = "" if _is_unspaced(whole) else " "
    for start, end in pairwise([*starts, len(lines)]):
        yield " ".join(glue.join(line.strip() for line in lines[start:end]).split())


def _is_unspaced(text: str) -> bool:
    """Whether a text is Chinese or Japanese, whose lines are joined without a space."""
    return sum("\u3040" <= c <= "\u9fff" for c in text) > 0.3 * len(text)


def markdown_book(path: Path, name: str) -> Book:
    """Take the heading of the first level as title, where there is only one, else ``name``; others begin chapters."""
    from markdown_it import MarkdownIt

    text = decode(path.read_bytes(), str(path)).replace("\r\n", "\n")
    front = re.match(r"\A---\n(.*?)\n---\n", text, re.DOTALL)
    body = re.sub(
        r"^\[\^[^\]]+\]:.*(?:\n(?: {2,}|\t).*)*|\[\^[^\]]+\]", "", text[front.end() :] if front else text, flags=re.M
    )
    tokens = MarkdownIt("commonmark").parse(body)
    parts: list[tuple[str, bool]] = []
    levels: list[int] = []
    for before, token in pairwise(tokens):
        if token.type == "inline" and (words := _spoken(token)):
            heading = before.type == "heading_open"
            parts.append((words, heading))
            levels.append(int(before.tag[1]) if heading else 0)
    title = name
    if levels.count(1) == 1 and levels[0] == 1:
        title = parts.pop(0)[0]

    def named(key: str) -> str | None:
        found = re.search(rf"^(?:{key}): *[\"']?(.+?)[\"']?$", front[1], re.MULTILINE) if front else None
        return found[1] if found else None

    title = named("title") or title
    sample = " ".join(words for words, _ in parts[:400])
    language = language_of(named("lang") or named("language"), sample)
    return Book(title, group_chapters(parts, title), named("author"), language)


def _spoken(inline: object) -> str:
    """Return the words of a Markdown line: text and code, no pictures, no addresses."""
    words = ""
    for child in getattr(inline, "children", None) or []:
        if child.type in ("text", "code_inline"):
            words += child.content
        elif child.type in ("softbreak", "hardbreak"):
            words += " "
    return " ".join(words.split())
