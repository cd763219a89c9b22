"""Samples to the bytes of a sound file: whole, into a file, or piece by piece, so that a stream plays at once."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import soundfile

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ
from triforce.ingest.media.samples import to_int16

CHUNK_SAMPLES = 4800
"""Samples handed to an encoder at a time: 0.2 s. Assumed; the encoded bytes do not depend on it."""


class SoundFormat(NamedTuple):
    """How FFmpeg writes a format."""

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
"""Streamed formats by the names of OpenAI's speech endpoint. `pcm` is raw 16-bit little-endian mono."""
UNKNOWN_LENGTH = 0xFFFFFFFF

PUBLISHED_FORMATS = {
    # Without the bit reservoir each frame stands alone: a decoder that begins in the middle has nothing to complain of.
    ".mp3": ("mp3", "libmp3lame", 64_000, {"compression_level": "7", "reservoir": "0"}),
    ".webm": ("webm", "libopus", 48_000, {"compression_level": "4"}),
}
"""Formats of spoken-word sites by file ending: container, encoder, bit rate in bit/s (usual for speech in mono) and
effort."""


def encode_flac(samples: np.ndarray, sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """Encode ``(N,) int16`` mono as a FLAC file; float32 in [-1, 1] is rounded to 16 bits by libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def encode_mp3(waveform: np.ndarray, sample_rate_hz: int, compression_level: float) -> bytes:
    """Encode ``(N,) float32`` mono as an MP3 file; ``compression_level`` is libsndfile's, 0 (best) to 1 (smallest)."""
    file = io.BytesIO()
    form = {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": compression_level}
    with soundfile.SoundFile(file, "w", sample_rate_hz, 1, **form) as out:
        out.write(waveform)
    return file.getvalue()


def write_published(path: Path, pieces: Iterable[np.ndarray], *, title: str, ending: str) -> float:
    """Write ``(N,) float32`` mono pieces at the corpus rate to ``path``; return how many seconds they were.

    The bytes depend on nothing but the input. ``ending`` is a key of `PUBLISHED_FORMATS`; ``path`` may be a temporary
    name.
    """
    muxer, codec, bit_rate, options = PUBLISHED_FORMATS[ending]
    num_samples = 0
    with av.open(str(path), "w", format=muxer, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(
            codec, rate=SAMPLE_RATE_HZ, layout="mono", options=options | {"flags": "+bitexact"}
        )
        stream.bit_rate = bit_rate
        container.metadata["title"] = title
        for block in _blocks(pieces):
            frame = av.AudioFrame.from_ndarray(block[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, num_samples
            num_samples += len(block)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return num_samples / SAMPLE_RATE_HZ


class StreamEncoder:
    """Encodes one sound in the format ``name`` as its pieces come, ``(N,) float32``.

    A streamed WAV says that its length is unknown, as its header is sent before the end is known. Raises ValueError for
    a name that is not in `FORMATS`.
    """

    def __init__(self, sample_rate_hz: int, name: str) -> None:
        if name not in FORMATS:
            raise ValueError(f"format {name!r}: use one of {', '.join(FORMATS)}")
        about, self._sink = FORMATS[name], _Sink()
        self._rate_hz, self._position = sample_rate_hz, 0
        self._container: Any = None
        if about.container is None:
            self._sink.write(wav_header(sample_rate_hz) if name == "wav" else b"")
            return
        # FFmpeg may not go back to fill in a length: nothing that was sent can be changed.
        self._container = av.open(self._sink, "w", format=about.container, buffer_size=4096)
        self._container.flags |= int(av.container.Flags.flush_packets.value) | int(av.container.Flags.bitexact.value)
        rate_hz = about.rate_hz or sample_rate_hz
        self._stream: Any = self._container.add_stream(about.codec or name, rate=rate_hz, layout="mono")
        if about.bit_rate:
            self._stream.bit_rate = about.bit_rate

    def push(self, piece: np.ndarray) -> bytes:
        """Return the bytes that are ready once a piece is known; there may be none yet."""
        if self._container is None:
            return self._sink.take() + to_int16(piece).astype("<i2").tobytes()
        for frame in int16_frames([piece], self._rate_hz, self._position):
            self._container.mux(self._stream.encode(frame))
        self._position += len(piece)
        return self._sink.take()

    def close(self) -> bytes:
        """Return the bytes that are left when all pieces are known."""
        if self._container is not None:
            if self._position:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None
        return self._sink.take()


def encode_stream(pieces: Iterable[np.ndarray], sample_rate_hz: int, name: str) -> Iterator[bytes]:
    """Yield bytes of the format ``name`` for the pieces of one sound, as `StreamEncoder` makes them."""
    encoder = StreamEncoder(sample_rate_hz, name)
    try:
        for piece in pieces:
            if data := encoder.push(piece):
                yield data
    finally:
        rest = encoder.close()
    if rest:
        yield rest


def int16_frames(pieces: Iterable[np.ndarray], sample_rate_hz: int, position: int = 0) -> Iterator[av.AudioFrame]:
    """Yield 16-bit mono frames of ``(N,) float32`` pieces, each beginning where the one before ends; the first one at
    sample ``position``.
    """
    for piece in pieces:
        samples = to_int16(piece)
        for start in range(0, len(samples), CHUNK_SAMPLES):
            frame = av.AudioFrame.from_ndarray(
                samples[None, start : start + CHUNK_SAMPLES], format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, position, Fraction(1, sample_rate_hz)
            position += frame.samples
            yield frame


def wav_header(sample_rate_hz: int) -> bytes:
    """Return the 44 bytes in front of 16-bit mono samples of unknown number."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate_hz, 2 * sample_rate_hz, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", UNKNOWN_LENGTH, b"WAVE") + form + struct.pack("<4sI", b"data", UNKNOWN_LENGTH)


def _blocks(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the same samples in blocks of `CHUNK_SAMPLES`; the last may be shorter."""
    rest = np.zeros(0, np.float32)
    for piece in pieces:
        rest = np.concatenate([rest, piece.astype(np.float32, copy=False)])
        while len(rest) >= CHUNK_SAMPLES:
            yield rest[:CHUNK_SAMPLES]
            rest = rest[CHUNK_SAMPLES:]
    if len(rest):
        yield rest


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
