"""Better times of words and of their pieces: by what their sounds are like in these very clips.

A recogniser's times are off by a tenth of a second, and late. Here the clips' own sounds are learnt from them, and
found again more exactly, in a few rounds (Viterbi training of hidden Markov models, as in Rabiner 1989, with one
Gaussian a state). What a round cannot find out is an error that all times share: features of a frame and its
neighbours are as like each other a little later. So all times are moved together to where single frames of different
sounds are furthest apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from triforce.models.reading.interleave import TimedWord, WordTimes, starts_of_pieces, time_words
from triforce.models.reading.normalise import normalise
from triforce.models.reading.phonemes import PhonemeTokenizer, split_words
from triforce.tokenize.timing.acoustics import Acoustics, apartness, cepstra, fit, normalised, stacked
from triforce.tokenize.timing.forced import align
from triforce.tokenize.timing.sounds import NUM_KINDS, NUM_STATES, PAUSE, SoundChain, kind_of

FEWEST_S = 60.0
"""Seconds of sound from which sounds are learnt. Measured on flite's voice slt: pieces are off by 53 ms in the median
of 20 s, 17 of 40, 13 of 60, 9 of 120 and 240."""
MOST_S = 1800.0
"""Seconds of clips that are learnt from, evenly chosen: what is learnt of them fills a quarter of a gigabyte."""
NUM_ROUNDS = 5
NUM_MOVES = 3
"""Rounds, the first ones, before which all times are moved together."""
FURTHEST_S = 0.1
"""How far. Assumed."""
LARGEST_GAP = 4.0
"""Nats a frame of sound by which another state may fit better than that of what is said, on average over a clip. On
156 sentences of slt it is 0.4 to 1.9 for their own texts, from 13 for another's, from 6 where a third is missing."""
QUIET_SHARE = 0.25
"""Of the way from the softest frames to the loud ones; what is softer is a pause in the first round. Assumed."""
CLIPS_AT_ONCE = 32


@dataclass(frozen=True)
class SpokenClip:
    """A clip whose words are to be timed."""

    mel: np.ndarray
    """Log-mel ``(num_mels, T)``."""
    text: str
    words: Sequence[TimedWord]
    """The recogniser's."""
    speaker: str | None


@dataclass
class _Clip:
    """A clip on its way."""

    pieces: list[np.ndarray]
    """Of each word, as it is read."""
    names: list[str]
    timed: WordTimes | None
    chain: SoundChain
    cepstra: np.ndarray
    """``(T, NUM_CEPSTRA)``."""
    loud: np.ndarray
    """Whether a frame may be a sound, ``(T,)``."""
    states: np.ndarray
    """State of each frame ``(T,)``."""


def refine(clips: Sequence[SpokenClip], reader: PhonemeTokenizer, frames_per_s: float) -> list[list[TimedWord] | None]:
    """Return the words of each clip with their times and those of their pieces, as `time_words` takes them.

    Words are those of the normalised text. None stands where times are as they were: where there is too little speech
    to learn from in all, and for a clip without words or in which something else seems to be said. What is returned
    depends on these clips alone, all of them.
    """
    there = [number for number, clip in enumerate(clips) if clip.mel.shape[1] > 1 and reader.words(clip.text)]
    prepared = dict(zip(there, _prepare([clips[number] for number in there], reader), strict=True)) if there else {}
    taught = [clip for clip in prepared.values() if clip.timed is not None]
    found: list[list[TimedWord] | None] = [None] * len(clips)
    if sum(int(clip.loud.sum()) for clip in taught) < FEWEST_S * frames_per_s:
        return found
    taught = taught[:: math.ceil(sum(len(clip.states) for clip in taught) / (MOST_S * frames_per_s))]
    for clip in taught:
        _set_first_states(clip, frames_per_s)
    acoustics = _learn(taught, frames_per_s)
    for number, (places, gap) in zip(prepared, _paths(acoustics, list(prepared.values())), strict=True):
        if gap <= LARGEST_GAP:
            found[number] = _timed(prepared[number], places, frames_per_s)
    return found


def _prepare(clips: Sequence[SpokenClip], reader: PhonemeTokenizer) -> list[_Clip]:
    plain = normalised([cepstra(clip.mel) for clip in clips], [clip.speaker for clip in clips])
    loudness = [clip.mel.mean(0) for clip in clips]
    softest, loud = np.percentile(np.concatenate(loudness), [5, 80])
    threshold = softest + QUIET_SHARE * (loud - softest)
    found = []
    for clip, rows, level in zip(clips, plain, loudness, strict=True):
        pieces = [word.read for word in reader.words(clip.text)]
        names = split_words(normalise(clip.text))
        timed = time_words(reader, clip.text, clip.words) if clip.words else None
        chain, states = SoundChain.of(pieces), np.full(len(rows), PAUSE)
        found.append(_Clip(pieces, names, timed, chain, rows, level > threshold, states))
    return found


def _set_first_states(clip: _Clip, frames_per_s: float) -> None:
    """Guess the state of each frame by the recogniser's times and the mean durations of pieces."""
    assert clip.timed is not None
    word = np.repeat(np.arange(len(clip.pieces)), [len(pieces) for pieces in clip.pieces])[clip.chain.sounds]
    starts = starts_of_pieces(clip.timed, clip.pieces)[clip.chain.sounds]
    ends = np.minimum(np.append(starts[1:], np.inf), clip.timed.ends_s[word])
    first, last = (np.rint(times * frames_per_s).astype(np.int64).clip(0, len(clip.states)) for times in (starts, ends))
    clip.states = np.where(clip.loud, clip.chain.spread(first, last, len(clip.states)), PAUSE)


def _learn(clips: Sequence[_Clip], frames_per_s: float) -> Acoustics:
    """Learn the sounds of clips from the guesses of their states, which become better."""
    features = np.concatenate([stacked(clip.cepstra) for clip in clips])
    for number in range(NUM_ROUNDS):
        if number < NUM_MOVES:
            move = _best_move(clips, round(FURTHEST_S * frames_per_s))
            for clip in clips:
                clip.states = _moved(clip.states, move)
        acoustics = fit(features, np.concatenate([clip.states for clip in clips]), NUM_STATES)
        if number < NUM_ROUNDS - 1:
            for clip, (places, gap) in zip(clips, _paths(acoustics, clips), strict=True):
                if np.isfinite(gap):
                    clip.states = clip.chain.chain.states[places]
    return acoustics


def _best_move(clips: Sequence[_Clip], furthest: int) -> int:
    rows = np.concatenate([clip.cepstra for clip in clips])

    def apart(move: int) -> float:
        return apartness(rows, kind_of(np.concatenate([_moved(clip.states, move) for clip in clips])), NUM_KINDS)

    return max(range(-furthest, furthest + 1), key=apart)


def _moved(states: np.ndarray, frames: int) -> np.ndarray:
    """Return states ``(T,)`` that begin so many frames later, or earlier, filled up with the pause."""
    found = np.full_like(states, PAUSE)
    first, last = max(0, frames), len(states) + min(0, frames)
    if first < last:
        found[first:last] = states[first - frames : last - frames]
    return found


def _paths(acoustics: Acoustics, clips: Sequence[_Clip]) -> list[tuple[np.ndarray, float]]:
    """Return the path `align` finds through each clip, and how much better others fit: `LARGEST_GAP`; infinite where
    there are too few frames.
    """
    found: list[tuple[np.ndarray, float]] = [(np.zeros(0, np.int64), np.inf)] * len(clips)
    order = sorted(range(len(clips)), key=lambda number: len(clips[number].cepstra))
    for first in range(0, len(order), CLIPS_AT_ONCE):
        numbers = order[first : first + CLIPS_AT_ONCE]
        scores = [acoustics.scores(stacked(clips[number].cepstra)) for number in numbers]
        paths = align(scores, [clips[number].chain.chain for number in numbers])
        for number, score, places in zip(numbers, scores, paths, strict=True):
            found[number] = (
                (places, _gap(score, clips[number].chain.chain.states[places])) if places.size else found[number]
            )
    return found


def _gap(scores: np.ndarray, states: np.ndarray) -> float:
    """Return by how many nats another state fits better than that of the path, on average over its sounds."""
    better = scores.max(1) - scores[np.arange(len(states)), states]
    sounds = states != PAUSE
    return float(better[sounds].mean()) if sounds.any() else np.inf


def _timed(clip: _Clip, places: np.ndarray, frames_per_s: float) -> list[TimedWord]:
    """Return the words of a clip with their times, by its path.

    A piece that is no sound begins where the sound before it ends; those before a word's first sound begin with it.
    """
    # Frame n is that around n hops from the start, and so begins half a hop before.
    first, last = (np.maximum(0, (frames - 0.5) / frames_per_s) for frames in clip.chain.bounds(places))
    begins, ends = (np.full(sum(map(len, clip.pieces)), np.nan) for _ in range(2))
    begins[clip.chain.sounds], ends[clip.chain.sounds] = first, last
    words: list[TimedWord] = []
    before, at = 0.0, 0
    for name, pieces in zip(clip.names, clip.pieces, strict=True):
        own, stops = begins[at : at + len(pieces)], ends[at : at + len(pieces)]
        at += len(pieces)
        begun = own[np.isfinite(own)]
        time = float(begun[0]) if begun.size else before
        start, starts = time, []
        for begin, stop in zip(own.tolist(), stops.tolist(), strict=True):
            starts.append(round(begin if begin == begin else time, 4))
            time = stop if stop == stop else time
        before = time
        words.append((name, round(start, 4), round(time, 4), starts))
    return words
