"""Any audio file in, 24 kHz mono out, in pieces; and back into the formats that sites publish."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import soxr

from triforce.ingest.corpus.schema import SAMPLE_RATE_HZ

BLOCK_SAMPLES = 4800
"""Samples handed to an encoder at a time: 0.2 s. Assumed; the encoded bytes do not depend on it."""

ENCODERS = {
    # Without the bit reservoir each frame stands alone: a decoder that begins in the middle has nothing to complain of.
    ".mp3": ("mp3", "libmp3lame", 64_000, {"compression_level": "7", "reservoir": "0"}),
    ".webm": ("webm", "libopus", 48_000, {"compression_level": "4"}),
}
"""By file ending: container, encoder, bit rate in bit/s (for speech in mono, what spoken-word sites use) and effort."""


def decode(path: Path) -> Iterator[np.ndarray]:
    """The file's first audio stream as float32 pieces at `SAMPLE_RATE_HZ`, mono; only a piece at a time is in memory.

    Raw G.722 carries no header: its name must end in ``.g722``. Raises ValueError where there is no audio in it.
    """
    try:
        with av.open(str(path), format="g722" if path.suffix == ".g722" else None) as container:
            if not container.streams.audio:
                raise ValueError(f"{path}: no audio stream in it; give a recording of speech")
            yield from _resampled(_mono_frames(container), container.streams.audio[0].rate)
    except av.FFmpegError as error:
        raise ValueError(f"{path}: not decodable as audio ({error.strerror}); remove or convert it") from error


def _mono_frames(container: av.container.InputContainer) -> Iterator[np.ndarray]:
    stream = container.streams.audio[0]
    to_mono = av.AudioResampler(format="flt", layout="mono", rate=stream.rate)
    for frame in container.decode(stream):
        for mono in to_mono.resample(frame):
            yield mono.to_ndarray()[0]
    for mono in to_mono.resample(None):
        yield mono.to_ndarray()[0]


def _resampled(pieces: Iterable[np.ndarray], rate_hz: int) -> Iterator[np.ndarray]:
    if rate_hz == SAMPLE_RATE_HZ:
        yield from pieces
        return
    resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
    for piece in pieces:
        if len(out := resampler.resample_chunk(piece)):
            yield out
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def probe_duration_s(path: Path) -> float:
    """Length by the container's word, or by decoding where it has none. Raises ValueError where there is no audio."""
    try:
        with av.open(str(path), format="g722" if path.suffix == ".g722" else None) as container:
            if container.streams.audio and container.duration:
                return container.duration / av.time_base
    except av.FFmpegError as error:
        raise ValueError(f"{path}: not decodable as audio ({error.strerror}); remove or convert it") from error
    return sum(map(len, decode(path))) / SAMPLE_RATE_HZ


def encode(path: Path, pieces: Iterable[np.ndarray], *, title: str, container_format: str) -> float:
    """Write float32 mono pieces at `SAMPLE_RATE_HZ` to ``path``; returns how many seconds they were.

    The bytes depend on nothing but the input. ``container_format`` is a key of `ENCODERS`; ``path`` may be a temporary
    name.
    """
    muxer, codec, bit_rate, options = ENCODERS[container_format]
    num_samples = 0
    with av.open(str(path), "w", format=muxer, options={"fflags": "+bitexact"}) as container:
        options = options | {"flags": "+bitexact"}
        stream = container.add_stream(codec, rate=SAMPLE_RATE_HZ, layout="mono", options=options)
        stream.bit_rate = bit_rate
        container.metadata["title"] = title
        for block in _blocks(pieces):
            frame = av.AudioFrame.from_ndarray(block[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, num_samples
            num_samples += len(block)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return num_samples / SAMPLE_RATE_HZ


def _blocks(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same samples in blocks of `BLOCK_SAMPLES`; the last may be shorter."""
    rest = np.zeros(0, np.float32)
    for piece in pieces:
        rest = np.concatenate([rest, piece.astype(np.float32, copy=False)])
        while len(rest) >= BLOCK_SAMPLES:
            yield rest[:BLOCK_SAMPLES]
            rest = rest[BLOCK_SAMPLES:]
    if len(rest):
        yield rest
