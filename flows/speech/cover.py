"""The picture of a book's cover, as audio players take it."""

from __future__ import annotations

import io
import logging
from typing import NamedTuple

from PIL import Image, ImageOps

logger = logging.getLogger(__name__)

MAX_SIDE = 1400
"""Longest side in pixels; players show no more, and some refuse pictures of many megabytes. Assumed."""
MAX_PIXELS = 100_000_000
"""Largest picture that is decoded: 300 MB in memory."""
QUALITY = 88


class Cover(NamedTuple):
    """A JPEG and its size in pixels."""

    jpeg: bytes
    width: int
    height: int


def fit_cover(picture: bytes, name: str) -> Cover | None:
    """Return a picture of any kind as a JPEG of at most `MAX_SIDE`; None, with a warning, for what is no picture."""
    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.draft("RGB", (MAX_SIDE, MAX_SIDE))  # a JPEG can be read smaller at once
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, {MAX_PIXELS} at most")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        logger.warning("%s: no cover: %s", name, error)
        return None
    upright.thumbnail((MAX_SIDE, MAX_SIDE))
    page = Image.new("RGB", upright.size, "white")
    page.paste(upright, mask=upright.getchannel("A"))
    file = io.BytesIO()
    page.save(file, "JPEG", quality=QUALITY)
    return Cover(file.getvalue(), *page.size)
