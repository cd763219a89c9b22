"""Frames of a media file: packets decoded one after the other, and mono samples made of the frames."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected

logger = logging.getLogger(__name__)

BLOCK_S = 1.0
"""Audio handed on at a time: long enough that calls cost nothing, short enough that memory stays small. Assumed."""

MAX_BAD_SHARE = 0.2
"""A file of whose packets more than this share cannot be decoded is refused; fewer are skipped. Assumed."""

HEADERLESS = {".g722": "g722"}
"""FFmpeg's names of formats without a header, by file ending: nothing in the file tells what it is."""


class FrameReader:
    """Decodes packets one after the other; those that raise ``skipped`` are left out and counted."""

    def __init__(self, skipped: type[av.FFmpegError]):
        self._skipped = skipped
        self.num_packets = self.num_bad = 0
        self.last_error: av.FFmpegError | None = None

    def frames(self, packets: Iterable[av.Packet]) -> Iterator[av.AudioFrame]:
        """Yield the frames of ``packets``. Errors of another kind than ``skipped`` are raised."""
        for packet in packets:
            self.num_packets += 1
            try:
                frames = packet.decode()
            except self._skipped as error:
                self.num_bad += 1
                self.last_error = error
                logger.debug("packet %d skipped: %s", self.num_packets, error)
                continue
            yield from frames


def open_media(path: Path) -> av.container.InputContainer:
    """Open a media file for reading; raises what PyAV raises. Raw G.722 is told by its ending, ``.g722``."""
    return av.open(str(path), format=HEADERLESS.get(path.suffix.lower()), metadata_errors="ignore")


def mono_blocks(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Yield mono float32 blocks in [-1, 1] with their rate: the frames of a file, gathered to a second.

    Raises `Rejected` as `triforce.ingest.media.decode.decode` says.
    """
    pending: list[np.ndarray] = []
    length, form = 0, _Form("", 0, ())
    for frame in _frames(path):
        if not form.describes(frame):
            if pending:
                yield form.to_mono(pending), form.rate_hz
            form, pending, length = _Form.of(frame), [], 0
        pending.append(form.samples(frame))
        length += frame.samples
        if length >= BLOCK_S * form.rate_hz:
            yield form.to_mono(pending), form.rate_hz
            pending, length = [], 0
    if pending:
        yield form.to_mono(pending), form.rate_hz


@dataclass(frozen=True)
class _Form:
    """How a frame's samples lie in memory."""

    sample_format: str
    """FFmpeg's name: s16, fltp, ...; a final p says that each channel has its own plane."""
    rate_hz: int
    channels: tuple[str, ...]

    @classmethod
    def of(cls, frame: av.AudioFrame) -> _Form:
        return cls(frame.format.name, frame.sample_rate, tuple(channel.name for channel in frame.layout.channels))

    def describes(self, frame: av.AudioFrame) -> bool:
        return (
            frame.sample_rate == self.rate_hz
            and frame.format.name == self.sample_format
            and frame.layout.nb_channels == len(self.channels)
        )

    def samples(self, frame: av.AudioFrame) -> np.ndarray:
        """Return ``(N, channels)`` or ``(channels, N)`` in the file's own type, a view where possible; much quicker
        than PyAV's own."""
        dtype, num_channels = _DTYPES[self.sample_format.removesuffix("p")], len(self.channels)
        if not self.sample_format.endswith("p"):
            return np.frombuffer(frame.planes[0], dtype, frame.samples * num_channels).reshape(-1, num_channels)
        if num_channels == 1:
            return np.frombuffer(frame.planes[0], dtype, frame.samples)[None]
        return np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in frame.planes])

    def to_mono(self, frames: list[np.ndarray]) -> np.ndarray:
        """Mix frames as `samples` returns them to ``(N,) float32``."""
        is_planar = self.sample_format.endswith("p")
        samples = np.concatenate(frames, axis=1) if is_planar else np.concatenate(frames).T
        if samples.dtype == np.uint8:
            samples = (samples.astype(np.float32) - 128.0) / 128.0
        elif np.issubdtype(samples.dtype, np.integer):
            samples = samples.astype(np.float32) / float(-np.iinfo(samples.dtype).min)
        mono = channel_weights(self.channels) @ samples.astype(np.float32, copy=False)
        return mono if np.isfinite(mono).all() else np.nan_to_num(mono, posinf=0.0, neginf=0.0)


_DTYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}


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


def _frames(path: Path) -> Iterator[av.AudioFrame]:
    try:
        container = open_media(path)
    except FileNotFoundError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise Rejected(RejectReason.NOT_AUDIO, f"{path.name}: no media file that FFmpeg knows ({error})") from error
    with container:
        stream = container.streams.best("audio")
        if stream is None:
            raise Rejected(RejectReason.NOT_AUDIO, f"{path.name}: has no audio stream")
        reader = FrameReader(av.FFmpegError)
        yield from reader.frames(_packets(container, stream))
        if reader.num_bad > MAX_BAD_SHARE * reader.num_packets:
            raise Rejected(
                RejectReason.UNDECODABLE,
                f"{path.name}: {reader.num_bad} of {reader.num_packets} packets cannot be decoded, "
                f"over {MAX_BAD_SHARE:.0%}",
            )


def _packets(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.Packet]:
    """Yield the stream's packets; where the container breaks off, those before the break."""
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError as error:
        logger.warning("%s: the container breaks off: %s", container.name, error)
