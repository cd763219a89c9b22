"""Files of a local folder as recordings and clips: images, videos and music, in which no speech is looked for.

Each file is one recording; one that is in the corpus already is left alone. The text of a file, where there is any,
lies beside it as ``.txt``.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from triforce.ingest import storage
from triforce.ingest.clips.make_clip import image_clip, sound_clip, video_clip
from triforce.ingest.corpus.records import (
    FILE,
    SAMPLE_RATE_HZ,
    TRANSCRIPT,
    Clip,
    Recording,
    RejectReason,
    Status,
    check_source_name,
    make_recording_id,
)
from triforce.ingest.corpus.stats import list_recordings
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.media.decode import decode
from triforce.ingest.media.pixels import decode_png, decode_video, frame_rate

logger = logging.getLogger(__name__)

Modality = Literal["image", "video", "music"]
ENDINGS: dict[str, frozenset[str]] = {
    "image": frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}),
    "video": frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}),
    "music": frozenset({".aac", ".aif", ".aiff", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav"}),
}


class ImportConfig(BaseModel):
    """Which files are imported, and how long a clip is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Modality
    source: str = Field(description="Name of the source in the corpus: lower-case letters, digits and dashes.")
    licence: str | None = Field(None, description="Licence of all the files, as their source states it.")
    author: str | None = Field(None, description="Author of all the files; a speaker label in later documents.")
    clip_s: float = Field(10.0, gt=0.1, le=60, description="Longest clip of music, seconds.")
    clip_frames: int = Field(16, ge=1, le=1024, description="Frames of a video clip; a shorter rest is left out.")


def import_folder(corpus: Corpus, folder: Path, config: ImportConfig) -> dict[str, int]:
    """Bring every file of the modality below ``folder`` into the corpus; return how many are new, known and rejected,
    and how many clips were written."""
    check_source_name(config.source)
    endings = ENDINGS[config.modality]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not paths:
        raise ValueError(f"{folder}: no {config.modality} here; files end in {', '.join(sorted(endings))}")
    counts = {"new": 0, "known": 0, "rejected": 0, "clips": 0}
    done = corpus.clipped_ids(config.source) | {
        row.recording_id
        for row in list_recordings(corpus, source=config.source, reason=RejectReason.FORBIDDEN)
        if "removed_at" in row.metadata  # what was taken down stays out
    }
    for path in paths:
        recording = _file_recording(path, folder, config, corpus)
        if recording.recording_id in done:
            counts["known"] += 1
            continue
        try:
            clips = list(_READERS[config.modality](path, recording, config))
        except Rejected as error:
            logger.warning("%s: %s", path, error)
            counts["rejected"] += 1
            if not error.reason.transient:  # else the next import looks at the file again
                outcome = {"status": Status.REJECTED, "reason": error.reason.value, "detail": error.detail}
                rejected = dataclasses.replace(recording, **outcome)
                corpus.write_recording(rejected)
                corpus.write_clips(rejected, [])
            continue
        with storage.atomic_file(storage.join(corpus.uri, recording.media_path)) as target:
            shutil.copyfile(path, target)
        corpus.write_recording(recording)
        counts["clips"] += corpus.write_clips(recording, clips)
        counts["new"] += 1
    return counts


def _file_recording(path: Path, folder: Path, config: ImportConfig, corpus: Corpus) -> Recording:
    name = storage.readable(path.relative_to(folder).as_posix())
    recording_id = make_recording_id(config.source, name)
    return Recording(
        recording_id=recording_id,
        source=config.source,
        source_kind=FILE,
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


def _image_clips(path: Path, recording: Recording, config: ImportConfig) -> Iterator[Clip]:
    yield image_clip(recording, 0, decode_png(path), **_about(path, recording))


def _video_clips(path: Path, recording: Recording, config: ImportConfig) -> Iterator[Clip]:
    frames, rate = decode_video(path), frame_rate(path)
    count = config.clip_frames if len(frames) >= config.clip_frames else len(frames)
    for start in range(0, len(frames) - count + 1, count):
        yield video_clip(recording, start, frames[start : start + count], rate, **_about(path, recording))


def _music_clips(path: Path, recording: Recording, config: ImportConfig) -> Iterator[Clip]:
    samples = np.concatenate(list(decode(path)))
    longest = round(config.clip_s * SAMPLE_RATE_HZ)
    for start in range(0, len(samples), longest):
        part = samples[start : start + longest]
        if start and len(part) < longest // 4:  # a scrap at the end
            break
        yield sound_clip(recording, start, part, modality="music", **_about(path, recording))


_READERS: dict[str, Callable[[Path, Recording, ImportConfig], Iterator[Clip]]] = {
    "image": _image_clips,
    "video": _video_clips,
    "music": _music_clips,
}


def _about(path: Path, recording: Recording) -> dict[str, str | None]:
    """The columns that clips of every modality have."""
    text = _text_beside(path)
    return {"text": text, "asr_model": None if text is None else TRANSCRIPT, "speaker": recording.author}
