"""Colour emoji drawn to bitmaps: the pictures of Noto Color Emoji (SIL Open Font License 1.1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

STRIKE_PX = 109
"""The one size at which the font holds its bitmaps, in pixels an em."""
SIDE = 128
"""Height of the bitmaps; they are 136 wide, with four empty columns at each side. Measured over all of them."""
ADVANCE_PX = 136
SAMPLE, MISSING = "\N{GRINNING FACE}", "\U0010fffd"
"""A glyph that is surely there, and one that surely is not."""


class EmojiFont:
    """The font of a file.

    Raises ImportError where Pillow comes without Raqm, which joins sequences of code points to one glyph.
    """

    def __init__(self, path: Path) -> None:
        if not features.check("raqm"):
            raise ImportError("this Pillow cannot join emoji sequences (no Raqm): pip install --force-reinstall pillow")
        self._font = ImageFont.truetype(str(path), STRIKE_PX, layout_engine=ImageFont.Layout.RAQM)
        self._advance = self._font.getlength(SAMPLE)
        self._missing = self._bitmap(MISSING)

    def draw(self, characters: str) -> np.ndarray | None:
        """Return the picture of an emoji on white, ``(128, 128, 3)`` uint8; None where the font has no single glyph."""
        if self._font.getlength(characters) != self._advance:
            return None  # drawn as its parts, side by side
        bitmap = self._bitmap(characters)
        return None if np.array_equal(bitmap, self._missing) else bitmap

    def _bitmap(self, characters: str) -> np.ndarray:
        image = Image.new("RGB", (ADVANCE_PX, SIDE), "white")
        ImageDraw.Draw(image).text((0, 0), characters, font=self._font, embedded_color=True)
        margin = (ADVANCE_PX - SIDE) // 2
        return np.asarray(image)[:, margin : margin + SIDE]
