"""Examination of a fetched file: its format by its first bytes, its length and a hash of its sound by decoding it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import av

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.media.frames import FrameReader

TS_PACKET_BYTES = 188
"""Size of a packet of an MPEG transport stream (ISO 13818-1), which begins with 0x47. HLS is sent so."""

HEAD_BYTES = 2 * TS_PACKET_BYTES + 1
"""Number of bytes that suffice for every signature below."""


def sniff_extension(head: bytes) -> str | None:
    """Return the extension for a file that begins with ``head``, None for what is no known audio container."""
    if head[4:8] == b"ftyp":
        return "m4a"
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"OggS":
        return "opus" if b"OpusHead" in head else "ogg"
    signatures = {b"ID3": "mp3", b"fLaC": "flac", b"\x1a\x45\xdf\xa3": "webm", b"FORM": "aiff", b"ADIF": "aac"}
    for signature, extension in signatures.items():
        if head.startswith(signature):
            return extension
    if len(head) >= HEAD_BYTES and all(head[n * TS_PACKET_BYTES] == 0x47 for n in range(3)):
        return "ts"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        # MPEG sync word: layer bits 00 are ADTS AAC, the others MPEG audio (ISO 11172-3, 13818-7).
        return "aac" if head[1] & 0x06 == 0 else "mp3"
    return None


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


def examine(path: Path, *, max_duration_s: float) -> Sound:
    """Decode the audio in ``path`` once, streaming; `Rejected` if there is none, it is broken, or it is too long.

    The hash is over samples as the decoder gives them, interleaved and without resampling.
    """
    num_bytes = path.stat().st_size
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise Rejected(RejectReason.NOT_AUDIO, f"a {container.format.name} file without an audio stream")
            sound = _decode(container, container.streams.audio[0], max_duration_s, num_bytes)
            claimed_s = (container.duration or 0) / av.time_base
            if claimed_s > max(10 * sound.duration_s, sound.duration_s + CLAIM_SLACK_S):
                detail = f"the header claims {claimed_s:.0f} s, there are {sound.duration_s:.1f} s in {num_bytes} bytes"
                raise Rejected(RejectReason.BAD_METADATA, detail)
            return sound
    except av.FFmpegError as error:
        raise Rejected(RejectReason.UNDECODABLE, f"{type(error).__name__}: {error.strerror}") from error


def _decode(container, stream, max_duration_s: float, num_bytes: int) -> Sound:
    digest, num_samples, rate, channels = hashlib.sha256(), 0, 0, 0
    reader = FrameReader(av.InvalidDataError)  # one bad packet is no broken file: players skip it, and so do we
    for frame in reader.frames(container.demux(stream)):
        if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            digest.update(f"{rate} Hz, {channels} channels\n".encode())
        samples = frame.to_ndarray()
        digest.update((samples.T if frame.format.is_planar else samples).tobytes())
        num_samples += frame.samples
        if num_samples > max_duration_s * rate:
            raise Rejected(RejectReason.TOO_LONG, f"decoding does not end within {max_duration_s:.0f} s of sound")
        if num_samples > CLAIM_SLACK_S * rate and num_bytes < LEAST_BYTES_PER_S * num_samples / rate:
            detail = f"{num_samples / rate:.0f} s of sound and more from {num_bytes} bytes: no speech is so small"
            raise Rejected(RejectReason.BAD_METADATA, detail)
    if not num_samples:
        raise Rejected(
            RejectReason.UNDECODABLE, f"not one sample could be decoded ({reader.last_error or 'no packets'})"
        )
    return Sound(num_samples / rate, digest.hexdigest(), stream.codec_context.name, rate, channels)
