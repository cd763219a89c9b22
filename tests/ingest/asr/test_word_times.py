"""Tokens become words, and the words of a window go to its clips."""

from __future__ import annotations

import math

import pytest

from triforce.ingest.asr.word_times import AlignedWords, Word, group_tokens, share_out


def test_words_go_to_the_clip_they_lie_in():
    words = [Word(" one", 0.1, 0.5, 1.0), Word(" two", 0.9, 1.2, 1.0), Word(" three", 1.4, 1.9, 1.0)]
    aligned = AlignedWords(words, [[-1.0], [-2.0, -4.0], [-0.5]])
    first, second = share_out(aligned, [(0.0, 1.0), (1.5, 2.5)])
    assert (first.text, second.text) == ("one two", "three")
    assert first.avg_logprob == pytest.approx(-7 / 3)
    assert [(word.start_s, word.end_s) for word in first.words] == [(0.1, 0.5), (0.9, 1.0)]
    assert [(word.start_s, word.end_s) for word in second.words] == [(0.0, 0.4)]
    nothing = share_out(AlignedWords(), [(0.0, 1.0)])[0]
    assert (nothing.text, nothing.avg_logprob) == ("", None)


def test_marks_join_the_word_they_belong_to_and_times_are_the_frames_of_first_tokens():
    pieces = [" He", " said", ",", ' "', "no", ".", '"', ""]
    path = [(0, 2), (0, 3), (1, 10), (2, 20), (3, 22), (4, 25), (5, 30), (6, 31), (7, 40)]
    found = group_tokens(pieces, [[number] for number in range(8)], path, [0.5, 0.25, 1.0, 0.1, 0.2, 1.0, 0.0])
    assert [word.word for word in found.words] == [" He", " said,", ' "no."']
    assert [(word.start_s, word.end_s) for word in found.words] == [(0.04, 0.2), (0.2, 0.4), (0.5, 0.6)]
    assert [word.probability for word in found.words] == [0.5, 0.25, 0.2]
    assert found.logprobs[1] == [math.log(0.25), 0.0]
    assert found.logprobs[2] == [math.log(0.2), 0.0, math.log(1e-10)]
    assert group_tokens([""], [[7]], [], []).words == []
