"""The chapter table of a media file, mended: it says where a file may be cut, and never what of it is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_CHAPTERS = 2000
"""Most chapters of one file; the Bible has 1 189. A longer table is no table of chapters. Assumed."""

MIN_CHAPTER_S = 1.0
"""A chapter shorter than this is a mark, and goes to the one after it, seconds. Assumed."""

SLACK_S = 1.0
"""Seconds by which bounds may miss each other and the file's end in a table without a fault: players round. Assumed."""


@dataclass(frozen=True)
class Chapter:
    """A stretch of a file, in seconds."""

    start_s: float
    end_s: float
    title: str = ""


def mend_chapters(claimed: Sequence[Chapter], duration_s: float) -> tuple[list[Chapter], str | None]:
    """Return chapters that lie end to end over all of a file, and the first fault of the table, None where it has none.

    Each begins where the table says and ends where the next begins, the first at 0 and the last at ``duration_s`` (0:
    not known, then where the table ends). No chapters are returned where fewer than two are left: the file is one
    recording.
    """
    if len(claimed) > MAX_CHAPTERS:
        return [], f"{len(claimed)} chapters, over {MAX_CHAPTERS}: taken whole"
    fault = _first_fault(claimed, duration_s)
    end_s = duration_s or max((chapter.end_s for chapter in claimed), default=0.0)
    inside = [chapter for chapter in claimed if chapter.start_s < end_s]
    found: list[Chapter] = []
    next_s = end_s
    for chapter in sorted(inside, key=lambda chapter: chapter.start_s)[::-1]:
        start_s = max(0.0, chapter.start_s)
        if next_s - start_s >= MIN_CHAPTER_S:
            found.append(Chapter(start_s, next_s, chapter.title))
            next_s = start_s
        elif found:
            first = found.pop()
            found.append(Chapter(start_s, first.end_s, first.title))
            next_s = start_s
    if len(found) < 2:
        return [], fault
    found[-1] = Chapter(0.0, found[-1].end_s, found[-1].title)
    return found[::-1], fault


def _first_fault(claimed: Sequence[Chapter], duration_s: float) -> str | None:
    before_s = 0.0
    for number, chapter in enumerate(claimed, start=1):
        is_inside = not duration_s or chapter.end_s <= duration_s + SLACK_S
        if not (before_s - 0.1 <= chapter.start_s < chapter.end_s and is_inside):
            return (
                f"chapter {number} claims {chapter.start_s:.1f} to {chapter.end_s:.1f} s, after {before_s:.1f} s in a "
                f"file of {duration_s:.1f} s: mended"
            )
        before_s = chapter.end_s
    return None
