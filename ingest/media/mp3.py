"""Whether an MP3 file is one unbroken run of like frames, which a quick decoder can be trusted with.

Podcasts are spliced: an advertisement of another rate or channel count, a cut download, bytes of a tag in the
middle. FFmpeg resumes after each; libsndfile, three times as quick, believes the header's length and stops. So every
frame header is walked first. The layout of the header: ISO/IEC 11172-3, 2.4.1.3, and 13818-3 for the lower rates.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

_KBPS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""By the two version bits: 3 is MPEG-1, 2 is MPEG-2, 0 is MPEG-2.5."""

FRAMES_HELD = 16_384
"""Frames walked before their pages are let go, some 10 MB: a mapped file counts as memory where a limit is set."""


@dataclass(frozen=True)
class PlainMp3:
    num_frames: int
    samples_per_frame: int


def read_plain_mp3(path: Path) -> PlainMp3 | None:
    """The frames of the file, or None where it is not MPEG layer III from the first frame to the last, all of one
    kind."""
    if path.stat().st_size < 256:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _walk(data)


def _walk(data: mmap.mmap) -> PlainMp3 | None:
    at, end = _skip_id3(data), len(data)
    if data[end - 128 : end - 125] == b"TAG":
        end -= 128
    if at + 4 > end or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2 or data[at + 2] >> 2 & 3 == 3:
        return None
    kind, rate_bits, is_mono = data[at + 1] | 1, data[at + 2] & 0x0C, data[at + 3] >> 6 == 3
    version = kind >> 3 & 3
    if version not in _RATES_HZ:
        return None
    lengths = _frame_lengths(version, _RATES_HZ[version][rate_bits >> 2])
    num_frames = 0
    while at + 4 <= end:
        second, third = data[at + 1], data[at + 2]
        if data[at] != 0xFF or second | 1 != kind or third & 0x0C != rate_bits or (data[at + 3] >> 6 == 3) != is_mono:
            return None
        length = lengths[third >> 1]
        if not length:
            return None
        at += length
        num_frames += 1
        if num_frames % FRAMES_HELD == 0:
            data.madvise(mmap.MADV_DONTNEED)
    return PlainMp3(num_frames, 1152 if version == 3 else 576) if at == end else None


def _skip_id3(data: mmap.mmap) -> int:
    """The tag's size is in four bytes of seven bits."""
    if data[:3] != b"ID3":
        return 0
    size = data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9]
    return 10 + size + (10 if data[5] & 0x10 else 0)


def _frame_lengths(version: int, rate_hz: int) -> list[int]:
    """Bytes of a frame by the upper seven bits of its third byte: bit rate, sample rate, padding; 0 where that is
    not allowed."""
    table = _KBPS_MPEG1 if version == 3 else _KBPS_MPEG2
    factor = 144_000 if version == 3 else 72_000
    lengths = []
    for bits in range(128):
        kbps = table[bits >> 3] if bits >> 3 < len(table) else 0
        lengths.append(factor * kbps // rate_hz + (bits & 1) if kbps else 0)
    return lengths
