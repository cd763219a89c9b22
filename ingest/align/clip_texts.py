"""A recording's published text dealt out to its clips, each of which takes it where the recogniser agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from triforce.ingest.align.config import AlignConfig
from triforce.ingest.align.place import Heard, Placed, Unit, heard_units, place
from triforce.ingest.align.tokens import Token, joined
from triforce.ingest.corpus.records import Word

MIN_EDGE_LIKENESS = 0.5
"""How alike the recognised and the published word at an end of a clip must be, so that the end is at the right word.
Measured with `min_agreement`, see the README."""


COVERED = 0.5
"""Agreement from which on a clip counts as one that the transcript covers. Measured: where a sentence is missing the
clip's agreement is under it, and where one word in five is another it is over 0.6."""
MIN_COVERED = 0.2
"""Least share of a recording that its transcript covers; texts of something else cover a short clip now and then.
Assumed."""


SURE = 0.9
"""Probability from which on a recognised word is sure: of 1 000 such words of two recordings 5 were others than the
exact transcript's, half of all such words. Measured."""
MAX_LIKENESS = 0.5
"""How alike two words are at most of which one contradicts the other: other spellings are more alike. Assumed."""
MIN_CONTRADICTED = 5
"""Sure words under which a transcript's contradictions are chance. Assumed."""
EVEN = 0.75
"""Share of contradicted words among the sure ones, by that among all, from which on it is the transcript that is wrong:
0.86 and more where words of it were replaced, 0.6 and less where it was exact and the recogniser erred. Measured."""


@dataclass(frozen=True)
class Contradictions:
    """Recognised words for which the transcript has quite another one."""

    num_words: int = 0
    num_contradicted: int = 0
    num_sure: int = 0
    num_sure_contradicted: int = 0

    def __add__(self, other: Contradictions) -> Contradictions:
        return Contradictions(*(sum(pair) for pair in zip(astuple(self), astuple(other), strict=True)))

    @property
    def sure_share(self) -> float:
        """Share of the sure words that are contradicted, if they are no rarer there than elsewhere, else 0."""
        if self.num_sure_contradicted < MIN_CONTRADICTED:
            return 0.0
        share = self.num_sure_contradicted / self.num_sure
        return share if share >= EVEN * self.num_contradicted / self.num_words else 0.0


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
    contradictions: Contradictions = Contradictions()

    def is_preferred(self, config: AlignConfig) -> bool:
        """Return whether the clip takes this text."""
        return bool(self.words) and self.is_anchored and self.agreement >= config.min_agreement


def deal_out(clips: Sequence[Heard], tokens: Sequence[Token]) -> list[Published]:
    """Return for each clip what the transcript's ``tokens`` say there; agreement is 0 where nothing was recognised."""
    heard = heard_units(clips)
    own: list[list[Placed]] = [[] for _ in clips]
    for each in place(tokens, heard):
        if each.clip is not None:
            own[each.clip].append(each)
    units: list[list[Unit]] = [[] for _ in clips]
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
    contradicted: float
    """Share of their surely recognised words that the transcript has others for."""

    def is_enough(self, config: AlignConfig) -> bool:
        """Return whether clips may take words of this transcript."""
        is_like = self.covered >= MIN_COVERED and self.median >= config.min_recording_agreement
        return is_like and self.contradicted <= config.max_contradicted


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
    against = sum((each.contradictions for each in found if each.agreement >= COVERED), Contradictions())
    return RecordingAgreement(sum(size for _, size in inside) / max(1, sum(letters)), median, against.sure_share)


def _published(clip: Heard, said: Sequence[Placed], heard: Sequence[Unit]) -> Published:
    words = tuple(
        Word(
            " " + each.token.text if each.token.has_space else each.token.text,
            round(max(0.0, each.start_s - clip.start_s), 2),
            round(max(0.0, each.end_s - clip.start_s), 2),
            _probability(each.heard),
        )
        for each in said
    )
    text, against = joined(each.token for each in said), _contradictions(said)
    return Published(text, words, _agreement(said, heard), _is_anchored(said, heard), against)


def _contradictions(said: Sequence[Placed]) -> Contradictions:
    """Count the contradicted words; a number in figures contradicts nothing."""
    alike: dict[int, tuple[Unit, float]] = {}
    for each in said:
        best = 1.0 if _is_number(each) else max(each.likeness)
        for unit in each.heard:
            alike[id(unit)] = (unit, max(best, alike.get(id(unit), (unit, 0.0))[1]))
    known = [(unit.probability, best < MAX_LIKENESS) for unit, best in alike.values() if unit.probability is not None]
    sure = [is_other for probability, is_other in known if probability >= SURE]
    return Contradictions(len(known), sum(is_other for _, is_other in known), len(sure), sum(sure))


def _is_anchored(said: Sequence[Placed], heard: Sequence[Unit]) -> bool:
    if not said or not heard or not heard[0].partners or not heard[-1].partners:
        return False
    return all(_is_number(each) or max(each.likeness) >= MIN_EDGE_LIKENESS for each in (said[0], said[-1]))


def _probability(heard: Sequence[Unit]) -> float | None:
    known = [unit.probability for unit in heard if unit.probability is not None]
    return sum(known) / len(known) if known else None


def _agreement(said: Sequence[Placed], heard: Sequence[Unit]) -> float:
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


def _is_number(placed: Placed) -> bool:
    """Whether a token, or what was heard for it, is written in figures, and the other is not."""
    if not placed.heard:
        return False
    figures = any(unit.isdecimal() for unit in placed.token.units)
    return figures != any(unit.text.isdecimal() for unit in placed.heard)
