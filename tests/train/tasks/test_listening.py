"""What listeners would say: the Fréchet distance against its formula and SciPy, DNSMOS on clean and ruined speech."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from triforce.train.evaluate.quality import FeatureStatistics, dnsmos, frechet_distance


def statistics(*parts: np.ndarray) -> FeatureStatistics:
    found = FeatureStatistics()
    for part in parts:
        found.add(part)
    return found


def test_frechet_distance_is_the_formula_of_fid() -> None:
    rng = np.random.default_rng(0)
    a, b = (
        rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)),
        1.5 + rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)),
    )
    first, second = np.cov(a.T, bias=True), np.cov(b.T, bias=True)
    root = linalg.sqrtm(first @ second).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    found = frechet_distance(statistics(a[:100], a[100:]), statistics(b))
    assert found == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(statistics(a), statistics(a[::-1])) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(statistics(a), statistics(a + 2)) == pytest.approx(24, rel=1e-6)  # 6 axes, 2 squared each
    few = rng.normal(size=(3, 6))  # fewer frames than axes: singular, and still a number
    assert np.isfinite(frechet_distance(statistics(few), statistics(b)))
    assert frechet_distance(FeatureStatistics(), statistics(b)) is None


def test_dnsmos_hears_ruin(spoken) -> None:
    pytest.importorskip("speechmos", reason="pip install 'triforce[quality]'")
    clean = spoken("You have three new messages.")
    noise = np.random.default_rng(0).normal(0, 0.1, len(clean)).astype(np.float32)
    assert 1 <= dnsmos(clean + noise, 24_000) < dnsmos(clean, 24_000) - 0.5 <= 4.5
    assert np.isnan(dnsmos(np.zeros(0, np.float32), 24_000))
