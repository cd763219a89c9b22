"""Samples to the bytes of a sound file, piece by piece as they come: what is streamed plays before it is complete."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np

CHUNK_SAMPLES = 4800


class SoundFormat(NamedTuple):
    """How a format is written by FFmpeg."""

    media_type: str
    container: str | None = None
    codec: str | None = None
    rate_hz: int | None = None
    """The only rate it takes, where it takes one only."""
    bit_rate: int | None = None


FORMATS = {
    "wav": SoundFormat("audio/wav"),
    "pcm": SoundFormat("audio/pcm"),
    "mp3": SoundFormat("audio/mpeg", "mp3", "libmp3lame", bit_rate=96_000),
    "flac": SoundFormat("audio/flac", "flac", "flac"),
    "opus": SoundFormat("audio/ogg", "ogg", "libopus", rate_hz=48_000, bit_rate=48_000),
    "aac": SoundFormat("audio/aac", "adts", "aac", bit_rate=96_000),
}
"""By the names of OpenAI's speech endpoint. `pcm` is raw 16-bit little-endian mono."""
UNKNOWN_LENGTH = 0xFFFFFFFF


def encode_stream(pieces: Iterable[np.ndarray], sample_rate_hz: int, name: str) -> Iterator[bytes]:
    """Bytes of the format ``name`` for pieces ``(N,)`` float32 of one sound.

    A streamed WAV says that its length is unknown, as its header leaves before the end is there.
    """
    if name not in FORMATS:
        raise ValueError(f"format {name!r}: use one of {', '.join(FORMATS)}")
    if FORMATS[name].container is None:
        if name == "wav":
            yield wav_header(sample_rate_hz)
        for piece in pieces:
            yield to_int16(piece).astype("<i2").tobytes()
        return
    yield from _by_ffmpeg(pieces, sample_rate_hz, name)


def _by_ffmpeg(pieces: Iterable[np.ndarray], sample_rate_hz: int, name: str) -> Iterator[bytes]:
    about, sink = FORMATS[name], _Sink()
    # FFmpeg may not go back to fill in a length: nothing that was sent can be changed.
    with av.open(sink, "w", format=about.container, buffer_size=4096) as container:
        container.flags |= int(av.container.Flags.flush_packets.value) | int(av.container.Flags.bitexact.value)
        stream: Any = container.add_stream(about.codec or name, rate=about.rate_hz or sample_rate_hz, layout="mono")
        if about.bit_rate:
            stream.bit_rate = about.bit_rate
        for frame in frames(pieces, sample_rate_hz):
            for packet in stream.encode(frame):
                container.mux(packet)
            if data := sink.take():
                yield data
        for packet in stream.encode(None):
            container.mux(packet)
    if data := sink.take():
        yield data


def frames(pieces: Iterable[np.ndarray], sample_rate_hz: int) -> Iterator[av.AudioFrame]:
    """16-bit mono frames that follow each other without a gap."""
    position = 0
    for piece in pieces:
        samples = to_int16(piece)
        for start in range(0, len(samples), CHUNK_SAMPLES):
            frame = av.AudioFrame.from_ndarray(
                samples[None, start : start + CHUNK_SAMPLES], format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, position, Fraction(1, sample_rate_hz)
            position += frame.samples
            yield frame


def to_int16(waveform: np.ndarray) -> np.ndarray:
    return np.round(np.clip(waveform, -1, 1) * 32767).astype(np.int16)


def wav_header(sample_rate_hz: int) -> bytes:
    """44 bytes in front of 16-bit mono samples of unknown number."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate_hz, 2 * sample_rate_hz, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", UNKNOWN_LENGTH, b"WAVE") + form + struct.pack("<4sI", b"data", UNKNOWN_LENGTH)


class _Sink(io.RawIOBase):
    """A file that only grows, emptied as it does."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data
