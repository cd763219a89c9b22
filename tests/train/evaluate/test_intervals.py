"""Bootstrap intervals cover what they should, and pairing makes them tighter."""

from __future__ import annotations

import numpy as np
import pytest

from triforce.train.evaluate import intervals
from triforce.train.evaluate.metrics import Errors


def test_error_rate_pools_words_and_its_interval_covers_the_true_rate() -> None:
    assert intervals.error_rate(
        [Errors(1, 2), Errors(0, 8)], intervals.resample_clips(2, 500, 0)
    ).value == pytest.approx(0.1)
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):  # 60 clips of 10 words, one in five of which is wrong
        errors = [Errors(int(wrong), 10) for wrong in rng.binomial(10, 0.2, 60)]
        interval = intervals.error_rate(errors, intervals.resample_clips(60, 400, trial))
        assert interval.low <= interval.value <= interval.high
        covered += interval.low <= 0.2 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_paired_difference_is_tighter_than_the_systems_apart() -> None:
    rng = np.random.default_rng(2)
    hard = rng.integers(0, 9, 50)  # how hard a clip is weighs far more than which system reads it
    before = [Errors(int(errors), 10) for errors in hard]
    after = [Errors(int(errors) + (clip % 5 == 0), 10) for clip, errors in enumerate(hard)]
    draws = intervals.resample_clips(50, 1000, 0)
    difference = intervals.error_rate_difference(after, before, draws)
    assert difference.value == pytest.approx(0.02)
    assert difference.low > 0
    alone = intervals.error_rate(before, draws)
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)
    assert intervals.error_rate_difference(before, before, draws) == (0.0, 0.0, 0.0)


def test_frechet_difference_is_paired_and_finds_the_nearer_arm() -> None:
    rng = np.random.default_rng(3)
    reference = rng.standard_normal((150, 6)) * np.arange(1, 7)
    near, far = reference + 0.3 * rng.standard_normal((150, 6)), reference * 0.7 + 0.4
    draws = intervals.resample_clips(150, 100, 0)
    alone = [intervals.frechet_interval(reference, arm, draws) for arm in (near, far)]
    paired = intervals.frechet_interval(reference, near, draws, minus=far)
    assert paired.value == pytest.approx(alone[0].value - alone[1].value)
    assert paired.low <= paired.value <= paired.high < 0
    same = intervals.frechet_interval(reference, near, draws, minus=near)
    assert same == (0, 0, 0)
    apart = sum(interval.high - interval.low for interval in alone)
    assert paired.high - paired.low < apart
