"""Windows hold each clip once, in both ways of packing."""

from __future__ import annotations

import numpy as np

from triforce.ingest.asr.whisper import RATE_HZ, WINDOW_S, WINDOW_SAMPLES
from triforce.ingest.asr.window_packing import batches_of_like_length, one_each, pack_first_fit, pack_in_order


def test_windows_hold_each_clip_once_and_never_more_than_whisper_takes() -> None:
    rng = np.random.default_rng(0)
    clips = [np.full(int(rng.uniform(0.5, 29.0) * RATE_HZ), i, np.float32) for i in range(1, 40)]
    clips.append(np.zeros(0, np.float32))
    windows = pack_first_fit(clips, RATE_HZ, WINDOW_SAMPLES)
    assert sorted(index for window in windows for index in window.clips) == list(range(39))
    assert max(window.waveform(clips).size for window in windows) <= WINDOW_S * RATE_HZ
    total_s = sum(clip.size + RATE_HZ for clip in clips) / RATE_HZ
    assert len(windows) < 1.35 * total_s / WINDOW_S
    for window in windows:
        waveform = window.waveform(clips)
        found = [int(value) for value in waveform[np.flatnonzero(np.diff(waveform, prepend=0))] if value]
        assert found == [index + 1 for index in window.clips]
        assert not waveform[-RATE_HZ:].any()
    assert [window.clips for window in one_each(clips)] == [(index,) for index in range(39)]


def test_neighbours_share_a_window_in_order_and_a_long_clip_has_its_own():
    clips = [np.full(length, number + 1, np.float32) for number, length in enumerate((40, 30, 25, 200, 0, 10))]
    windows = pack_in_order(clips, 5, 100)
    assert [window.clips for window in windows] == [(0, 1), (2,), (3,), (4, 5)]
    assert [window.starts for window in windows] == [(0, 45), (0,), (0,), (0, 5)]
    assert [window.num_samples for window in windows] == [75, 25, 200, 15]
    assert windows[0].waveform(clips).tolist() == [1.0] * 40 + [0.0] * 5 + [2.0] * 30
    batches = list(batches_of_like_length(windows, 3))
    assert [[window.num_samples for window in batch] for batch in batches] == [[15, 25, 75], [200]]
