"""Which media formats are read, and what a file of each is called.

FFmpeg tells a format by the bytes. It is asked for these formats alone and may open no other file: a playlist called
``talk.mp3`` would have it read whatever file or address the playlist names.
"""

from __future__ import annotations

FORMATS = {
    "mp3": "mp3",
    "mov,mp4,m4a,3gp,3g2,mj2": "m4a",
    "matroska,webm": "webm",
    "ogg": "ogg",
    "flac": "flac",
    "wav": "wav",
    "aiff": "aiff",
    "aac": "aac",
    "loas": "aac",
    "mpegts": "ts",
    "mpeg": "mpg",
    "asf": "wma",
    "avi": "avi",
    "flv": "flv",
    "caf": "caf",
    "w64": "w64",
    "au": "au",
    "voc": "voc",
    "nistsphere": "sph",
    "amr": "amr",
    "amrnb": "amr",
    "amrwb": "amr",
    "gsm": "gsm",
    "g722": "g722",
    "ac3": "ac3",
    "eac3": "ac3",
    "dts": "dts",
    "ape": "ape",
    "wv": "wv",
    "tta": "tta",
    "tak": "tak",
    "mpc": "mpc",
    "mpc8": "mpc",
    "rm": "rm",
    "oma": "oma",
    "dsf": "dsf",
    "nut": "nut",
    "xwma": "xwma",
    "qcp": "qcp",
}
"""FFmpeg's name of each format, and the file ending."""

OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
"""How FFmpeg opens what strangers made."""

HEADERLESS = {".g722": "g722"}
"""FFmpeg's names of formats without a header, by file ending: nothing in the file tells what it is."""

HEAD_BYTES = 64
"""Number of bytes that suffice for `has_signature`."""

_SIGNATURES = (b"ID3", b"RIFF", b"OggS", b"fLaC", b"FORM", b"ADIF", b"\x1a\x45\xdf\xa3")


def has_signature(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` says it is audio or video: a broken one, where none opens it."""
    is_mpeg = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0
    return head.startswith(_SIGNATURES) or head[4:8] == b"ftyp" or is_mpeg


def extension_of(format_name: str, codec_name: str) -> str:
    """Return the file ending for a format by FFmpeg's name: that of Opus in Ogg is its own."""
    return "opus" if (format_name, codec_name) == ("ogg", "opus") else FORMATS[format_name]
