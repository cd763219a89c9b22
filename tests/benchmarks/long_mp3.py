"""A long MP3 from a short one: its frames as often as it takes, and a first frame that states their number."""

from __future__ import annotations

from collections.abc import Iterator

HAS_COUNTS = 3
"""Flags of the Xing header: the number of frames and of bytes are there, four bytes each, big end first."""


def repeated_mp3(data: bytes, times: int) -> Iterator[bytes]:
    """The file ``data``, which begins with an Info frame, ``times`` over, in parts to be written one after another."""
    start = data.index(data[:2], 4)  # sync word, version and layer of the second frame
    first, frames = bytearray(data[:start]), data[start:]
    at = max(first.find(b"Info"), first.find(b"Xing"))
    if at < 0 or first[at + 7] & HAS_COUNTS != HAS_COUNTS:
        raise ValueError("the MP3's first frame does not state how many follow")
    num_frames = int.from_bytes(first[at + 8 : at + 12], "big")
    first[at + 8 : at + 12] = (num_frames * times).to_bytes(4, "big")
    first[at + 12 : at + 16] = (len(first) + len(frames) * times).to_bytes(4, "big")
    yield bytes(first)
    for _ in range(times):
        yield frames
