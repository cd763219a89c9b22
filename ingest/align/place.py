"""Where each published word was said: its clip and its time, by the recognised words that it is aligned with.

Words that nobody can have had the time to say, and remarks in brackets that were not heard, have no place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from triforce.ingest.align.align import align, likeness
from triforce.ingest.align.tokens import Token, joined, tokenize
from triforce.ingest.asr.writing import spoken_letters
from triforce.ingest.corpus.records import Word

MAX_LETTERS_PER_S = 25.0
"""Faster speech than anybody's, in letters of an alphabet a second: `TranscribeConfig.max_chars_per_s`."""
MIN_PAUSE_S = 0.5
"""Pause that shows a word next to a border to be one of the other clip, where its sentence says so too. Assumed."""
SENTENCE_END = re.compile(r"[.?!\N{HORIZONTAL ELLIPSIS}。？！।؟][^\w]*$")


@dataclass(frozen=True)
class Heard:
    """What was recognised in a clip."""

    words: tuple[Word, ...]
    """With times in seconds from the clip's start."""
    start_s: float
    """Where the clip begins in its recording."""


@dataclass
class Unit:
    """A recognised word as it is compared, or a part of one."""

    text: str
    clip: int
    start_s: float
    """In the recording."""
    end_s: float
    probability: float | None
    partners: list[int] = field(default_factory=list)
    """Published units."""


@dataclass
class Placed:
    """A token and where it was said."""

    token: Token
    heard: list[Unit]
    likeness: list[float]
    """Of each of its units, 0 for one that was not heard."""
    clip: int | None = None
    start_s: float = 0.0
    end_s: float = 0.0


def place(tokens: Sequence[Token], heard: Sequence[Unit]) -> list[Placed]:
    """Return the tokens with their places; the units come to know their partners."""
    placed = _place(tokens, heard)
    _share_times(placed)
    _fit_unheard(placed)
    _mend_borders(placed)
    return placed


def heard_units(clips: Sequence[Heard]) -> list[Unit]:
    """Return the units of the recognised words; the units of a word share its time by their letters."""
    units = []
    for number, clip in enumerate(clips):
        for word in clip.words:
            parts = _split(word.word)
            total, at = sum(map(len, parts)), clip.start_s + word.start_s
            for part in parts:
                end = at + (word.end_s - word.start_s) * len(part) / total
                units.append(Unit(part, number, at, end, word.probability))
                at = end
    return units


def _split(word: str) -> list[str]:
    return [unit for token in tokenize([word]) for unit in token.units]


def _place(tokens: Sequence[Token], heard: Sequence[Unit]) -> list[Placed]:
    """Each token with the units that were heard for it, and the clip and the time of these."""
    pairs = align([unit.text for unit in heard], [unit for token in tokens for unit in token.units])
    by_published: dict[int, list[int]] = {}
    for at, to in pairs:
        by_published.setdefault(to, []).append(at)
        heard[at].partners.append(to)
    placed, first = [], 0
    for token in tokens:
        own = range(first, first + len(token.units))
        first = own.stop
        partners = [by_published.get(to, []) for to in own]
        said = [heard[at] for at in sorted({at for each in partners for at in each})]
        alike = [_likeness([heard[at] for at in each], unit) for each, unit in zip(partners, token.units, strict=True)]
        found = Placed(token, said, alike)
        if said:
            found.clip = said[0].clip
            mine = [unit for unit in said if unit.clip == found.clip]
            found.start_s, found.end_s = mine[0].start_s, mine[-1].end_s
        placed.append(found)
    return placed


def _likeness(heard: Sequence[Unit], unit: str) -> float:
    """How alike a published unit is to what was heard for it; one of two that were heard as one counts as heard."""
    if not heard:
        return 0.0
    text = "".join(each.text for each in heard)
    if len(heard) == 1 and len(heard[0].partners) > 1:
        return 1.0
    return likeness(text, unit)


def _share_times(placed: Sequence[Placed]) -> None:
    """Tokens that were heard as one word share its time by their letters."""
    for _, group in groupby((each for each in placed if each.heard), key=lambda each: id(each.heard[0])):
        shared = list(group)
        if len(shared) < 2:
            continue
        total, at = sum(len(each.token.text) for each in shared), shared[0].start_s
        length_s = shared[0].end_s - at
        for each in shared:
            each.start_s, each.end_s = at, at + length_s * len(each.token.text) / total
            at = each.end_s


def _fit_unheard(placed: list[Placed]) -> None:
    """Place the tokens that were not heard between their neighbours, where there is the time to say them."""
    before: Placed | None = None
    run: list[Placed] = []
    for each in placed:
        if not each.heard:
            run.append(each)
            continue
        if run and before is not None:
            _fit(before, [one for one in run if not one.token.is_aside], each)
        before, run = each, []


def _fit(before: Placed, run: list[Placed], after: Placed) -> None:
    """Place a run of tokens between two that were heard: in one clip, or at a border at the side of a word that was
    heard as another one."""
    if not run:
        return
    if before.clip == after.clip:
        if _is_sayable([before, *run, after], before.start_s, after.end_s):
            _spread(run, before.clip, before.end_s, after.start_s)
    elif _is_doubtful(before) and _is_sayable([before, *run], before.start_s, before.end_s):
        _spread(run, before.clip, before.end_s, before.end_s)
    elif _is_doubtful(after) and _is_sayable([*run, after], after.start_s, after.end_s):
        _spread(run, after.clip, after.start_s, after.start_s)


def _mend_borders(placed: list[Placed]) -> None:
    """Move a word to the next clip that begins its sentence there, or to the one before, whose sentence it ends.

    Where music or noise lies between two clips' speech, the recogniser's times put such a word on the wrong side.
    """
    said = [each for each in placed if each.clip is not None]
    for before, word, after in zip(said, said[1:], said[2:], strict=False):
        begins, ends = _ends_sentence(before), _ends_sentence(word)
        if before.clip == word.clip != after.clip and begins and not ends:
            if word.start_s - before.end_s > MIN_PAUSE_S:
                word.clip, word.start_s, word.end_s = after.clip, after.start_s, after.start_s
        elif (
            before.clip != word.clip == after.clip and ends and not begins and after.start_s - word.end_s > MIN_PAUSE_S
        ):
            word.clip, word.start_s, word.end_s = before.clip, before.end_s, before.end_s


def _ends_sentence(placed: Placed) -> bool:
    """Whether a token ends a sentence, by its marks."""
    return bool(SENTENCE_END.search(placed.token.text))


def _is_doubtful(placed: Placed) -> bool:
    return min(placed.likeness) < 1.0


def _is_sayable(placed: Sequence[Placed], start_s: float, end_s: float) -> bool:
    letters = spoken_letters(joined(each.token for each in placed))
    return letters <= MAX_LETTERS_PER_S * (end_s - start_s)


def _spread(run: Sequence[Placed], clip: int | None, start_s: float, end_s: float) -> None:
    total, at = sum(len(each.token.text) for each in run), start_s
    for each in run:
        each.clip, each.start_s = clip, at
        at += (max(end_s, start_s) - start_s) * len(each.token.text) / total
        each.end_s = at
