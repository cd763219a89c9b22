"""Where somebody speaks: WebRTC's voice activity detector over a stream, smoothed to runs of speech."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import soxr
import webrtcvad
from pydantic import BaseModel, ConfigDict, Field

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ
from triforce.ingest.media.samples import FULL_SCALE

VAD_RATE_HZ = 16_000
FRAME_S = 0.03
"""The longest frame that WebRTC's detector takes."""
FRAME_SAMPLES = round(SAMPLE_RATE_HZ * FRAME_S)
"""720 samples at the corpus rate, which are 480 at the detector's."""
_VAD_FRAME_BYTES = 2 * round(VAD_RATE_HZ * FRAME_S)


class VadConfig(BaseModel):
    """Voice activity detection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: int = Field(
        2, ge=0, le=3, description="Aggressiveness of WebRTC's detector: 0 takes most for speech, 3 little."
    )
    window_s: float = Field(0.3, ge=0.03, le=2.0, description="Length of the smoothing window, seconds.")
    enter_share: float = Field(
        0.9, gt=0, le=1, description="Share of voiced frames in the window at which speech begins."
    )
    leave_share: float = Field(
        0.9, gt=0, le=1, description="Share of unvoiced frames in the window at which speech ends."
    )


@dataclass(frozen=True)
class Frames:
    """A stretch of the stream in frames of 30 ms."""

    samples: np.ndarray
    """``(N,) int16`` at the corpus rate; of ``len(is_voiced)`` whole frames but for the end of the stream."""
    is_voiced: np.ndarray
    """``(F,) bool``, the detector's verdict on each frame."""
    level_db: np.ndarray
    """``(F,) float32``, root mean square of each frame in dB of full scale."""


def detect(blocks: Iterable[np.ndarray], config: VadConfig) -> Iterator[Frames]:
    """Yield frames with the detector's verdict, for ``blocks`` of ``(N,) int16`` mono at the corpus rate. The last
    frame may be short."""
    detector = webrtcvad.Vad(config.mode)
    resampler = soxr.ResampleStream(SAMPLE_RATE_HZ, VAD_RATE_HZ, 1, dtype="int16")
    samples, narrow = np.zeros(0, np.int16), b""
    for block in blocks:
        samples = np.concatenate([samples, block])
        narrow += resampler.resample_chunk(block).tobytes()
        num_frames = min(len(samples) // FRAME_SAMPLES, len(narrow) // _VAD_FRAME_BYTES)
        if num_frames:
            yield _frames(detector, samples[: num_frames * FRAME_SAMPLES], narrow)
            samples, narrow = samples[num_frames * FRAME_SAMPLES :], narrow[num_frames * _VAD_FRAME_BYTES :]
    if len(samples):
        narrow += resampler.resample_chunk(np.zeros(0, np.int16), last=True).tobytes()
        num_frames = -(-len(samples) // FRAME_SAMPLES)
        yield _frames(detector, samples, narrow.ljust(num_frames * _VAD_FRAME_BYTES, b"\0"))


def _frames(detector: webrtcvad.Vad, samples: np.ndarray, narrow: bytes) -> Frames:
    num_frames = -(-len(samples) // FRAME_SAMPLES)
    starts = range(0, num_frames * _VAD_FRAME_BYTES, _VAD_FRAME_BYTES)
    is_voiced = np.asarray([detector.is_speech(narrow[at : at + _VAD_FRAME_BYTES], VAD_RATE_HZ) for at in starts])
    return Frames(samples, is_voiced, frame_levels(samples))


def frame_levels(samples: np.ndarray, frame_samples: int = FRAME_SAMPLES) -> np.ndarray:
    """Return the root mean square of each frame of ``(N,) int16`` samples, ``(ceil(N / frame_samples),) float32`` in dB
    of full scale."""
    num_frames = -(-len(samples) // frame_samples)
    padded = np.zeros(num_frames * frame_samples, np.float32)
    padded[: len(samples)] = samples
    padded = padded.reshape(num_frames, frame_samples)
    power = np.einsum("ij,ij->i", padded, padded) / (frame_samples * FULL_SCALE**2)
    return (10.0 * np.log10(np.maximum(power, 1e-10))).astype(np.float32)


class Smoother:
    """Turns verdicts on frames into runs: speech begins when most of a window is voiced, and ends when most of it is
    not.

    A run reaches from the first voiced frame of the window that opened it to the last voiced frame of the one that
    closed it. Verdicts come out one window late.
    """

    def __init__(self, config: VadConfig):
        self._length = max(1, round(config.window_s / FRAME_S))
        self._enter = config.enter_share * self._length - 1e-9
        self._leave = config.leave_share * self._length - 1e-9
        self._window: deque[bool] = deque()
        self._smoothed: deque[bool] = deque()
        self._is_speech = False
        self._num_voiced = 0

    def push(self, is_voiced: Iterable[bool]) -> np.ndarray:
        """Return the smoothed verdicts that are certain now, ``(F,) bool``, in order."""
        out = []
        for voiced in map(bool, is_voiced):
            if len(self._window) == self._length:
                self._num_voiced -= self._window.popleft()
                out.append(self._smoothed.popleft())
            self._window.append(voiced)
            self._num_voiced += voiced
            self._smoothed.append(self._is_speech)
            if len(self._window) == self._length:
                self._switch()
        return np.asarray(out, dtype=bool)

    def finish(self) -> np.ndarray:
        """Return the verdicts that are left when the stream ends."""
        if len(self._window) < self._length and self._num_voiced >= self._enter * len(self._window) / self._length:
            self._smoothed = deque([any(self._window)] * len(self._window))
        out, self._smoothed = np.asarray(self._smoothed, dtype=bool), deque()
        self._window.clear()
        return out

    def _switch(self) -> None:
        num_voiced = self._num_voiced
        if not self._is_speech and num_voiced >= self._enter:
            self._is_speech = True
            first = self._window.index(True)
            for i in range(first, self._length):
                self._smoothed[i] = True
        elif self._is_speech and self._length - num_voiced >= self._leave:
            self._is_speech = False
            last = max((i for i in range(self._length) if self._window[i]), default=-1)
            for i in range(last + 1, self._length):
                self._smoothed[i] = False
