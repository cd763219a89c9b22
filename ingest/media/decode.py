"""Any media file as one stream of mono samples, block by block; a recording is never in memory whole.

The samples that come out are the truth of a recording: headers and timestamps lie about length, so nothing is
skipped, repeated or filled in to please them, and every index into a recording counts samples of this stream.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from triforce.ingest.corpus.schema import SAMPLE_RATE_HZ, RejectReason
from triforce.ingest.media.mp3 import read_plain_mp3

logger = logging.getLogger(__name__)

BLOCK_S = 1.0
"""Audio handed on at a time: long enough that calls cost nothing, short enough that memory stays small. Assumed."""

MAX_BAD_SHARE = 0.2
"""A file of whose packets more than this share cannot be decoded is refused; fewer are skipped. Assumed."""


class DecodeError(ValueError):
    """A media file that gives no usable audio; ``reason`` says why in the corpus's words."""

    def __init__(self, reason: RejectReason, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def decode(path: str | Path, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Iterator[np.ndarray]:
    """Blocks of about one second, ``(N,) int16`` mono at ``sample_rate_hz``, of the first audio stream of the file
    ``path``.

    Channels are averaged (of more than two, the centre counts as much as the front pair), rates are converted by
    soxr. Packets that cannot be decoded are skipped and counted. Raises `DecodeError` with NOT_AUDIO where there is
    no audio stream, and with UNDECODABLE where there is one that gives no samples or too many errors; then part of
    the blocks may be out already.
    """
    resampler, rate = None, None
    num_samples = 0
    for block, block_rate in _mono_blocks(Path(path)):
        if block_rate != rate:  # spliced files change their rate on the way
            if resampler is not None:
                yield _to_int16(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
            resampler, rate = soxr.ResampleStream(block_rate, sample_rate_hz, 1, dtype="float32"), block_rate
        samples = _to_int16(resampler.resample_chunk(block))
        num_samples += len(samples)
        if len(samples):
            yield samples
    if resampler is not None:
        samples = _to_int16(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        num_samples += len(samples)
        if len(samples):
            yield samples
    if num_samples == 0:
        raise DecodeError(RejectReason.UNDECODABLE, f"{Path(path).name}: the audio stream holds no samples")


def _to_int16(waveform: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)


def _mono_blocks(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Mono float32 blocks in [-1, 1] with their rate; a plain MP3 by libsndfile, twice as quick, all else by
    FFmpeg."""
    num_read = 0
    if _is_plain(path):
        try:
            with _Forward(path) as file:
                weights = _channel_weights(("",) * file.channels)
                while len(block := file.read(round(BLOCK_S * file.samplerate), dtype="float32")):
                    num_read += len(block)
                    yield (block if block.ndim == 1 else block @ weights), file.samplerate
            return
        except soundfile.LibsndfileError as error:
            logger.warning("%s: libsndfile stops after %d samples, FFmpeg goes on: %s", path.name, num_read, error)
    for block, rate_hz in _blocks(path):
        skipped = min(num_read, len(block))
        num_read -= skipped
        if skipped < len(block):
            yield block[skipped:], rate_hz


class _Forward(soundfile.SoundFile):
    """Reads on without seeking. soundfile seeks after every read of what it can seek in, and a seek costs an MP3
    decoder the bits that its next frames borrow from earlier ones: a burst of wrong samples at each block."""

    def seekable(self) -> bool:
        return False


def _is_plain(path: Path) -> bool:
    """Whether libsndfile will read all of it: every frame is like the first, and the header's length is that of the
    frames."""
    if path.suffix.lower() != ".mp3" or (plain := read_plain_mp3(path)) is None:
        return False
    try:
        num_samples = soundfile.info(path).frames
    except soundfile.LibsndfileError:
        return False
    # Encoder delay and padding, which both decoders remove, are under four frames.
    return 0 <= plain.num_frames * plain.samples_per_frame - num_samples <= 4 * plain.samples_per_frame


def _blocks(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Mono float32 blocks in [-1, 1] with their rate: the frames of a file, gathered to a second."""
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
        """``(N, channels)`` or ``(channels, N)`` in the file's own type, a view where that can be; much quicker than
        PyAV's own."""
        dtype, num_channels = _DTYPES[self.sample_format.removesuffix("p")], len(self.channels)
        if not self.sample_format.endswith("p"):
            return np.frombuffer(frame.planes[0], dtype, frame.samples * num_channels).reshape(-1, num_channels)
        if num_channels == 1:
            return np.frombuffer(frame.planes[0], dtype, frame.samples)[None]
        return np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in frame.planes])

    def to_mono(self, frames: list[np.ndarray]) -> np.ndarray:
        """``(N,) float32`` of frames as `samples` gives them."""
        is_planar = self.sample_format.endswith("p")
        samples = np.concatenate(frames, axis=1) if is_planar else np.concatenate(frames).T
        if samples.dtype == np.uint8:
            samples = (samples.astype(np.float32) - 128.0) / 128.0
        elif np.issubdtype(samples.dtype, np.integer):
            samples = samples.astype(np.float32) / float(-np.iinfo(samples.dtype).min)
        mono = _channel_weights(self.channels) @ samples.astype(np.float32, copy=False)
        return mono if np.isfinite(mono).all() else np.nan_to_num(mono, posinf=0.0, neginf=0.0)


_DTYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}


@cache
def _channel_weights(channels: tuple[str, ...]) -> np.ndarray:
    """Speech lies in the centre, then in the front pair; the bass channel carries none. ``(channels,)``, sums to 1.
    Assumed."""
    weights = np.ones(len(channels), np.float32)
    if len(channels) > 2 and "FC" in channels:
        weights = np.asarray(
            [{"FC": 1.0, "FL": 0.5, "FR": 0.5, "LFE": 0.0}.get(name, 0.25) for name in channels], np.float32
        )
    return weights / weights.sum()


def _frames(path: Path) -> Iterator[av.AudioFrame]:
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except FileNotFoundError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(RejectReason.NOT_AUDIO, f"{path.name}: no media file that FFmpeg knows ({error})") from error
    with container:
        stream = container.streams.best("audio")
        if stream is None:
            raise DecodeError(RejectReason.NOT_AUDIO, f"{path.name}: has no audio stream")
        num_packets = num_bad = 0
        for packet in _packets(container, stream):
            num_packets += 1
            try:
                yield from packet.decode()
            except av.error.FFmpegError as error:
                num_bad += 1
                logger.debug("%s: packet %d skipped: %s", path.name, num_packets, error)
        if num_bad > MAX_BAD_SHARE * num_packets:
            raise DecodeError(
                RejectReason.UNDECODABLE,
                f"{path.name}: {num_bad} of {num_packets} packets cannot be decoded, over {MAX_BAD_SHARE:.0%}",
            )


def _packets(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.Packet]:
    """The stream's packets; where the container breaks off, what came before it counts."""
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError as error:
        logger.warning("%s: the container breaks off: %s", container.name, error)
