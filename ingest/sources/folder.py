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
from triforce.ingest.sources.base import LocalMedia, SourceKind
from triforce.ingest.sources.pages import Pages

ENDINGS = (".mp3", ".m4a", ".m4b", ".flac", ".ogg", ".oga", ".opus", ".wav", ".aac", ".webm", ".aiff", ".mka")

MAX_CHAPTERS = 2000
"""Most chapters of one file; the Bible has 1 189. Assumed."""

CHAPTER_FAULT = "chapter_fault"
"""Metadata key of a fault in a file's chapter table, found when it is listed and put on record when it is fetched."""


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
        with av.open(str(path), metadata_errors="ignore") as container:
            tags, chapters = dict(container.metadata), check_chapters(container)
    except Rejected as rejection:
        tags, chapters = {CHAPTER_FAULT: rejection.detail}, []
    except av.FFmpegError:
        tags, chapters = {}, []  # `fetch` meets the same, and puts it on record
    if len(chapters) < 2:
        yield _recording(name, path, source, tags, None)
    for number, chapter in enumerate(chapters if len(chapters) > 1 else [], start=1):
        yield _recording(name, path, source, tags, (number, *chapter))


def check_chapters(container: av.container.InputContainer) -> list[tuple[float, float, str]]:
    """Return start and end in seconds and title of each chapter; `Rejected` for a table that no book could have."""
    chapters = container.chapters()
    if len(chapters) > MAX_CHAPTERS:
        raise Rejected(RejectReason.BAD_METADATA, f"{len(chapters)} chapters in one file, the limit is {MAX_CHAPTERS}")
    found = [(float(row["start"] * row["time_base"]), float(row["end"] * row["time_base"]), row) for row in chapters]
    last_s = (container.duration or 0) / av.time_base + 1.0
    for number, (start_s, end_s, _) in enumerate(found):
        earliest_s = found[number - 1][1] - 0.1 if number else 0.0
        if not earliest_s <= start_s < end_s <= last_s:
            raise Rejected(
                RejectReason.BAD_METADATA,
                f"chapter {number + 1} claims {start_s:.1f} to {end_s:.1f} s in a file of {last_s - 1:.1f} s",
            )
    return [(start_s, end_s, row["metadata"].get("title", "")) for start_s, end_s, row in found]


def _recording(
    name: str, path: Path, source: AudiobookSource, tags: dict[str, str], chapter: tuple[int, float, float, str] | None
) -> Recording:
    readable = storage.readable(name)
    source_id = f"{readable}#{chapter[0]}" if chapter else readable
    metadata = {"file": readable} | {key: value for key, value in tags.items() if key == CHAPTER_FAULT}
    if chapter:
        metadata |= {"chapter": str(chapter[0]), "start_s": f"{chapter[1]:.3f}", "end_s": f"{chapter[2]:.3f}"}
    lower = {key.lower(): value for key, value in tags.items()}
    return Recording(
        recording_id=make_recording_id(source.name, source_id),
        source=source.name,
        source_kind=source.kind,
        source_id=source_id,
        url=f"{path.absolute().as_uri()}{f'#chapter={chapter[0]}' if chapter else ''}",
        title=(chapter[3] if chapter else lower.get("title")) or path.stem,
        author=lower.get("artist") or lower.get("album_artist"),
        collection=lower.get("album") or (path.parent.name if "/" in name else None),
        licence=source.licence or lower.get("copyright"),
        language=source.language,
        duration_s=chapter[2] - chapter[1] if chapter else None,
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
    if CHAPTER_FAULT in recording.metadata:
        raise Rejected(RejectReason.BAD_METADATA, f"{path}: {recording.metadata[CHAPTER_FAULT]}")
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
        with av.open(str(path)) as source, av.open(str(target), "w", format="mp4", options=options) as output:
            stream = source.streams.audio[0]
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
    except (av.FFmpegError, IndexError) as error:
        raise Rejected(RejectReason.UNDECODABLE, f"{path}: chapter from {start_s:.1f} s: {error}") from error
