"""The Fréchet distance against its formula and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from triforce.train.evaluate.metrics import FeatureStatistics, frechet_distance


def test_frechet_distance_is_the_formula_of_fid() -> None:
    rng = np.random.default_rng(0)
    a, b = (
        rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)),
        1.5 + rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)),
    )
    first, second = np.cov(a.T, bias=True), np.cov(b.T, bias=True)
    root = linalg.sqrtm(first @ second).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    found = frechet_distance(FeatureStatistics([a[:100], np.zeros((0, 0)), a[100:]]), FeatureStatistics([b]))
    assert found == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(FeatureStatistics([a]), FeatureStatistics([a[::-1]])) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(FeatureStatistics([a]), FeatureStatistics([a + 2])) == pytest.approx(
        24, rel=1e-6
    )  # 6 axes, 2 squared each
    few = rng.normal(size=(3, 6))  # fewer frames than axes: singular, and still a number
    assert np.isfinite(frechet_distance(FeatureStatistics([few]), FeatureStatistics([b])))
    assert frechet_distance(FeatureStatistics(), FeatureStatistics([b])) is None
