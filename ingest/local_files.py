"""Files of a local folder as recordings and clips: images, videos and music, in which no speech is looked for.

Each file is one recording; one that is in the corpus already is left alone. The text of a file, where there is any,
lies beside it as ``.txt``, or stands in a table.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    numbers_on_one_side,
)
from triforce.ingest.corpus.stats import list_recordings
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.datasets.captions import Captions, find_tables, read_captions
from triforce.ingest.errors import Rejected
from triforce.ingest.media.decode import decode
from triforce.ingest.media.pixels import Fit, decode_png, decode_video, fitted, frame_rate

logger = logging.getLogger(__name__)

Modality = Literal["image", "video", "music"]
ENDINGS: dict[str, frozenset[str]] = {
    "image": frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}),
    "video": frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}),
    "music": frozenset({".aac", ".aif", ".aiff", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav"}),
}
NO_TABLE = "none"
MAX_WARNINGS = 10
"""Rows of captions without a picture or text that are named one by one. Assumed."""


class ImportConfig(BaseModel):
    """Which files are imported, and how long a clip is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Modality
    source: str = Field(description="Name of the source in the corpus: lower-case letters, digits and dashes.")
    licence: str | None = Field(None, description="Licence of all the files, as their source states it.")
    author: str | None = Field(None, description="Author of all the files; a speaker label in later documents.")
    clip_s: float = Field(10.0, gt=0.1, le=60, description="Longest clip of music, seconds.")
    clip_frames: int = Field(16, ge=1, le=1024, description="Frames of a video clip; a shorter rest is left out.")
    side: int | None = Field(None, ge=8, le=4096, description="Side that images are brought to; null: as they are.")
    fit: Fit = Field("crop", description="With `side`: crop the middle of an image, or pad it with white.")
    captions: str | None = Field(
        None,
        description="Table of images and texts; null: metadata.csv or .jsonl in the folder; with these, or where "
        "it is 'none', the .txt beside a file without a row.",
    )
    columns: dict[str, str] = Field(default_factory=dict, description="Names of the table's columns: file, text.")

    @model_validator(mode="after")
    def _only_images(self) -> Self:
        given = [name for name in ("side", "captions", "columns") if getattr(self, name)]
        if self.modality != "image" and given:
            raise ValueError(f"{given[0]}: for images, not for {self.modality}; leave it out")
        return self


def import_folder(corpus: Corpus, folder: Path, config: ImportConfig) -> dict[str, int]:
    """Bring every file of the modality below ``folder`` into the corpus; return how many are new, known and rejected,
    and how many clips were written.

    With a table of captions also how many new files it has no text for, and how many of its rows give none. Raises
    ValueError where there is no such file, or the table cannot be understood.
    """
    check_source_name(config.source)
    endings = ENDINGS[config.modality]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not paths:
        raise ValueError(f"{folder}: no {config.modality} here; files end in {', '.join(sorted(endings))}")
    captions = _captions(folder, config)
    counts = {"new": 0, "known": 0, "rejected": 0, "clips": 0}
    if captions is not None:
        counts |= {"without_text": 0, "unused_rows": len(captions.problems)}
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
            texts = _texts(path, captions)
            clips = list(_READERS[config.modality](path, recording, config, texts))
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
        if captions is not None:
            counts["without_text"] += not texts
    return counts


def _captions(folder: Path, config: ImportConfig) -> Captions | None:
    """Read the table of captions, if there is one, and say what is wrong with its rows."""
    tables = find_tables(folder) if config.modality == "image" and config.captions is None else []
    if config.captions not in (None, NO_TABLE):
        tables = [Path(config.captions)]
    if not tables:
        if config.columns:
            raise ValueError(f"columns: {folder} has no metadata.csv or metadata.jsonl; name the table by --captions")
        return None
    captions = read_captions(tables, folder, config.columns)
    for problem in captions.problems[:MAX_WARNINGS]:
        logger.warning("%s", problem)
    if (more := len(captions.problems) - MAX_WARNINGS) > 0:
        logger.warning("and %d further rows of captions that give none", more)
    return captions


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


def _texts(path: Path, captions: Captions | None) -> list[str]:
    """Return the texts of a file: the table's, else that of the ``.txt`` beside it."""
    if captions is not None and (known := captions.texts.get(path.resolve())):
        return known
    beside = path.with_suffix(".txt")
    try:
        text = " ".join(beside.read_text(encoding="utf-8-sig").split()) if beside.is_file() else ""
    except UnicodeDecodeError as error:
        raise Rejected(RejectReason.BAD_METADATA, f"{beside.name} is not UTF-8: {error}") from error
    return [text] if text else []


def _image_clips(path: Path, recording: Recording, config: ImportConfig, texts: list[str]) -> Iterator[Clip]:
    """Yield a clip for each text, all with the same picture."""
    pixels = decode_png(path)
    if config.side is not None:
        pixels = fitted(pixels, config.side, config.fit)
    numbers = numbers_on_one_side(recording.recording_id)
    given: list[str | None] = [*texts] or [None]
    for number, text in zip(numbers, given, strict=False):
        yield image_clip(recording, number, pixels, **_about(recording, text))


def _video_clips(path: Path, recording: Recording, config: ImportConfig, texts: list[str]) -> Iterator[Clip]:
    frames, rate = decode_video(path), frame_rate(path)
    count = config.clip_frames if len(frames) >= config.clip_frames else len(frames)
    for start in range(0, len(frames) - count + 1, count):
        yield video_clip(recording, start, frames[start : start + count], rate, **_about(recording, *texts))


def _music_clips(path: Path, recording: Recording, config: ImportConfig, texts: list[str]) -> Iterator[Clip]:
    samples = np.concatenate(list(decode(path)))
    longest = round(config.clip_s * SAMPLE_RATE_HZ)
    for start in range(0, len(samples), longest):
        part = samples[start : start + longest]
        if start and len(part) < longest // 4:  # a scrap at the end
            break
        yield sound_clip(recording, start, part, modality="music", **_about(recording, *texts))


_READERS: dict[str, Callable[[Path, Recording, ImportConfig, list[str]], Iterator[Clip]]] = {
    "image": _image_clips,
    "video": _video_clips,
    "music": _music_clips,
}


def _about(recording: Recording, text: str | None = None) -> dict[str, str | None]:
    """Return the columns that clips of every modality have."""
    return {"text": text, "asr_model": None if text is None else TRANSCRIPT, "speaker": recording.author}
