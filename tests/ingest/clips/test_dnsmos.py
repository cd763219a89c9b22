"""DNSMOS on clean and ruined speech."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import soxr

from triforce.ingest.clips.dnsmos import DNSMOS, RATE_HZ, overall_quality


def test_dnsmos_lowers_ruined_speech(spoken) -> None:
    pytest.importorskip("speechmos", reason="pip install 'triforce[quality]'")
    clean = spoken("You have three new messages.")
    noise = np.random.default_rng(0).normal(0, 0.1, len(clean)).astype(np.float32)
    assert 1 <= overall_quality(clean + noise, 24_000) < overall_quality(clean, 24_000) - 0.5 <= 4.5
    assert np.isnan(overall_quality(np.zeros(0, np.float32), 24_000))
    scores = DNSMOS()(clean, 24_000)
    assert scores.overall == overall_quality(clean, 24_000)
    assert all(1 <= score <= 5 for score in scores)
    assert DNSMOS()(soxr.resample(clean, 24_000, RATE_HZ), RATE_HZ) == scores


def test_without_the_extra_the_error_names_the_command(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "speechmos", None)
    with pytest.raises(ImportError, match=r"pip install 'triforce\[quality\]'"):
        DNSMOS()
