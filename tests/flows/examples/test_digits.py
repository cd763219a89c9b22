"""The digits' data and judges: what judges the networks must itself be right, and able to be wrong."""

import shutil

import numpy as np
import pytest

from triforce.flows.examples.digits.crossing import Answer, Direction, judge, read_clips
from triforce.flows.examples.digits.data import WORDS, voices, write_images, write_speech
from triforce.flows.examples.digits.judges import ImageJudge, SpeechJudge, read_word
from triforce.flows.examples.digits.page import write_page
from triforce.ingest.corpus.store import Corpus


@pytest.mark.skipif(not (shutil.which("espeak-ng") and shutil.which("flite")), reason="needs espeak-ng and flite")
def test_the_judges_know_real_digits_and_say_so_of_others(tmp_path):
    chosen = [voice for voice in voices() if voice.command][::12]
    assert write_speech(Corpus(str(tmp_path / "speech")), tmp_path / "cache", chosen) == 10 * len(chosen)
    assert write_images(Corpus(str(tmp_path / "images")), 0.2) == 1797 + 3499
    speech, images = (read_clips(str(tmp_path / f), m, 0.2) for f, m in (("speech", "speech"), ("images", "image")))
    assert {clip.speaker for clip in speech.training} <= {voice.name for voice in chosen}
    assert (len(images.heldout), len(images.training)) == (335, 1797 - 335 + 3499)  # no copy is held out
    listener, viewer = (
        kind([clip.content for clip in clips.training], [clip.word for clip in clips.training])
        for kind, clips in ((SpeechJudge, speech), (ImageJudge, images))
    )
    directions = []
    for layout, clips in (("text>speech", speech), ("text>image", images)):
        truth = Direction(layout, [Answer(clip.word, {"text": clip.word}, clip.content) for clip in clips.heldout])
        # The same sounds and pictures, each given out as the next digit.
        wrong = [Answer(WORDS[(WORDS.index(a.word) + 1) % 10], a.prompt, a.made) for a in truth.answers]
        directions += [truth, Direction(layout, wrong)]
    words = Direction("image>text", [Answer("one", {}, "one"), Answer("two", {}, "twoo"), Answer("two", {}, "")])
    judge([*directions, words], viewer, listener)
    shares = [direction.share_right for direction in directions]
    assert shares[0] > 0.85
    assert shares[2] > 0.95
    assert shares[1] < 0.1
    assert shares[3] < 0.1
    assert words.share_right == pytest.approx(1 / 3)
    assert listener([np.zeros(100, np.float32)]) == [""]
    page = write_page(directions, {"Table": [{"direction": "a>b", "right": "90%"}]}, ["A note."])
    assert page.count("<audio") == page.count("<img") == 20
    assert page.count("card wrong") > 15


def test_what_a_recogniser_writes_is_read_as_a_digit():
    assert [read_word(text) for text in (" Seven.", "7", "7!", "It is nine", "77", "")] == [
        "seven",
        "seven",
        "seven",
        "nine",
        "",
        "",
    ]
