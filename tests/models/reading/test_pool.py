"""Texts that come and go in a pool of readings: each draws what it draws alone, and groups take turns."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_reader import TEXTS, make_gpt, words_of

from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.reading.pool import ReadingPool, padded_size
from triforce.models.reading.sampling import read_aloud
from triforce.models.vocabulary import Segment

CONFIGS = (
    SamplingConfig(max_codes_per_word=8),
    SamplingConfig(max_codes_per_word=6, guidance=1.8, temperature=1.1, top_k=9),
    SamplingConfig(max_codes_per_word=9, guidance=1.3, top_p=0.8, num_candidates=2),
    SamplingConfig(temperature=0, min_codes_per_word=2, max_codes_per_word=5, max_codes=12),
)


def same(one, other) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.codes, b.codes)
        np.testing.assert_array_equal(a.units, b.units)
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)


@pytest.mark.parametrize("units", ["words", "pieces"])
def test_texts_that_come_and_go_draw_what_they_draw_alone(units):
    """With other settings beside them, in rows and lines that others had before, and moved when others end."""
    model = make_gpt(pointer=True, reading_units=units)
    pool = ReadingPool(model, num_rows=3)
    asked, sizes = [], set()
    for step in range(100):
        if step % 7 == 0 and len(asked) < 12:
            number = len(asked)
            prefix = [Segment("speech", np.arange(number))] if number % 3 == 0 else []
            text, config = words_of(TEXTS[number % 3]), CONFIGS[number % 4]
            asked.append((pool.add(text, config, seed=number, prefix=prefix), text, prefix))
        pool.step()
        sizes.add(len(pool.owners))
    pool.run()
    assert {3, 4, 5} <= sizes <= set(range(7))
    for reading, text, prefix in asked:
        alone = read_aloud(model, [text], reading.config, seeds=[reading.seed], prefix=prefix)[0]
        same(reading.candidates, alone)


def test_codes_are_there_before_the_end_and_a_text_taken_away_leaves_at_once():
    model = make_gpt(pointer=True)
    pool = ReadingPool(model, num_rows=2)
    gone, stays = (pool.add(words_of(text), CONFIGS[1], seed=3) for text in TEXTS[:2])
    waits = [pool.add(words_of(TEXTS[0]), CONFIGS[0], seed=9) for _ in range(2)]
    for _ in range(12):
        pool.step()
    early = pool.codes(stays)
    assert 0 < len(early) < 12
    pool.cancel(gone)
    pool.cancel(waits[0])
    assert len(pool.seats) == 1
    assert len(pool.owners) == 2
    pool.step()
    assert [seat.reading for seat in pool.seats] == [stays, waits[1]]
    pool.run()
    assert not gone.candidates
    assert not waits[0].candidates
    np.testing.assert_array_equal(pool.codes(stays)[: len(early)], early)
    same(stays.candidates, read_aloud(model, [words_of(TEXTS[1])], CONFIGS[1], seeds=[3])[0])


def test_a_long_text_delays_no_other_for_long():
    """The first sentence of another text is read as soon as one of the long text's has ended."""
    model = make_gpt(pointer=True)
    pool = ReadingPool(model, num_rows=2)
    long = [pool.add(words_of(TEXTS[n % 3]), CONFIGS[0], group="long") for n in range(8)]
    for _ in range(3):
        pool.step()
    late = [pool.add(words_of(TEXTS[2]), CONFIGS[0], group=name) for name in ("a", "b")]
    order = []
    while pool.busy:
        order += pool.step()
    assert [order.index(reading) for reading in late] <= [3, 4]
    assert [reading for reading in order if reading.group == "long"][-1] is order[-1]
    assert set(order) == {*long, *late}


def test_a_free_row_goes_to_the_group_that_has_the_fewest():
    """And not to each group in turn: one that came later draws level before the first gets another."""
    model = make_gpt(pointer=True)
    pool = ReadingPool(model, num_rows=4)
    for name in ("long", "late"):
        for seed in range(8):
            pool.add(words_of(TEXTS[seed % 2]), CONFIGS[0], seed=seed, group=name)
        pool.step()
    held = [Counter(seat.reading.group for seat in pool.seats)]
    while pool.waiting.get("late"):
        pool.step()
        if (now := Counter(seat.reading.group for seat in pool.seats)) != held[-1]:
            held.append(now)
    shares = [(now["long"], now["late"]) for now in held]
    assert shares[0] == (4, 0)
    assert (2, 2) in shares
    first = shares.index((2, 2))
    assert [late for _, late in shares[: first + 1]] == sorted(late for _, late in shares[: first + 1])
    assert all(long <= 2 for long, _ in shares[first:])


def test_what_does_not_fit_is_refused_and_shapes_are_few():
    model = make_gpt(pointer=True)
    pool = ReadingPool(model, num_rows=5, num_slots=192)
    with pytest.raises(ValueError, match="192 slots"):
        pool.add(words_of(TEXTS[1]), SamplingConfig())
    with pytest.raises(ValueError, match="nothing to say"):
        pool.add([], SamplingConfig())
    with pytest.raises(ValueError, match="num_rows 0"):
        ReadingPool(model, num_rows=0)
    shapes = set()

    def seen(ids: torch.Tensor, **known: object) -> torch.Tensor:
        shapes.add((*ids.shape, known["cache"].visible))
        return model(ids, **known)

    pool = ReadingPool(model, num_rows=5, forward=seen)
    for seed in range(12):
        pool.add(words_of(TEXTS[1]), CONFIGS[1], seed=seed)
    pool.run()
    stepped = {shape for shape in shapes if shape[1] == 1 and shape[2] >= 64}
    assert {rows for rows, _, _ in stepped} <= {2, 4, 6, 8, 10}
    assert {visible for _, _, visible in stepped} == {64, 128}
    assert [padded_size(n) for n in (1, 3, 9, 65, 130)] == [1, 4, 12, 128, 192]
