"""Frames of a media file: packets decoded one after the other, and mono samples made of the frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.media import formats
from triforce.ingest.media.downmix import mixer
from triforce.ingest.media.ffmpeg_errors import rejection, verdict_on

logger = logging.getLogger(__name__)

BLOCK_S = 1.0
"""Audio handed on at a time: long enough that calls cost nothing, short enough that memory stays small. Assumed."""

MAX_BAD_SHARE = 0.2
"""A file of whose packets more than this share cannot be decoded is refused; fewer are skipped. Assumed."""

RATES_HZ = (1_000, 1_000_000)
"""Lowest and highest sample rate that is believed: studios stop at 768 kHz, telephones at 8. Assumed."""


def open_media(path: Path) -> av.container.InputContainer:
    """Open a media file for reading; `Rejected` where FFmpeg cannot. Raw G.722 is told by its ending, ``.g722``."""
    form = formats.HEADERLESS.get(path.suffix.lower())
    try:
        return av.open(str(path), format=form, metadata_errors="ignore", options=formats.OPTIONS)
    except FileNotFoundError:
        raise
    except av.FFmpegError as error:
        if verdict_on(error).reason is not RejectReason.UNDECODABLE:
            raise rejection(path, "opening it", error) from error
        raise _not_opened(path, error) from error
    except ValueError as error:  # of PyAV itself, for what it finds in the file
        raise _not_opened(path, error) from error


def _not_opened(path: Path, error: Exception) -> Rejected:
    with path.open("rb") as file:
        head = file.read(formats.HEAD_BYTES)
    if formats.has_signature(head):
        return Rejected(
            RejectReason.UNDECODABLE,
            f"{path.name}: begins as media do, and FFmpeg cannot open it ({error}); fetch it again, or convert it",
        )
    begins = f"it begins with {head[:16]!r}" if head else "it is empty"
    return Rejected(
        RejectReason.NOT_AUDIO, f"{path.name}: no media file that is read here, {begins}; check what its address serves"
    )


class AudioReader:
    """The best audio stream of an open media file, decoded frame by frame; packets that cannot be are counted."""

    def __init__(self, path: Path, container: av.container.InputContainer):
        stream = container.streams.best("audio")
        if stream is None:
            raise Rejected(
                RejectReason.NOT_AUDIO,
                f"{path.name}: {container.format.name} without an audio stream; check what its address serves",
            )
        self._path, self._container, self.stream = path, container, stream
        self.num_packets = self.num_bad = 0
        self.last_error: av.FFmpegError | None = None

    def frames(self) -> Iterator[av.AudioFrame]:
        """Yield the frames; raise `Rejected` for an error that is not the file's, and after the last frame where over
        `MAX_BAD_SHARE` of the packets could not be decoded."""
        for packet in self._packets():
            self.num_packets += 1
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                self._skip(error, "decoding it")
                continue
            for frame in frames:
                assert isinstance(frame, av.AudioFrame)
                if not RATES_HZ[0] <= frame.sample_rate <= RATES_HZ[1]:
                    raise Rejected(
                        RejectReason.BAD_METADATA,
                        f"{self._path.name}: {frame.sample_rate} Hz is stated, {RATES_HZ[0]} to {RATES_HZ[1]} are "
                        "believed; give the file its true rate",
                    )
                yield frame
        if self.num_bad > MAX_BAD_SHARE * self.num_packets:
            raise Rejected(
                RejectReason.UNDECODABLE,
                f"{self._path.name}: {self.num_bad} of {self.num_packets} packets cannot be decoded, over "
                f"{MAX_BAD_SHARE:.0%} ({self.last_error}); fetch it again, or convert it",
            )

    def _packets(self) -> Iterator[av.Packet]:
        """Yield the stream's packets; where the container breaks off, those before the break."""
        try:
            yield from self._container.demux(self.stream)
        except av.FFmpegError as error:
            self._skip(error, "reading it")
            logger.warning("%s: the container breaks off: %s", self._path.name, error)

    def _skip(self, error: av.FFmpegError, what: str) -> None:
        if verdict_on(error).reason.transient:
            raise rejection(self._path, what, error) from error
        self.num_bad += 1
        self.last_error = error
        logger.debug("%s: packet %d skipped: %s", self._path.name, self.num_packets, error)


def mono_blocks(path: Path, channel: int | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """Yield mono float32 blocks in [-1, 1] with their rate: the frames of a file, gathered to a second. By
    default channels are mixed; ``channel`` counts from 0.

    Raises `Rejected` as `triforce.ingest.media.decode.decode` says.
    """
    pending: list[np.ndarray] = []
    length, form, downmix = 0, _Form("", 0, ()), mixer(("",), channel)
    with open_media(path) as container:
        for frame in AudioReader(path, container).frames():
            if not form.describes(frame):
                if pending:
                    yield downmix.mix(form.floats(pending)), form.rate_hz
                form, pending, length = _Form.of(frame), [], 0
                downmix = mixer(form.channels, channel)
            pending.append(form.samples(frame))
            length += frame.samples
            if length >= BLOCK_S * form.rate_hz:
                yield downmix.mix(form.floats(pending)), form.rate_hz
                pending, length = [], 0
        if pending:
            yield downmix.mix(form.floats(pending)), form.rate_hz


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

    def floats(self, frames: list[np.ndarray]) -> np.ndarray:
        """Join frames as `samples` returns them to ``(channels, N) float32`` in [-1, 1]."""
        is_planar = self.sample_format.endswith("p")
        samples = np.concatenate(frames, axis=1) if is_planar else np.concatenate(frames).T
        if samples.dtype == np.uint8:
            return (samples.astype(np.float32) - 128.0) / 128.0
        if np.issubdtype(samples.dtype, np.integer):
            return samples.astype(np.float32) / float(-np.iinfo(samples.dtype).min)
        return samples.astype(np.float32, copy=False)


_DTYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}
