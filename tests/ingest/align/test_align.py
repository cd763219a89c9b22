"""Two texts of the same speech, unit by unit."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from triforce.ingest.align.align import align, align_by_likeness

WORDS = [f"{first}{middle}{last}" for first in "bdfgklmnprstv" for middle in "aeiou" for last in "lmnrst"]


def units(seed: int, count: int) -> list[str]:
    """Words of which few are frequent, as in a language."""
    generator = random.Random(seed)
    return [WORDS[min(int(generator.paretovariate(0.4)) - 1, len(WORDS) - 1)] for _ in range(count)]


def test_what_was_heard_is_found_within_a_book():
    book = units(1, 3000)
    heard = [*units(2, 12), *book[1000:1400], *units(3, 12)]
    pairs = dict(align(heard, book))
    assert all(pairs[12 + step] == 1000 + step for step in range(400))


def test_passages_that_only_one_text_has_are_left_alone():
    book = units(1, 1200)
    heard = [*book[:300], *units(2, 250), *book[300:500], *book[900:]]
    pairs = dict(align(heard, book))
    expected = {at: at for at in range(300)} | {at: at - 250 for at in range(550, 750)}
    expected |= {at: at + 150 for at in range(750, 1050)}
    wrong = [at for at, to in expected.items() if pairs.get(at) != to]
    assert len(wrong) <= 4  # at the seams a word may be as good in the other place
    assert all(min(abs(at - seam) for seam in (300, 550, 750)) <= 3 for at in wrong)


def test_words_that_are_alike_stand_for_each_other():
    heard = ["the", "colour", "of", "tchaikovski", "and", "of", "every", "one", "was", "gray"]
    published = ["the", "color", "chaikovsky", "everyone", "was", "grey"]
    found = [(heard[at], published[to]) for at, to in align_by_likeness(heard, published)]
    assert found == [
        *(("the", "the"), ("colour", "color"), ("tchaikovski", "chaikovsky")),
        *(("every", "everyone"), ("one", "everyone"), ("was", "was"), ("gray", "grey")),
    ]


@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd")))
def test_pairs_go_forward(heard, published):
    pairs = align(heard, published)
    assert pairs == sorted(set(pairs))
    assert all(0 <= at < len(heard) and 0 <= to < len(published) for at, to in pairs)
    assert all(left_to <= right_to for (_, left_to), (_, right_to) in pairwise(pairs))
    if heard == published:
        assert pairs == [(at, at) for at in range(len(heard))]


def test_two_hours_of_a_book_take_little_memory():
    """The product of the lengths would be 900 million cells."""
    book, generator = units(1, 45_000), random.Random(2)
    heard = [generator.choice(WORDS) if generator.random() < 0.1 else word for word in book[10_000:30_000]]
    tracemalloc.start()
    pairs = dict(align(heard, book))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    right = sum(pairs.get(at) == 10_000 + at for at in range(len(heard)))
    assert right > 0.97 * len(heard)
    assert peak < 60 << 20


def test_repetitions_without_any_anchor_are_aligned():
    """Nothing comes once: there are no anchors at all."""
    heard, published = ["press", "one"] * 400, ["press", "one"] * 400
    assert align(heard, published) == [(at, at) for at in range(800)]
