"""Channels to one, so that none cancels another.

The mean of two channels is silence where one is the other upside down: a cable soldered the wrong way round, a
"phase-inverted" track, a widened voice. So each channel's sign is set by its correlation with the mix of those before
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected

CANCELLING = -0.3
"""Correlation of a channel with the mix so far, under which it is turned over. In between that and its opposite the
sign stays what it was, and the mix loses at most 1.5 dB against channels without correlation. Assumed."""

PIECE_SAMPLES = 4096
"""Samples over which signs are decided: 85 ms at 48 kHz, so of a splice of unlike parts less than that is lost.
Assumed."""

LOUDEST = 1e6
"""Samples are cut off at this for the decision, so that no square overflows; full scale is 1."""

SILENCE = 1e-10
"""Power under which nothing is decided: -100 dB of full scale."""

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
        if len(self._weights) == 1 or not samples.size:
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
        powers, left = _powers(samples), samples.shape[1]
        signs = np.ones_like(self._weights) if self._signs is None else self._signs
        while len(powers):
            cancels = self._cancels(powers, signs)
            if not cancels.any():
                break
            num_pieces, channel = min(zip(*np.nonzero(cancels), strict=True))
            if num_pieces:
                yield num_pieces * PIECE_SAMPLES, signs
                powers, left = powers[num_pieces:], left - num_pieces * PIECE_SAMPLES
            signs = signs.copy()
            signs[channel] = -signs[channel]
        if left:
            yield left, signs

    def _cancels(self, powers: np.ndarray, signs: np.ndarray) -> np.ndarray:
        """Whether each channel cancels those before it, in each piece: ``(pieces, channels) bool``."""
        found = np.zeros(powers.shape[:2], bool)
        mix = self._weights * signs
        for channel in range(1, len(signs)):
            cross = signs[channel] * (powers[:, channel, :channel] @ mix[:channel])
            power = powers[:, :channel, :channel] @ mix[:channel] @ mix[:channel]
            scale = np.sqrt(np.maximum(power * powers[:, channel, channel], 0.0))
            found[:, channel] = cross < CANCELLING * np.maximum(scale, SILENCE)
        return found


def _powers(samples: np.ndarray) -> np.ndarray:
    """Return the covariances of the channels in each piece, ``(pieces, channels, channels)``.

    Of the samples less their mean: a constant offset says nothing about the sound.
    """
    num_channels, num_samples = samples.shape
    padded = np.zeros((num_channels, -(-num_samples // PIECE_SAMPLES) * PIECE_SAMPLES), np.float32)
    padded[:, :num_samples] = np.clip(samples, -LOUDEST, LOUDEST)
    pieces = padded.reshape(num_channels, -1, PIECE_SAMPLES).transpose(1, 0, 2)
    lengths = np.full(len(pieces), PIECE_SAMPLES)
    lengths[-1] -= padded.shape[1] - num_samples
    centred = pieces - (pieces.sum(axis=2) / lengths[:, None])[:, :, None].astype(np.float32)
    centred[-1, :, lengths[-1] :] = 0.0
    return centred @ centred.transpose(0, 2, 1) / lengths[:, None, None]


class OneChannel:
    """Takes one channel of the blocks of a stream, where each speaker has their own."""

    def __init__(self, channel: int):
        self._channel = channel

    def mix(self, samples: np.ndarray) -> np.ndarray:
        """Return a row of ``(channels, N) float32``. What is not finite is zero; `Rejected` where there is no such
        channel."""
        if self._channel >= len(samples):
            raise Rejected(
                RejectReason.BAD_METADATA, f"channel {self._channel} is asked for, there are {len(samples)} from 0 on"
            )
        return np.nan_to_num(samples[self._channel], posinf=0.0, neginf=0.0)


def mixer(channels: tuple[str, ...], channel: int | None) -> Downmix | OneChannel:
    """Return what makes one channel of those named: the one of that number, or by default a mix."""
    return Downmix(channels) if channel is None else OneChannel(channel)
