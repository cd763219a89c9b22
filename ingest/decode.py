"""Any media file as one stream of mono samples, block by block; a recording is never in memory whole.

The samples that come out are the truth of a recording: headers and timestamps lie about length, so nothing is
skipped, repeated or filled in to please them, and every index into a recording counts samples of this stream.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soxr

from triforce.ingest.corpus import SAMPLE_RATE_HZ, RejectReason

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
    for block, block_rate in _blocks(Path(path)):
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


def _blocks(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Mono float32 blocks in [-1, 1] with their rate: the frames of a file, gathered to a second."""
    pending: list[np.ndarray] = []
    length, form = 0, None
    for frame in _frames(path):
        frame_form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if pending and (frame_form != form or length >= BLOCK_S * form[2]):
            yield _to_mono(np.concatenate(pending, axis=1), form), form[2]
            pending, length = [], 0
        form = frame_form
        samples = frame.to_ndarray()
        length += frame.samples
        pending.append(samples)
    if pending:
        yield _to_mono(np.concatenate(pending, axis=1), form), form[2]


def _to_mono(samples: np.ndarray, form: tuple[str, str, int]) -> np.ndarray:
    """``(channels, N)`` or, of packed formats, ``(1, N * channels)`` of any sample type to ``(N,) float32``."""
    layout = av.AudioLayout(form[1])
    num_channels = layout.nb_channels
    if not form[0].endswith("p"):
        samples = samples.reshape(-1, num_channels).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128.0) / 128.0
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float32) / float(-np.iinfo(samples.dtype).min)
    if num_channels == 1:
        return samples[0].astype(np.float32, copy=False)
    weights = np.asarray([_channel_weight(channel.name) for channel in layout.channels], np.float32)
    if num_channels <= 2 or not weights.any():
        weights = np.ones(num_channels, np.float32)
    return np.nan_to_num((weights / weights.sum()) @ samples.astype(np.float32, copy=False))


def _channel_weight(name: str) -> float:
    """Speech lies in the centre, then in the front pair; the bass channel carries none. Assumed."""
    return {"FC": 1.0, "FL": 0.5, "FR": 0.5, "LFE": 0.0}.get(name, 0.25)


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
