"""Channels to one, so that none cancels another.

The mean of two channels is silence where one is the other upside down: a cable soldered the wrong way round, a
"phase-inverted" track, a widened voice. So each channel's sign is set by its correlation with the mix of those before
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

CANCELLING = -0.3
"""Correlation of a channel with the mix so far, under which it is turned over. In between that and its opposite the
sign stays what it was, and the mix loses at most 1.5 dB against channels without correlation. Assumed."""

PIECE_SAMPLES = 4096
"""Samples over which signs are decided: 85 ms at 48 kHz, so of a splice of unlike parts less than that is lost.
Assumed."""

FADE_SAMPLES = 480
"""Samples over which the mix goes from the old signs to new ones: 10 ms at 48 kHz. Assumed."""


@cache
def channel_weights(channels: tuple[str, ...]) -> np.ndarray:
    """Return the weight of each channel in the mono mix, ``(channels,)``, summing to 1.

    Speech lies in the centre, then in the front pair; the bass channel carries none. Assumed.
    """
    weights = np.ones(len(channels), np.float32)
    if len(channels) > 2 and "FC" in channels:
        weights = np.asarray(
            [{"FC": 1.0, "FL": 0.5, "FR": 0.5, "LFE": 0.0}.get(name, 0.25) for name in channels], np.float32
        )
    return weights / weights.sum()


class Downmix:
    """Mixes the blocks of one stream, in order. ``channels`` are FFmpeg's names, "" where they are not known."""

    def __init__(self, channels: tuple[str, ...]):
        self._weights = channel_weights(channels)
        self._signs: np.ndarray | None = None

    def mix(self, samples: np.ndarray) -> np.ndarray:
        """Mix ``(channels, N) float32`` to ``(N,) float32``. What is not finite is zero."""
        if not np.isfinite(samples).all():
            samples = np.nan_to_num(samples, posinf=0.0, neginf=0.0)
        if len(self._weights) == 1:
            return samples[0]
        mono = np.empty(samples.shape[1], np.float32)
        at = 0
        for length, signs in self._runs(samples):
            part = samples[:, at : at + length]
            mono[at : at + length] = (self._weights * signs) @ part
            if self._signs is not None and (self._signs != signs).any():
                fade = np.linspace(0.0, 1.0, min(FADE_SAMPLES, length), dtype=np.float32)
                old = (self._weights * self._signs) @ part[:, : len(fade)]
                mono[at : at + len(fade)] = fade * mono[at : at + len(fade)] + (1.0 - fade) * old
            self._signs = signs
            at += length
        return mono

    def _runs(self, samples: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield lengths that add up to the block, each with its signs."""
        num_samples = samples.shape[1]
        length, signs = 0, self._signs
        for start in range(0, num_samples, PIECE_SAMPLES):
            piece = samples[:, start : start + PIECE_SAMPLES]
            decided = self._aligned(piece, signs)
            if length and signs is not None and (decided != signs).any():
                yield length, signs
                length = 0
            length, signs = length + piece.shape[1], decided
        if length and signs is not None:
            yield length, signs

    def _aligned(self, samples: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        """The signs by which no channel cancels those before it; where that is no question, the signs ``before``."""
        signs = np.ones(len(samples), np.float32) if before is None else before.copy()
        centred = samples - samples.mean(axis=1, keepdims=True)  # a constant offset says nothing about the sound
        with np.errstate(over="ignore", invalid="ignore"):  # of samples far beyond full scale nothing is decided
            powers = centred @ centred.T
            for channel in range(1, len(samples)):
                mix = (self._weights * signs)[:channel]
                cross = signs[channel] * (mix @ powers[:channel, channel])
                scale = np.sqrt((mix @ powers[:channel, :channel] @ mix) * powers[channel, channel])
                if cross < CANCELLING * scale:
                    signs[channel] = -signs[channel]
        return signs
