"""Two texts of the same speech, unit by unit: which recognised unit stands for which published one.

Both may be long, a book against one of its chapters, and differ in whole passages. Runs of units that come once in
both are found first, longest first, and the longest chain of them that goes forward in both is kept (patience diff).
What lies between two anchors is small, and aligned by dynamic programming that knows how alike two words are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from rapidfuzz.distance import Indel, Levenshtein

ANCHOR_SIZES = (5, 3, 2, 1)
"""Units of an anchor, in the order in which they are tried: a run of five that comes once in a book hardly stands
somewhere else in its recording; shorter ones only count between two longer ones."""
MAX_CELLS = 2_500
"""Largest gap that is aligned by likeness, in cells; larger ones are cut up by shorter anchors first. 2 500 take
5 ms. Measured."""
MAX_RAW_CELLS = 400_000_000
"""Largest gap without anchors that is aligned by equal units alone: 20 000 units on either side, 1 s. Assumed."""
NEAR = 2
SLACK = 20
"""Of the longer side of a gap so many times the shorter one and so many units more lie near enough to an end."""
UNLIKE = 1.9
"""Cost of a pair of units with nothing in common; of one without a partner it is 1, so that unlike ones pair up."""

Pair = tuple[int, int]


def align(heard: Sequence[str], published: Sequence[str]) -> list[Pair]:
    """Return pairs of places in both, in order. A unit may be in several pairs (``every one``, ``everyone``), or none.

    Time and memory grow with the sum of the lengths, not with their product.
    """
    pairs: list[Pair] = []
    gaps = [(0, len(heard), 0, len(published), 0)]
    while gaps:
        low, high, first, last, depth = gaps.pop()
        if low == high or first == last:
            continue
        is_small = (high - low) * (last - first) <= MAX_CELLS
        if depth == len(ANCHOR_SIZES) or (is_small and depth):
            pairs += _align_gap(heard, published, (low, high, first, last))
            continue
        size = ANCHOR_SIZES[depth]
        chain = _anchors(heard[low:high], published[first:last], size)
        if not chain:
            gaps.append((low, high, first, last, depth + 1))
            continue
        covered = sorted({(low + at + step, first + to + step) for at, to in chain for step in range(size)})
        covered = _forward(covered)
        pairs += covered
        edges = [(low - 1, first - 1), *covered, (high, last)]
        for (left, left_to), (right, right_to) in pairwise(edges):
            gaps.append((left + 1, right, left_to + 1, right_to, depth + 1))
    return sorted(pairs)


def likeness(one: str, other: str) -> float:
    """Return how alike two units are by their letters, 0 to 1."""
    return 1.0 if one == other else Indel.normalized_similarity(one, other)


def _anchors(heard: Sequence[str], published: Sequence[str], size: int) -> list[Pair]:
    """Return the longest chain of runs of ``size`` units that come once in both."""
    once, once_published = _unique(heard, size), _unique(published, size)
    common = sorted((at, once_published[run]) for run, at in once.items() if run in once_published)
    return _longest_chain(common)


def _unique(units: Sequence[str], size: int) -> dict[tuple[str, ...], int]:
    places: dict[tuple[str, ...], int] = {}
    for at, run in enumerate(zip(*(units[step:] for step in range(size)), strict=False)):
        places[run] = -1 if run in places else at
    return {run: at for run, at in places.items() if at >= 0}


def _longest_chain(pairs: list[Pair]) -> list[Pair]:
    """Return the longest part of ``pairs``, sorted by the first, that grows in the second too (Schensted 1961)."""
    ends: list[int] = []
    at_end: list[int] = []
    before: list[int] = []
    for index, (_, to) in enumerate(pairs):
        place = bisect_left(ends, to)
        before.append(at_end[place - 1] if place else -1)
        if place == len(ends):
            ends.append(to)
            at_end.append(index)
        else:
            ends[place], at_end[place] = to, index
    chain, index = [], at_end[-1] if at_end else -1
    while index >= 0:
        chain.append(pairs[index])
        index = before[index]
    return chain[::-1]


def _forward(pairs: list[Pair]) -> list[Pair]:
    """Return pairs without those that go back, where two anchors overlap in one text only."""
    kept: list[Pair] = []
    for at, to in pairs:
        if not kept or (at > kept[-1][0] and to > kept[-1][1]):
            kept.append((at, to))
    return kept


def _align_gap(heard: Sequence[str], published: Sequence[str], gap: tuple[int, int, int, int]) -> list[Pair]:
    """Align what lies between two anchors; of a much longer side only what is near an end that is anchored."""
    low, high, first, last = gap
    left = _near(low, high, last - first, low > 0, high < len(heard))
    right = _near(first, last, high - low, first > 0, last < len(published))
    one, other = [heard[at] for at in left], [published[at] for at in right]
    if len(one) * len(other) <= MAX_CELLS:
        found = align_by_likeness(one, other)
    elif len(one) * len(other) <= MAX_RAW_CELLS:
        found = _align_by_equality(one, other)
    else:
        found = []
    return [(left[at], right[to]) for at, to in found]


def _near(start: int, stop: int, other: int, from_start: bool, from_stop: bool) -> Sequence[int]:
    reach = NEAR * other + SLACK
    if stop - start <= 2 * reach or not (from_start or from_stop):
        return range(start, stop)
    head = range(start, start + reach) if from_start else range(0)
    tail = range(stop - reach, stop) if from_stop else range(0)
    return [*head, *tail]


def _align_by_equality(heard: list[str], published: list[str]) -> list[Pair]:
    pairs: list[Pair] = []
    for tag, start, stop, to, _ in Levenshtein.opcodes(heard, published):
        if tag in ("equal", "replace"):
            pairs += [(start + step, to + step) for step in range(stop - start)]
    return pairs


def align_by_likeness(heard: Sequence[str], published: Sequence[str]) -> list[Pair]:
    """Return the pairs of the cheapest alignment, in time and memory of the product of the lengths.

    A unit without a partner costs 1, a pair up to `UNLIKE` by how little alike it is, and two units that make up one
    nothing.
    """
    width = len(published) + 1
    costs = [float(to) for to in range(width)]
    ways = [[(0, 1)] * width]
    rows = [costs]
    for at, word in enumerate(heard, 1):
        row, way = [float(at)], [(1, 0)]
        for to, other in enumerate(published, 1):
            pair = 0.0 if word == other else UNLIKE - (UNLIKE - 0.9) * likeness(word, other)
            best, step = rows[at - 1][to - 1] + pair, (1, 1)
            if (cost := rows[at - 1][to] + 1.0) < best:
                best, step = cost, (1, 0)
            if (cost := row[to - 1] + 1.0) < best:
                best, step = cost, (0, 1)
            if at > 1 and heard[at - 2] + word == other and (cost := rows[at - 2][to - 1]) < best:
                best, step = cost, (2, 1)
            if to > 1 and published[to - 2] + other == word and (cost := rows[at - 1][to - 2]) < best:
                best, step = cost, (1, 2)
            row.append(best)
            way.append(step)
        rows.append(row)
        ways.append(way)
    return _traced(ways)


def _traced(ways: list[list[tuple[int, int]]]) -> list[Pair]:
    at, to = len(ways) - 1, len(ways[0]) - 1
    pairs: list[Pair] = []
    while at or to:
        back, back_to = ways[at][to] if at else (0, 1)
        if back and back_to:
            pairs += [(at - 1 - one, to - 1 - other) for one in range(back) for other in range(back_to)]
        at, to = at - back, to - back_to
    return sorted(pairs)
