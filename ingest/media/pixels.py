"""Images and films as the corpus holds them: PNG and FFV1, both lossless, and as the planes that a network sees.

An array of an image is ``(H, W, 3)`` uint8, of a film ``(T, H, W, 3)``. Planes put the channels first: ``(3, H, W)``
and ``(3, T, H, W)`` float32 from 0 to 1.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

PIXEL_MODALITIES = ("image", "video")
"""Modalities whose clips are pixels; all others are sound."""


class PixelError(ValueError):
    """Bytes that hold no image or film that can be read; the message says why."""


def encode_png(image: np.ndarray) -> bytes:
    """``(H, W, 3)`` uint8 to PNG bytes; a grey ``(H, W)`` is given three equal channels."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(f"image of {image.dtype} and shape {image.shape}: give uint8 (H, W, 3) or (H, W)")
    buffer = io.BytesIO()
    Image.fromarray(image).convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def decode_png(data: bytes | Path) -> np.ndarray:
    """Bytes, or a file, of any still image format to ``(H, W, 3)`` uint8."""
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise PixelError(f"no image that can be read: {error}") from error


def encode_video(frames: np.ndarray, frames_per_s: float) -> bytes:
    """``(T, H, W, 3)`` uint8 to FFV1 in Matroska; the same frames always make the same bytes."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or not len(frames):
        raise ValueError(f"film of {frames.dtype} and shape {frames.shape}: give uint8 (T, H, W, 3) of a frame or more")
    buffer = io.BytesIO()
    # Otherwise Matroska draws a random id and names the library's version.
    with av.open(buffer, "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=Fraction(frames_per_s).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "bgr0"
        stream.codec_context.thread_count = 1
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(format="bgr0")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def decode_video(data: bytes | Path, max_frames: int | None = None) -> np.ndarray:
    """Bytes, or a file, of any film to its first frames ``(T, H, W, 3)`` uint8; all where ``max_frames`` is None."""
    try:
        with av.open(io.BytesIO(data) if isinstance(data, bytes) else str(data)) as container:
            if not container.streams.video:
                raise PixelError("no video stream in it")
            frames = []
            for frame in container.decode(container.streams.video[0]):
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == max_frames:
                    break
    except av.FFmpegError as error:
        raise PixelError(f"no film that can be read: {error}") from error
    if not frames:
        raise PixelError("the video stream holds no frame")
    return np.stack(frames)


def frame_rate(path: Path) -> float:
    """Frames a second that a film's header states; 25 where it states none."""
    with av.open(str(path)) as container:
        return float(container.streams.video[0].average_rate or 25)


def to_planes(pixels: np.ndarray) -> np.ndarray:
    """``(*size, 3)`` uint8 to ``(3, *size)`` float32 from 0 to 1."""
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0), dtype=np.float32) / 255


def from_planes(planes: np.ndarray) -> np.ndarray:
    """``(3, *size)`` floats to ``(*size, 3)`` uint8; what lies outside of 0 to 1 is cut off."""
    return np.moveaxis(np.rint(np.clip(planes, 0, 1) * 255).astype(np.uint8), 0, -1)


def clip_pixels(row: Mapping[str, Any]) -> np.ndarray:
    """The planes of a corpus row whose ``modality`` is image or video."""
    modality = row["modality"]
    if modality not in PIXEL_MODALITIES:
        raise ValueError(f"clip {row.get('clip_id')} is {modality}: image or video is expected")
    data = row[modality]["bytes"]
    return to_planes(decode_png(data) if modality == "image" else decode_video(data))
