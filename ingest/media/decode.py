"""Any media file as one stream of mono samples, block by block; a recording is never in memory as a whole.

The decoded samples are what counts of a recording: headers and timestamps lie about length, so nothing is skipped,
repeated or filled in to fit them, and every index into a recording counts samples of this stream.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.media.downmix import mixer
from triforce.ingest.media.frames import BLOCK_S, mono_blocks, open_media
from triforce.ingest.media.mp3 import read_plain_mp3
from triforce.ingest.media.samples import to_int16

logger = logging.getLogger(__name__)


def decode(
    path: str | Path, sample_rate_hz: int = SAMPLE_RATE_HZ, *, channel: int | None = None
) -> Iterator[np.ndarray]:
    """Yield blocks of about one second, ``(N,) int16`` mono at ``sample_rate_hz``, of the best audio stream of the
    file ``path``.

    Channels are averaged (of more than two, the centre counts as much as the front pair) so that none cancels another,
    unless ``channel``, counted from 0 on, is taken alone; rates are converted by soxr. Packets that cannot be decoded
    are skipped and counted. Raises `Rejected` with NOT_AUDIO where there is no audio stream, with UNDECODABLE where
    there is one that gives no samples or too many errors, and with UNKNOWN where the machine is at fault; then part of
    the blocks may have been yielded.
    """
    return map(to_int16, decode_float(path, sample_rate_hz, channel=channel))


def decode_float(
    path: str | Path, sample_rate_hz: int = SAMPLE_RATE_HZ, *, channel: int | None = None
) -> Iterator[np.ndarray]:
    """Yield the same as `decode`, ``(N,) float32`` in [-1, 1] before it is rounded to 16 bits."""
    resampler, rate = None, None
    num_samples = 0
    for block, block_rate in _blocks(Path(path), channel):
        if block_rate != rate:  # spliced files change their rate on the way
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            resampler, rate = soxr.ResampleStream(block_rate, sample_rate_hz, 1, dtype="float32"), block_rate
        samples = resampler.resample_chunk(block)
        num_samples += len(samples)
        if len(samples):
            yield samples
    if resampler is not None:
        samples = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        num_samples += len(samples)
        if len(samples):
            yield samples
    if num_samples == 0:
        raise Rejected(
            RejectReason.UNDECODABLE, f"{Path(path).name}: the audio stream holds no samples; fetch it again"
        )


def probe_duration_s(path: Path) -> float:
    """Return the length that the container states, or the decoded one where it states none. Raises `Rejected` where
    there is no audio."""
    with open_media(path) as container:
        if container.streams.audio and container.duration:
            return container.duration / av.time_base
    return sum(map(len, decode_float(path))) / SAMPLE_RATE_HZ


def is_plain_mp3(path: Path) -> bool:
    """Whether libsndfile reads all of an MP3 file: every frame is like the first, and the length that the header
    states is that of the frames."""
    if path.suffix.lower() != ".mp3" or (plain := read_plain_mp3(path)) is None:
        return False
    try:
        num_samples = soundfile.info(path).frames
    except soundfile.LibsndfileError:
        return False
    # Encoder delay and padding, which both decoders remove, are under four frames.
    return 0 <= plain.num_frames * plain.samples_per_frame - num_samples <= 4 * plain.samples_per_frame


def _blocks(path: Path, channel: int | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """Yield mono float32 blocks in [-1, 1] with their rate; of a plain MP3 by libsndfile, twice as quick, of all else
    by FFmpeg."""
    num_read = 0
    if is_plain_mp3(path):
        try:
            with _Forward(path) as file:
                downmix = mixer(("",) * file.channels, channel)
                while len(block := file.read(round(BLOCK_S * file.samplerate), dtype="float32", always_2d=True)):
                    num_read += len(block)
                    yield downmix.mix(block.T), file.samplerate
            return
        except soundfile.LibsndfileError as error:
            logger.warning("%s: libsndfile stops after %d samples, FFmpeg goes on: %s", path.name, num_read, error)
    for block, rate_hz in mono_blocks(path, channel):
        skipped = min(num_read, len(block))
        num_read -= skipped
        if skipped < len(block):
            yield block[skipped:], rate_hz


class _Forward(soundfile.SoundFile):
    """Reads on without seeking. soundfile seeks after every read of a file that can seek, and a seek costs an MP3
    decoder the bits that its next frames borrow from earlier ones: a burst of wrong samples at each block."""

    def seekable(self) -> bool:
        return False
