"""Files of a local folder as recordings and clips: pictures, films and music, which need no speech to be found in.

Each file is one recording, committed as everything in a corpus is; one that is there already is left alone. The text of
a file, where there is any, lies beside it as ``.txt``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from triforce.ingest import storage
from triforce.ingest.clips.clip_recording import encode_flac
from triforce.ingest.corpus.schema import (
    SAMPLE_RATE_HZ,
    Recording,
    RejectReason,
    Status,
    check_source_name,
    make_clip_id,
    make_recording_id,
)
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.decode import DecodeError, decode
from triforce.ingest.media.pixels import PixelError, decode_png, decode_video, encode_png, encode_video, frame_rate

logger = logging.getLogger(__name__)

Modality = Literal["image", "video", "music"]
ENDINGS: dict[str, frozenset[str]] = {
    "image": frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}),
    "video": frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}),
    "music": frozenset({".aac", ".aif", ".aiff", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav"}),
}


class ImportConfig(BaseModel):
    """What is read, and how long a clip is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Modality
    source: str = Field(description="Name of the source in the corpus: lower-case letters, digits and dashes.")
    licence: str | None = Field(None, description="Licence of all the files, as their source states it.")
    author: str | None = Field(None, description="Author of all the files; a speaker label in later documents.")
    clip_s: float = Field(10.0, gt=0.1, le=60, description="Longest clip of music, seconds.")
    clip_frames: int = Field(16, ge=1, le=1024, description="Frames of a clip of film; a shorter rest stays out.")


def import_folder(corpus: Corpus, folder: Path, config: ImportConfig) -> dict[str, int]:
    """Bring every file of the modality below ``folder`` into the corpus: how many are new, known, and rejected."""
    check_source_name(config.source)
    endings = ENDINGS[config.modality]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not paths:
        raise ValueError(f"{folder}: no {config.modality} here; files end in {', '.join(sorted(endings))}")
    done, counts = corpus.clipped_ids(config.source), {"new": 0, "known": 0, "rejected": 0, "clips": 0}
    for path in paths:
        recording = _file_recording(path, folder, config, corpus)
        if recording.recording_id in done:
            counts["known"] += 1
            continue
        try:
            rows = list(_READERS[config.modality](path, recording, config))
        except (PixelError, DecodeError) as error:
            logger.warning("%s: %s", path, error)
            rejected = dataclasses.replace(
                recording, status=Status.REJECTED, reason=RejectReason.UNDECODABLE, detail=str(error)
            )
            corpus.write_recording(rejected)
            corpus.write_clips(rejected, [])
            counts["rejected"] += 1
            continue
        with storage.atomic_file(storage.join(corpus.uri, recording.media_path)) as target:
            shutil.copyfile(path, target)
        corpus.write_recording(recording)
        counts["clips"] += corpus.write_clips(recording, rows)
        counts["new"] += 1
    return counts


def import_images(
    corpus: Corpus, source: str, images: Iterable[tuple[str, np.ndarray, str | None]], *, licence: str | None = None
) -> int:
    """Bring arrays into the corpus, each ``(name, (H, W, 3) or (H, W) uint8, text)``; how many were new."""
    check_source_name(source)
    done, num_new = corpus.clipped_ids(source), 0
    for name, image, text in images:
        data, recording_id = encode_png(image), make_recording_id(source, name)
        recording = Recording(
            recording_id=recording_id,
            source=source,
            source_kind="array",
            source_id=name,
            url=f"array:{name}",
            title=name,
            licence=licence,
            media_path=corpus.media_path(source, recording_id, "png"),
            num_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        if recording.recording_id in done:
            continue
        storage.write_bytes(storage.join(corpus.uri, recording.media_path), data)
        corpus.write_recording(recording)
        corpus.write_clips(recording, [_image_row(recording, data, text)])
        done.add(recording_id)
        num_new += 1
    return num_new


def _file_recording(path: Path, folder: Path, config: ImportConfig, corpus: Corpus) -> Recording:
    name = path.relative_to(folder).as_posix()
    recording_id = make_recording_id(config.source, name)
    return Recording(
        recording_id=recording_id,
        source=config.source,
        source_kind="file",
        source_id=name,
        url=path.absolute().as_uri(),
        title=name,
        author=config.author,
        licence=config.licence,
        media_path=corpus.media_path(config.source, recording_id, path.suffix.lower().lstrip(".")),
        num_bytes=path.stat().st_size,
        sha256=storage.sha256_of(path),
    )


def _text_beside(path: Path) -> str | None:
    beside = path.with_suffix(".txt")
    return " ".join(beside.read_text(encoding="utf-8").split()) if beside.is_file() else None


def _image_rows(path: Path, recording: Recording, config: ImportConfig) -> Iterator[dict]:
    yield _image_row(recording, encode_png(decode_png(path)), _text_beside(path))


def _image_row(recording: Recording, data: bytes, text: str | None) -> dict:
    pixels = {"image": {"bytes": data, "path": None}, "modality": "image"}
    return _row(recording, 0, 1, 1, text, recording.author) | pixels


def _video_rows(path: Path, recording: Recording, config: ImportConfig) -> Iterator[dict]:
    frames, rate = decode_video(path), frame_rate(path)
    count = config.clip_frames if len(frames) >= config.clip_frames else len(frames)
    for start in range(0, len(frames) - count + 1, count):
        data = encode_video(frames[start : start + count], rate)
        row = _row(recording, start, start + count, round(rate), _text_beside(path), recording.author)
        yield row | {"video": {"bytes": data, "path": None}, "modality": "video"}


def _music_rows(path: Path, recording: Recording, config: ImportConfig) -> Iterator[dict]:
    waveform = np.concatenate(list(decode(path)))
    longest = round(config.clip_s * SAMPLE_RATE_HZ)
    for start in range(0, len(waveform), longest):
        part = waveform[start : start + longest]
        if start and len(part) < longest // 4:  # a scrap at the end
            break
        row = _row(recording, start, start + len(part), SAMPLE_RATE_HZ, _text_beside(path), recording.author)
        yield row | {"audio": {"bytes": encode_flac(part), "path": None}, "modality": "music"}


_READERS: dict[str, Callable[[Path, Recording, ImportConfig], Iterator[dict]]] = {
    "image": _image_rows,
    "video": _video_rows,
    "music": _music_rows,
}


def _row(recording: Recording, start: int, end: int, rate_hz: int, text: str | None, speaker: str | None) -> dict:
    """Columns that every modality has; positions count samples of sound, frames of film."""
    return {
        "clip_id": make_clip_id(recording.recording_id, start),
        "start_sample": start,
        "end_sample": end,
        "sample_rate_hz": rate_hz,
        "duration_s": (end - start) / rate_hz,
        "text": text,
        "asr_model": None if text is None else "transcript",
        "speaker": speaker,
    }
