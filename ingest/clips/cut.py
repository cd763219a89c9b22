"""Cut clips from a stream of speech verdicts: neighbours are merged up to a length, and every cut lies in silence.

The cutter takes one verdict and one level a frame and gives spans of samples. It holds no more than the longest clip
and the pause after it, whatever the recording's length.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from triforce.ingest.clips.vad import FRAME_S, FRAME_SAMPLES
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ

WHISPER_WINDOW_S = 30.0
"""Length of Whisper's window; longer clips would lose their end."""


class CutConfig(BaseModel):
    """Lengths of clips and of the pauses in them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_s: float = Field(3.0, gt=0, description="A clip this long is not merged over long pauses any more, seconds.")
    max_s: float = Field(20.0, le=WHISPER_WINDOW_S, description="Longest clip, seconds, with its padding.")
    merge_gap_s: float = Field(1.0, ge=0, le=2, description="Pauses up to this are kept within a clip, seconds.")
    max_merge_gap_s: float = Field(2.0, ge=0, le=2, description="The same while the clip is shorter than min_s.")
    padding_s: float = Field(
        0.1, ge=0, le=1, description="Silence kept at either end, never past the middle of the pause."
    )
    dip_db: float = Field(
        12.0, ge=0, description="Speech without a pause is cut where the level is this far below the clip's median, dB."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_s < 2 * self.min_s:
            raise ValueError(f"cut.max_s is {self.max_s}, with min_s {self.min_s}: make it at least twice min_s")
        if self.max_merge_gap_s < self.merge_gap_s:
            raise ValueError(
                f"cut.max_merge_gap_s is {self.max_merge_gap_s}: make it at least merge_gap_s, {self.merge_gap_s}"
            )
        return self


@dataclass(frozen=True)
class Span:
    """A clip's place in the stream, in samples; the end is exclusive."""

    start: int
    end: int
    is_blind: bool = False
    """Whether an end had to be cut without silence: there was none within Whisper's window."""


class Cutter:
    """Feed it frames with `push`, then `finish`; both yield the clips that are certain, in order."""

    def __init__(self, config: CutConfig):
        self._min = _frames(config.min_s)
        self._max = max(2, int((config.max_s - 2 * config.padding_s) / FRAME_S))
        self._hard_max = int((WHISPER_WINDOW_S - 2 * config.padding_s) / FRAME_S)
        self._merge, self._max_merge = _frames(config.merge_gap_s), _frames(config.max_merge_gap_s)
        self._lookahead = self._hard_max + self._min + _frames(2 * max(config.max_merge_gap_s, config.padding_s))
        self._padding = round(config.padding_s * SAMPLE_RATE_HZ)
        self._dip_db = config.dip_db
        self._speech, self._level = np.zeros(0, bool), np.zeros(0, np.float32)
        self._offset = 0
        """Frame index of the first frame held."""
        self._previous_end = 0
        """Frame index at which the last clip's speech ended: padding stays on this side of the middle of the
        pause."""
        self._starts_blind = False

    @property
    def needed_from(self) -> int:
        """The first sample that a coming clip may hold: what lies before it can be forgotten."""
        ahead = (self._offset + self._first_speech()) * FRAME_SAMPLES - self._padding
        return max(self._previous_end * FRAME_SAMPLES, ahead)

    def push(self, is_speech: np.ndarray, level_db: np.ndarray) -> Iterator[Span]:
        """Take ``is_speech (F,) bool`` and ``level_db (F,) float32`` of the next frames; yield the clips that are
        certain."""
        self._speech = np.concatenate([self._speech, is_speech])
        self._level = np.concatenate([self._level, level_db])
        yield from self._spans(None)

    def finish(self, num_samples: int) -> Iterator[Span]:
        """Yield the remaining clips of a stream of ``num_samples``."""
        yield from self._spans(num_samples)

    def _spans(self, num_samples: int | None) -> Iterator[Span]:
        while True:
            self._drop(self._first_speech())
            if not len(self._speech):
                return
            runs = _runs(self._speech)
            cut = self._next_cut(runs, is_final=num_samples is not None)
            if cut is None:
                return
            yield self._span(*cut, num_samples)

    def _first_speech(self) -> int:
        return int(np.argmax(self._speech)) if self._speech.any() else len(self._speech)

    def _drop(self, num_frames: int) -> None:
        self._speech, self._level = self._speech[num_frames:], self._level[num_frames:]
        self._offset += num_frames

    def _next_cut(self, runs: list[tuple[int, int]], is_final: bool) -> tuple[int, int, bool] | None:
        """End of the next clip and start of what follows, in frames held, and whether the cut is blind; None: more
        frames are needed."""
        group_end, follows = self._group(runs, is_final)
        if follows is not None and group_end <= self._max:
            return group_end, follows, False
        if follows is None and len(self._speech) < self._lookahead:
            return None
        return self._cut_inside(runs, group_end if follows is not None else None)

    def _group(self, runs: list[tuple[int, int]], is_final: bool) -> tuple[int, int | None]:
        """Where the runs that belong together end, and where the next run begins; None if that is not certain yet."""
        for (_, end), (following, _) in itertools.pairwise(runs):
            if following - end > self._allowed_gap(end):
                return end, following
        end, held = runs[-1][1], len(self._speech)
        # A pause that is longer than any merging or padding looks at: its full length need not be known.
        enough = max(self._allowed_gap(end), 2 * -(-self._padding // FRAME_SAMPLES)) + 1
        if is_final or held - end >= enough:
            return end, held if is_final else end + enough
        return end, None

    def _allowed_gap(self, length: int) -> int:
        return self._merge if length >= self._min else self._max_merge

    def _cut_inside(self, runs: list[tuple[int, int]], group_end: int | None) -> tuple[int, int, bool]:
        """A group longer than a clip may be: cut it in its longest pause, else where it is quietest, for once
        further out."""
        last = self._max if group_end is None else min(self._max, max(group_end - self._min, self._min))
        pauses = [(a, b) for (_, a), (b, _) in itertools.pairwise(runs) if self._min <= a <= self._max]
        pauses = [pause for pause in pauses if pause[1] <= max(last, self._min)] or pauses
        if pauses:
            end, following = max(pauses, key=lambda pause: (pause[1] - pause[0], pause[0]))
            return end, following, False
        at, is_quiet = self._quietest(self._max // 2, self._max)
        if is_quiet:
            return at, at, False
        if early := [(a, b) for (_, a), (b, _) in itertools.pairwise(runs) if a < self._min]:
            return *early[-1], False
        limit = len(self._speech) if group_end is None else group_end
        if (stop := min(self._hard_max, limit)) > self._max:
            at, is_quiet = self._quietest(self._max, stop)
            if is_quiet:
                return at, at, False
        if group_end is not None and group_end <= self._hard_max:
            return group_end, group_end, False
        at, _ = self._quietest(self._max // 2, self._max)
        return at, at, True

    def _quietest(self, first: int, stop: int) -> tuple[int, bool]:
        """The frame of the lowest level over three frames, and whether that is low enough to be silence."""
        level = np.convolve(self._level[: stop + 1], np.ones(3, np.float32) / 3, mode="same")[first:stop]
        at = first + int(np.argmin(level))
        near = max(first, at - 1)
        at = near + int(np.argmin(self._level[near : min(stop, at + 2)]))
        return at, bool(self._level[at] <= np.median(self._level[:stop]) - self._dip_db)

    def _span(self, end: int, following: int, is_blind: bool, num_samples: int | None) -> Span:
        first, last = self._offset * FRAME_SAMPLES, (self._offset + end) * FRAME_SAMPLES
        before = (first + self._previous_end * FRAME_SAMPLES) // 2 if self._previous_end else 0
        after = ((self._offset + following) * FRAME_SAMPLES + last) // 2
        if num_samples is not None:
            at_end = self._offset + following >= num_samples // FRAME_SAMPLES
            after = num_samples if at_end else after
            last = min(last, num_samples)
        span = Span(
            max(first - self._padding, before),
            min(last + self._padding, after),
            is_blind=is_blind or self._starts_blind,
        )
        self._previous_end, self._starts_blind = self._offset + end, is_blind
        self._drop(following)
        return span


def _frames(seconds: float) -> int:
    return round(seconds / FRAME_S)


def _runs(is_speech: np.ndarray) -> list[tuple[int, int]]:
    """The runs of true values as half-open intervals."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_speech, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
