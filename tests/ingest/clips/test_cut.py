"""Speech is found, merged and cut in silence; checked against speech whose place is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from triforce.ingest.clips.clip_recording import ClipConfig, cut_stream
from triforce.ingest.clips.cut import CutConfig, Cutter, Span
from triforce.ingest.clips.vad import FRAME_S, FRAME_SAMPLES, Smoother, VadConfig
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import itertools

from known_speech import Prompt, build_recording, coverage, cuts_in_words

SENTENCES = (
    "The ship left the harbour before the sun had risen over the hills.",
    "She wrote a short letter to her brother and folded it twice.",
    "No.",
    "In the morning, the market was already full of people.",
    "He counted the coins again, slowly, and put them into the drawer.",
    "Wait a moment, please.",
)


def _spans(pattern: list[tuple[float, bool]], config: CutConfig, step: int = 7, dips_s: tuple = ()) -> list[Span]:
    """Cut ``pattern``: seconds and whether it is speech. Fed in steps of a few frames, as a stream comes."""
    is_speech = np.concatenate([np.full(round(seconds / FRAME_S), speech) for seconds, speech in pattern])
    level_db = np.where(is_speech, -20.0, -70.0).astype(np.float32)
    for at in dips_s:
        level_db[round(at / FRAME_S)] = -60.0
    cutter, spans = Cutter(config), []
    for at in range(0, len(is_speech), step):
        spans += cutter.push(is_speech[at : at + step], level_db[at : at + step])
    return spans + list(cutter.finish(len(is_speech) * FRAME_SAMPLES))


def _seconds(spans: list[Span]) -> list[tuple[float, float]]:
    return [(round(span.start / SAMPLE_RATE_HZ, 2), round(span.end / SAMPLE_RATE_HZ, 2)) for span in spans]


def test_neighbours_are_merged_within_a_second_and_padding_stops_in_the_middle_of_the_pause():
    pattern = [(3, False), (3, True), (0.9, False), (3, True), (1.2, False), (3.6, True), (3, False)]
    assert _seconds(_spans(pattern, CutConfig())) == [(2.9, 10.0), (11.0, 14.8)]
    assert _seconds(_spans(pattern, CutConfig(padding_s=1.0))) == [(2.0, 10.5), (10.5, 15.7)]


def test_a_short_clip_is_merged_over_a_longer_pause_but_never_over_two_seconds():
    short = [(0.9, True), (1.8, False), (6, True)]
    assert _seconds(_spans(short, CutConfig())) == [(0, 8.7)]
    assert len(_spans([(0.9, True), (2.1, False), (6, True)], CutConfig())) == 2


def test_an_overlong_stretch_is_cut_in_its_longest_pause():
    pattern = [(9, True), (0.3, False), (6, True), (0.6, False), (9, True)]
    assert _seconds(_spans(pattern, CutConfig())) == [(0, 15.4), (15.8, 24.9)]


def test_the_rest_is_not_left_too_short_where_another_pause_will_do():
    pattern = [(9, True), (0.3, False), (9, True), (0.6, False), (1.5, True), (3, False)]
    assert _seconds(_spans(pattern, CutConfig())) == [(0, 9.1), (9.2, 20.5)]


def test_speech_without_a_pause_is_cut_where_it_is_quietest_and_else_marked_as_blind():
    (first, second) = _spans([(27, True)], CutConfig(), dips_s=(4.02, 15.0))
    assert first.end == second.start
    assert first.end / SAMPLE_RATE_HZ == pytest.approx(15.0, abs=0.04)
    assert not first.is_blind
    assert not second.is_blind
    blind = _spans([(65, True)], CutConfig())
    assert all(span.is_blind for span in blind)
    assert max(span.end - span.start for span in blind) <= 30 * SAMPLE_RATE_HZ


def test_random_patterns_keep_their_promises_whatever_the_steps():
    generator = np.random.default_rng(1)
    config = CutConfig()
    for _ in range(20):
        pattern = [(float(generator.choice([0.3, 0.9, 3, 8, 18])), bool(i % 2)) for i in range(25)]
        pattern = [(min(seconds, 2.4) if not speech else seconds, speech) for seconds, speech in pattern]
        spans = _spans(pattern, config)
        assert spans == _spans(pattern, config, step=1000)
        assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
        assert all(span.end - span.start <= config.max_s * SAMPLE_RATE_HZ for span in spans if not span.is_blind)
        inside = np.concatenate([np.arange(span.start, span.end, FRAME_SAMPLES // 2) for span in spans])
        at = 0.0
        for seconds, speech in pattern:
            frames = (at / FRAME_S, (at + round(seconds / FRAME_S) * FRAME_S) / FRAME_S)
            if speech:
                held = np.unique(inside // FRAME_SAMPLES)
                assert np.isin(np.arange(round(frames[0]), round(frames[1])), held).all()
            at = round(frames[1]) * FRAME_S


def test_the_smoother_bridges_flicker_and_answers_for_every_frame():
    raw = [False] * 20 + [True] * 12 + [False] * 3 + [True] * 12 + [False] * 20 + [True] + [False] * 20
    for step in (1, 7, 1000):
        smoother = Smoother(VadConfig())
        out = [verdict for at in range(0, len(raw), step) for verdict in smoother.push(raw[at : at + step])]
        out += list(smoother.finish())
        assert out == [False] * 20 + [True] * 27 + [False] * 41


@pytest.fixture(scope="module")
def recording(spoken):
    prompts = [Prompt(text, spoken(text)) for text in SENTENCES]
    return build_recording(prompts, seconds=75, seed=3)


@pytest.mark.parametrize("block_samples", [24_000, 7_919])
def test_no_speech_is_lost_and_no_word_is_cut(recording, block_samples):
    samples = np.round(recording.waveform * 32_767).astype(np.int16)
    blocks = [samples[at : at + block_samples] for at in range(0, len(samples), block_samples)]
    cuts = list(cut_stream(blocks, ClipConfig()))
    spans = [(cut.span.start, cut.span.end) for cut in cuts]
    assert coverage(recording, spans) >= 0.995
    assert cuts_in_words(recording, spans) == 0
    for cut in cuts:
        assert np.array_equal(cut.samples, samples[cut.span.start : cut.span.end])


def test_silence_gives_no_clips():
    assert list(cut_stream([np.zeros(24_000, np.int16)] * 5, ClipConfig())) == []
    assert list(cut_stream([np.zeros(100, np.int16)], ClipConfig())) == []
    assert list(cut_stream([], ClipConfig())) == []


def test_a_config_that_cannot_be_is_refused_by_name():
    with pytest.raises(ValueError, match=r"max_s is 5\.0"):
        CutConfig(min_s=3, max_s=5)
    with pytest.raises(ValueError, match="max_merge_gap_s"):
        CutConfig(merge_gap_s=1.5, max_merge_gap_s=1)
