"""A recording's published text dealt out to its clips, each of which takes it where the recogniser agrees.

What was recognised decides where each published word belongs, and whether it was said at all: words that nobody can
have had the time to say, and remarks in brackets that were not heard, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from triforce.ingest.align.align import Pair, align, likeness
from triforce.ingest.align.config import AlignConfig
from triforce.ingest.align.tokens import Token, joined, tokenize
from triforce.ingest.asr.writing import spoken_letters
from triforce.ingest.corpus.records import Word

MAX_LETTERS_PER_S = 25.0
"""Faster speech than anybody's, in letters of an alphabet a second: `TranscribeConfig.max_chars_per_s`."""
MIN_EDGE_LIKENESS = 0.5
"""How alike the recognised and the published word at an end of a clip must be, so that the end is at the right word.
Measured with `min_agreement`, see the README."""


COVERED = 0.5
"""Agreement from which on a clip counts as one that the transcript covers. Measured: where a sentence is missing the
clip's agreement is under it, and where one word in five is another it is over 0.6."""
MIN_COVERED = 0.2
"""Least share of a recording that its transcript covers; texts of something else cover a short clip now and then.
Assumed."""
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


@dataclass(frozen=True)
class Published:
    """What a clip's transcript says."""

    text: str
    words: tuple[Word, ...]
    """Times are those of the recognised words; a word that was not recognised has the time left between others, and no
    probability."""
    agreement: float
    """Share of the letters, of both texts, that agree, 0 to 1."""
    is_anchored: bool
    """Whether the first and the last word were recognised."""

    def is_preferred(self, config: AlignConfig) -> bool:
        """Return whether the clip takes this text."""
        return bool(self.words) and self.is_anchored and self.agreement >= config.min_agreement


@dataclass
class _Unit:
    text: str
    clip: int
    start_s: float
    """In the recording."""
    end_s: float
    probability: float | None
    partners: list[int] = field(default_factory=list)
    """Published units."""


@dataclass
class _Placed:
    """A token and where it was said."""

    token: Token
    heard: list[_Unit]
    likeness: list[float]
    """Of each of its units, 0 for one that was not heard."""
    clip: int | None = None
    start_s: float = 0.0
    end_s: float = 0.0


def deal_out(clips: Sequence[Heard], tokens: Sequence[Token]) -> list[Published]:
    """Return for each clip what the transcript's ``tokens`` say there; agreement is 0 where nothing was recognised."""
    heard = _heard_units(clips)
    published = [unit for token in tokens for unit in token.units]
    pairs = align([unit.text for unit in heard], published)
    placed = _place(tokens, heard, pairs)
    _fit_unheard(placed)
    _mend_borders(placed)
    own: list[list[_Placed]] = [[] for _ in clips]
    for each in placed:
        if each.clip is not None:
            own[each.clip].append(each)
    units: list[list[_Unit]] = [[] for _ in clips]
    for unit in heard:
        units[unit.clip].append(unit)
    return [_published(clip, said, unit) for clip, said, unit in zip(clips, own, units, strict=True)]


@dataclass(frozen=True)
class RecordingAgreement:
    """How far a transcript is one of a recording."""

    covered: float
    """Share of what was recognised that is in clips which the transcript covers, by letters."""
    median: float
    """Median agreement of these clips, by letters: low where the words are another edition's."""

    def is_enough(self, config: AlignConfig) -> bool:
        """Return whether clips may take words of this transcript."""
        return self.covered >= MIN_COVERED and self.median >= config.min_recording_agreement


def recording_agreement(found: Sequence[Published], clips: Sequence[Heard]) -> RecordingAgreement:
    """Return how well a transcript agrees with the clips of a recording that are in it."""
    letters = [sum(len(word.word) for word in clip.words) for clip in clips]
    inside = sorted(
        (each.agreement, size) for each, size in zip(found, letters, strict=True) if size and each.agreement >= COVERED
    )
    half, median = sum(size for _, size in inside) / 2, 0.0
    for agreement, size in inside:
        half -= size
        if half <= 0:
            median = agreement
            break
    return RecordingAgreement(sum(size for _, size in inside) / max(1, sum(letters)), median)


def _heard_units(clips: Sequence[Heard]) -> list[_Unit]:
    """The units of the recognised words; the units of a word share its time by their letters."""
    units = []
    for number, clip in enumerate(clips):
        for word in clip.words:
            parts = _split(word.word)
            total, at = sum(map(len, parts)), clip.start_s + word.start_s
            for part in parts:
                end = at + (word.end_s - word.start_s) * len(part) / total
                units.append(_Unit(part, number, at, end, word.probability))
                at = end
    return units


def _split(word: str) -> list[str]:
    return [unit for token in tokenize([word]) for unit in token.units]


def _place(tokens: Sequence[Token], heard: Sequence[_Unit], pairs: Sequence[Pair]) -> list[_Placed]:
    """Each token with the units that were heard for it, and the clip and the time of these."""
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
        found = _Placed(token, said, alike)
        if said:
            found.clip = said[0].clip
            mine = [unit for unit in said if unit.clip == found.clip]
            found.start_s, found.end_s = mine[0].start_s, mine[-1].end_s
        placed.append(found)
    _share_times(placed)
    return placed


def _likeness(heard: Sequence[_Unit], unit: str) -> float:
    """How alike a published unit is to what was heard for it; one of two that were heard as one counts as heard."""
    if not heard:
        return 0.0
    text = "".join(each.text for each in heard)
    if len(heard) == 1 and len(heard[0].partners) > 1:
        return 1.0
    return likeness(text, unit)


def _share_times(placed: Sequence[_Placed]) -> None:
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


def _fit_unheard(placed: list[_Placed]) -> None:
    """Place the tokens that were not heard between their neighbours, where there is the time to say them."""
    before: _Placed | None = None
    run: list[_Placed] = []
    for each in placed:
        if not each.heard:
            run.append(each)
            continue
        if run and before is not None:
            _fit(before, [one for one in run if not one.token.is_aside], each)
        before, run = each, []


def _fit(before: _Placed, run: list[_Placed], after: _Placed) -> None:
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


def _mend_borders(placed: list[_Placed]) -> None:
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


def _ends_sentence(placed: _Placed) -> bool:
    """Whether a token ends a sentence, by its marks."""
    return bool(SENTENCE_END.search(placed.token.text))


def _is_doubtful(placed: _Placed) -> bool:
    return min(placed.likeness) < 1.0


def _is_sayable(placed: Sequence[_Placed], start_s: float, end_s: float) -> bool:
    letters = spoken_letters(joined(each.token for each in placed))
    return letters <= MAX_LETTERS_PER_S * (end_s - start_s)


def _spread(run: Sequence[_Placed], clip: int | None, start_s: float, end_s: float) -> None:
    total, at = sum(len(each.token.text) for each in run), start_s
    for each in run:
        each.clip, each.start_s = clip, at
        at += (max(end_s, start_s) - start_s) * len(each.token.text) / total
        each.end_s = at


def _published(clip: Heard, said: Sequence[_Placed], heard: Sequence[_Unit]) -> Published:
    words = tuple(
        Word(
            " " + each.token.text if each.token.has_space else each.token.text,
            round(max(0.0, each.start_s - clip.start_s), 2),
            round(max(0.0, each.end_s - clip.start_s), 2),
            _probability(each.heard),
        )
        for each in said
    )
    return Published(joined(each.token for each in said), words, _agreement(said, heard), _is_anchored(said, heard))


def _is_anchored(said: Sequence[_Placed], heard: Sequence[_Unit]) -> bool:
    if not said or not heard or not heard[0].partners or not heard[-1].partners:
        return False
    return all(_is_number(each) or max(each.likeness) >= MIN_EDGE_LIKENESS for each in (said[0], said[-1]))


def _probability(heard: Sequence[_Unit]) -> float | None:
    known = [unit.probability for unit in heard if unit.probability is not None]
    return sum(known) / len(known) if known else None


def _agreement(said: Sequence[_Placed], heard: Sequence[_Unit]) -> float:
    """Share of letters that agree; a number in figures agrees with any word, as it may be written in letters."""
    alike = total = 0.0
    for each in said:
        if _is_number(each):
            continue
        for unit, share in zip(each.token.units, each.likeness, strict=True):
            alike += share * len(unit)
            total += len(unit)
    unpaired = sum(len(unit.text) for unit in heard if not unit.partners)
    total += unpaired
    return alike / total if total else float(bool(said))


def _is_number(placed: _Placed) -> bool:
    """Whether a token, or what was heard for it, is written in figures, and the other is not."""
    if not placed.heard:
        return False
    figures = any(unit.isdecimal() for unit in placed.token.units)
    return figures != any(unit.text.isdecimal() for unit in placed.heard)
