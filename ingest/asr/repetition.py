"""Signs that Whisper went on repeating itself where speech had ended."""

from __future__ import annotations

import re
import zlib

MAX_COMPRESSION_RATIO = 2.4
"""Text that compresses better is a loop. The default of Whisper and faster-whisper; for all scripts, as characters are
counted and not their bytes."""


def compression_ratio(text: str) -> float:
    """Return the characters of a text over its bytes compressed by zlib, a measure of repetition; 0 for no text.

    Whisper's own counts bytes. Those of a letter in Hindi are three, of which two are always the same, so that any text
    in it would count as a loop.
    """
    return len(text) / len(zlib.compress(text.encode())) if text else 0.0


def is_loop(text: str) -> bool:
    """Return whether a text repeats itself more than `MAX_COMPRESSION_RATIO` allows."""
    return compression_ratio(text) > MAX_COMPRESSION_RATIO


def repeats_its_end(text: str) -> bool:
    """Return whether the last words of a text, two or more, stand there twice in a row.

    Whisper does that where the window ends right after the speech. Holds for scripts that are written with spaces; in
    others "yes, yes" and the like are one word, and nothing is found.
    """
    words = re.findall(r"[\w']+", text.lower())
    return any(words[-length:] == words[-2 * length : -length] for length in range(2, len(words) // 2 + 1))
