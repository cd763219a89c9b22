"""Examination of a fetched file: its format, its length and a hash of its sound, all by decoding it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import av

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.media.formats import extension_of
from triforce.ingest.media.frames import AudioReader, open_media

CLAIM_SLACK_S = 600.0
"""Seconds by which a header may overstate a length: players estimate it for variable bit rates. Assumed."""

LEAST_BYTES_PER_S = 100.0
"""Least size of a whole recording for its length. The narrowest speech codecs take 150 (Codec 2 at 1 200 bit/s),
digital silence as FLAC 30 to 60.
"""


@dataclass(frozen=True)
class Sound:
    """Length, hash and format of a decoded file."""

    duration_s: float
    pcm_sha256: str
    """SHA-256 of the decoded samples with their rate and channel count: tags, cover and container do not change it."""
    codec: str
    sample_rate_hz: int
    num_channels: int
    extension: str
    """Ending for the file's name: that of its format, whatever it was called."""


def examine(path: Path, *, max_duration_s: float) -> Sound:
    """Decode the audio in ``path`` once, streaming; `Rejected` if there is none, it is broken, or it is too long.

    The hash is over samples as the decoder gives them, interleaved and without resampling.
    """
    num_bytes = path.stat().st_size
    with open_media(path) as container:
        sound = _decode(AudioReader(path, container), container.format.name, max_duration_s, num_bytes)
        claimed_s = (container.duration or 0) / av.time_base
    if claimed_s > max(10 * sound.duration_s, sound.duration_s + CLAIM_SLACK_S):
        raise Rejected(
            RejectReason.BAD_METADATA,
            f"the header claims {claimed_s:.0f} s, there are {sound.duration_s:.1f} s in {num_bytes} bytes; "
            "fetch it again, it may be cut off",
        )
    return sound


def _decode(reader: AudioReader, format_name: str, max_duration_s: float, num_bytes: int) -> Sound:
    digest, num_samples, rate, channels = hashlib.sha256(), 0, 0, 0
    for frame in reader.frames():
        if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            digest.update(f"{rate} Hz, {channels} channels\n".encode())
        samples = frame.to_ndarray()
        digest.update((samples.T if frame.format.is_planar else samples).tobytes())
        num_samples += frame.samples
        if num_samples > max_duration_s * rate:
            raise Rejected(
                RejectReason.TOO_LONG,
                f"decoding does not end within {max_duration_s:.0f} s of sound; raise max_duration_s if that is meant",
            )
        if num_samples > CLAIM_SLACK_S * rate and num_bytes < LEAST_BYTES_PER_S * num_samples / rate:
            raise Rejected(
                RejectReason.BAD_METADATA,
                f"{num_samples / rate:.0f} s of sound and more from {num_bytes} bytes: no speech is so small; "
                "check the file with another player",
            )
    if not num_samples:
        raise Rejected(
            RejectReason.UNDECODABLE,
            f"not one sample could be decoded ({reader.last_error or 'no packets'}); fetch it again, or convert it",
        )
    codec = reader.stream.codec_context.name
    return Sound(num_samples / rate, digest.hexdigest(), codec, rate, channels, extension_of(format_name, codec))
