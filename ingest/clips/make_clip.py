"""The common kinds of clip, made of samples, an image or video frames: their media encoded as a corpus holds them."""

from __future__ import annotations

from typing import Any

import numpy as np

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, Clip, Media, Recording
from triforce.ingest.media.encode import encode_flac
from triforce.ingest.media.pixels import encode_png, encode_video


def sound_clip(recording: Recording, start: int, samples: np.ndarray, **columns: Any) -> Clip:
    """Make a clip of ``(N,) int16`` at the corpus rate that begins at sample ``start``; ``columns`` are fields of
    `Clip`: its text, its scores."""
    audio = Media(encode_flac(samples))
    return Clip.cut(recording, start, start + len(samples), SAMPLE_RATE_HZ, audio=audio, **columns)


def image_clip(recording: Recording, number: int, image: np.ndarray, **columns: Any) -> Clip:
    """Make a clip of image ``number`` of a recording, ``(H, W, 3)`` or ``(H, W)`` uint8; it counts as one second."""
    media = Media(encode_png(image))
    return Clip.cut(recording, number, number + 1, 1, modality="image", image=media, **columns)


def video_clip(recording: Recording, start: int, frames: np.ndarray, frames_per_s: float, **columns: Any) -> Clip:
    """Make a clip of frames ``(T, H, W, 3)`` uint8 that begins at frame ``start``."""
    media = Media(encode_video(frames, frames_per_s))
    end = start + len(frames)
    return Clip.cut(recording, start, end, round(frames_per_s), modality="video", video=media, **columns)
