"""Images and videos as the corpus holds them: PNG and FFV1, both lossless, and as the planes that a network sees.

An array of an image is ``(H, W, 3)`` uint8, of a video ``(T, H, W, 3)``. Planes put the channels first: ``(3, H, W)``
and ``(3, T, H, W)`` float32 from 0 to 1.
"""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from PIL import Image, ImageOps

from triforce.ingest.corpus.records import Clip, RejectReason
from triforce.ingest.errors import Rejected

PIXEL_MODALITIES = ("image", "video")
"""Modalities whose clips are pixels; all others are sound."""

PILLOWS_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, EOFError, SyntaxError, struct.error),
    Image.DecompressionBombError,
)
"""What Pillow raises for one damaged file."""


def encode_png(image: np.ndarray) -> bytes:
    """Encode ``(H, W, 3)`` uint8 as PNG; a grey ``(H, W)`` is given three equal channels."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(f"image of {image.dtype} and shape {image.shape}: give uint8 (H, W, 3) or (H, W)")
    buffer = io.BytesIO()
    Image.fromarray(image).convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def decode_png(data: bytes | Path) -> np.ndarray:
    """Decode bytes, or a file, of any still image format to ``(H, W, 3)`` uint8; raises `Rejected` for others.

    What is transparent is white, and a photograph stands upright as its camera says.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            return np.asarray(_opaque(ImageOps.exif_transpose(image)))
    except PILLOWS_ERRORS as error:
        raise Rejected(RejectReason.UNDECODABLE, f"no image that can be read: {error}") from error


def _opaque(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB."""
    if image.mode.startswith("I"):  # 16 bits, of which Pillow's own conversion keeps the lowest eight
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


Fit = Literal["crop", "pad"]


def fitted(image: np.ndarray, side: int, fit: Fit) -> np.ndarray:
    """Bring ``(H, W, 3)`` uint8 to ``(side, side, 3)``: ``crop`` cuts off what the longer side has too much, ``pad``
    fills up the shorter with white."""
    if image.shape[:2] == (side, side):
        return image
    picture, size = Image.fromarray(image), (side, side)
    if fit == "crop":
        return np.asarray(ImageOps.fit(picture, size, Image.Resampling.LANCZOS))
    return np.asarray(ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color="white"))


def encode_video(frames: np.ndarray, frames_per_s: float) -> bytes:
    """Encode ``(T, H, W, 3)`` uint8 as FFV1 in Matroska; the same frames always make the same bytes."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or not len(frames):
        raise ValueError(
            f"video of {frames.dtype} and shape {frames.shape}: give uint8 (T, H, W, 3) of a frame or more"
        )
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
    """Decode bytes, or a file, of any video to ``(T, H, W, 3)`` uint8, its first ``max_frames`` or all.

    Raises `Rejected` for bytes that hold no video.
    """
    try:
        with av.open(io.BytesIO(data) if isinstance(data, bytes) else str(data)) as container:
            if not container.streams.video:
                raise Rejected(RejectReason.UNDECODABLE, "no video stream in it")
            frames = []
            for frame in container.decode(container.streams.video[0]):
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == max_frames:
                    break
    except av.FFmpegError as error:
        raise Rejected(RejectReason.UNDECODABLE, f"no video that can be read: {error}") from error
    if not frames:
        raise Rejected(RejectReason.UNDECODABLE, "the video stream holds no frame")
    return np.stack(frames)


def frame_rate(path: Path) -> float:
    """Return the frames a second that a video's header states; 25 where it states none."""
    with av.open(str(path)) as container:
        return float(container.streams.video[0].average_rate or 25)


def to_planes(pixels: np.ndarray) -> np.ndarray:
    """Convert ``(*size, 3)`` uint8 to ``(3, *size)`` float32 from 0 to 1."""
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0), dtype=np.float32) / 255


def from_planes(planes: np.ndarray) -> np.ndarray:
    """Convert ``(3, *size)`` floats to ``(*size, 3)`` uint8; values outside of 0 to 1 are clipped."""
    return np.moveaxis(np.rint(np.clip(planes, 0, 1) * 255).astype(np.uint8), 0, -1)


def decode_pixels(data: bytes, modality: str) -> np.ndarray:
    """Decode the bytes of a clip of ``modality`` image or video to ``(*size, 3)`` uint8."""
    return decode_png(data) if modality == "image" else decode_video(data)


def clip_pixels(clip: Clip) -> np.ndarray:
    """Return the planes of a clip of images or video, ``(3, *size)`` float32 from 0 to 1."""
    if clip.modality not in PIXEL_MODALITIES:
        raise ValueError(f"clip {clip.clip_id} is {clip.modality}: image or video is expected")
    return to_planes(decode_pixels(clip.media, clip.modality))
