"""Recordings of a voice, read as waveforms for voice prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from triforce.ingest.media.decode import decode
from triforce.ingest.media.samples import to_float32


def read_waveform(path: Path, sample_rate_hz: int) -> np.ndarray:
    """Read any sound file as ``(N,)`` float32 mono in -1 to 1."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a recording of speech")
    return to_float32(np.concatenate(list(decode(path, sample_rate_hz))))


def read_voices(folder: str | None, sample_rate_hz: int) -> dict[str, np.ndarray]:
    """Read each recording in ``folder`` as a voice of its file's name without the ending; {} for no folder."""
    if folder is None:
        return {}
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of voices")
    paths = sorted(path for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith("."))
    return {path.stem: read_waveform(path, sample_rate_hz) for path in paths}
