"""Audio files of a local folder. Chapters of an M4B book are recordings of their own, cut out without decoding."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import av

from triforce.ingest import storage
from triforce.ingest.config import AudiobookSource
from triforce.ingest.corpus.records import Recording, RejectReason, Status, make_recording_id
from triforce.ingest.errors import Rejected
from triforce.ingest.media.chapters import Chapter, mend_chapters
from triforce.ingest.media.ffmpeg_errors import rejection
from triforce.ingest.media.frames import AudioReader, open_media
from triforce.ingest.sources.base import LocalMedia, SourceKind
from triforce.ingest.sources.pages import Pages

ENDINGS = (".mp3", ".m4a", ".m4b", ".flac", ".ogg", ".oga", ".opus", ".wav", ".aac", ".webm", ".aiff", ".mka")

CHAPTER_FAULT = "chapter_fault"
"""Metadata key of a fault in a file's chapter table, which was mended."""


class Folder(SourceKind[AudiobookSource]):
    """The audio files below a folder of this machine."""

    def listings(self, pages: Pages) -> Iterator[Iterator[Recording]]:
        yield self._files(pages)

    def bring(self, recording: Recording, target: Path) -> LocalMedia:
        """Copy the file, or the chapter of it, to ``target``."""
        num_bytes, sha256 = copy_file(recording, self.config, target, max_bytes=self.settings.max_bytes)
        return LocalMedia(recording, target, num_bytes, sha256)

    def is_same(self, recording: Recording, other: Recording) -> bool:
        """A file may have changed under its name: its bytes tell."""
        return False

    def _files(self, pages: Pages) -> Iterator[Recording]:
        """Yield files that are new by their names; those with chapters are opened once, and when they have changed."""
        for name in list_files(self.config):
            if not has_chapters(name):
                if make_recording_id(self.config.name, storage.readable(name)) not in pages.known:
                    yield from recordings(name, self.config)
                continue
            version = version_of(name, self.config)
            if pages.note_of(name).get("version") != version:
                pages.current = name
                yield from recordings(name, self.config)
                pages.note(name, version=version)


def list_files(source: AudiobookSource) -> list[str]:
    """Return the audio files below the folder as sorted relative paths; `Rejected` if there is no folder."""
    root = Path(source.path or "")
    if not source.path or not root.is_dir():
        raise Rejected(RejectReason.NOT_FOUND, f"{source.path}: no such folder")
    found: list[str] = []
    walked: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        if (place := os.path.realpath(folder)) in walked:
            folders.clear()  # linked to from elsewhere, or from inside itself
            continue
        walked.add(place)
        below = os.path.relpath(folder, root)
        prefix = "" if below == "." else f"{Path(below).as_posix()}/"
        found += [prefix + name for name in names if name.lower().endswith(ENDINGS) and not name.startswith(".")]
    return sorted(found)


def has_chapters(name: str) -> bool:
    """Whether a file of this name may hold several recordings, and must be opened to know."""
    return name.lower().endswith((".m4b", ".m4a"))


def version_of(name: str, source: AudiobookSource) -> str:
    """Return a text that changes when the file does: its size and time."""
    try:
        found = (Path(source.path) / name).stat()
    except OSError:
        return "gone"
    return f"{found.st_size} {found.st_mtime_ns}"


def recordings(name: str, source: AudiobookSource) -> Iterator[Recording]:
    """Yield the recordings in one file: itself, or its chapters."""
    path = Path(source.path) / name
    if not has_chapters(name):
        yield _recording(name, path, source, {}, None)
        return
    try:
        with open_media(path) as container:
            claimed = read_chapters(container)
            chapters, fault = mend_chapters(claimed, (container.duration or 0) / av.time_base)
            tags = container.metadata | ({CHAPTER_FAULT: fault} if fault else {})
    except (Rejected, OSError):
        tags, chapters = {}, []  # `fetch` meets the same, and puts it on record
    if not chapters:
        yield _recording(name, path, source, tags, None)
    for number, chapter in enumerate(chapters, start=1):
        yield _recording(name, path, source, tags, (number, chapter))


def read_chapters(container: av.container.InputContainer) -> list[Chapter]:
    """Return the chapters that a file's table claims."""
    return [
        Chapter(
            float(row["start"] * row["time_base"]),
            float(row["end"] * row["time_base"]),
            row["metadata"].get("title", ""),
        )
        for row in container.chapters()
    ]


def _recording(
    name: str, path: Path, source: AudiobookSource, tags: dict[str, str], numbered: tuple[int, Chapter] | None
) -> Recording:
    number, chapter = numbered or (0, None)
    readable = storage.readable(name)
    source_id = f"{readable}#{number}" if chapter else readable
    metadata = {"file": readable} | {key: value for key, value in tags.items() if key == CHAPTER_FAULT}
    if chapter:
        metadata |= {"chapter": str(number), "start_s": f"{chapter.start_s:.3f}", "end_s": f"{chapter.end_s:.3f}"}
    lower = {key.lower(): value for key, value in tags.items()}
    return Recording(
        recording_id=make_recording_id(source.name, source_id),
        source=source.name,
        source_kind=source.kind,
        source_id=source_id,
        url=f"{path.absolute().as_uri()}{f'#chapter={number}' if chapter else ''}",
        title=(chapter.title if chapter else lower.get("title")) or path.stem,
        author=lower.get("artist") or lower.get("album_artist"),
        collection=lower.get("album") or (path.parent.name if "/" in name else None),
        licence=source.licence or lower.get("copyright"),
        language=source.language,
        duration_s=chapter.end_s - chapter.start_s if chapter else None,
        status=Status.DISCOVERED,
        metadata=metadata,
    )


def copy_file(recording: Recording, source: AudiobookSource, target: Path, *, max_bytes: int) -> tuple[int, str]:
    """Copy the file, or the chapter of it, to ``target``; return its number of bytes and SHA-256.

    `Rejected` if the file is gone or too large.
    """
    path = Path(source.path) / recording.metadata["file"]
    if not path.is_file():  # a name that is no UTF-8: the address has its bytes
        path = Path(os.fsdecode(unquote_to_bytes(urlsplit(recording.url).path)))
    if not path.is_file():
        raise Rejected(RejectReason.NOT_FOUND, f"{path}: gone since it was listed")
    if path.stat().st_size > max_bytes:
        raise Rejected(RejectReason.TOO_LARGE, f"{path}: {path.stat().st_size} bytes, the limit is {max_bytes}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if "chapter" in recording.metadata:
        _cut_chapter(path, target, float(recording.metadata["start_s"]), float(recording.metadata["end_s"]))
        path = target
    digest = hashlib.sha256()
    with path.open("rb") as read, open(os.devnull if path == target else target, "wb") as write:
        while block := read.read(1 << 20):
            digest.update(block)
            write.write(block)
    return target.stat().st_size, digest.hexdigest()


def _cut_chapter(path: Path, target: Path, start_s: float, end_s: float) -> None:
    """Copy the packets of a chapter into a file of their own. The same input gives the same bytes."""
    try:
        options = {"fflags": "+bitexact"}
        with open_media(path) as source, av.open(str(target), "w", format="mp4", options=options) as output:
            stream = AudioReader(path, source).stream
            copy = output.add_stream_from_template(stream)
            source.seek(int(start_s * av.time_base), backward=True)
            first = None
            for packet in source.demux(stream):
                if packet.pts is None or packet.pts * stream.time_base < start_s:
                    continue
                if packet.pts * stream.time_base >= end_s:
                    break
                first = packet.pts if first is None else first
                packet.pts, packet.dts, packet.stream = packet.pts - first, packet.pts - first, copy
                output.mux(packet)
    except av.FFmpegError as error:
        raise rejection(path, f"cutting out the chapter from {start_s:.1f} s", error) from error
