"""Which packs a folder of a corpus has, what they hold, and which of them counts for a file.

What packs hold is remembered in ``state/source=<s>/<clips|recordings>-packs/`` (`file_index`), which opens each pack
once; a process keeps it in memory, and looks whether the packs are still the same.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import threading
import time
import zipfile
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from triforce.ingest import storage
from triforce.ingest.corpus.file_index import FileIndex
from triforce.ingest.corpus.packs.pack_file import Section, SectionFile, place_of, read_sections

FOLDER = "packed"
"""Folder of packs, beside the files that are by themselves."""
SCHEMA = pa.schema(
    [
        ("names", pa.list_(pa.string())),
        ("offsets", pa.list_(pa.int64())),
        ("sizes", pa.list_(pa.int64())),
        ("crcs", pa.list_(pa.int64())),
    ]
)


@dataclass
class Packs:
    """What the packs of a folder hold, as of the last look."""

    folder: str
    names: list[str] = field(default_factory=list)
    """The packs that count, in order: of a file that several of them have the last one's counts."""
    contents: dict[str, dict[str, Section]] = field(default_factory=dict)
    """By a pack's name what it holds, in order."""
    holders: dict[str, str] = field(default_factory=dict)
    """By a file's name the pack whose content of it counts."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _looked_s: float = 0.0
    _seen_changed_s: float | None = None

    def look(self, *, older_than_s: float = 0.0) -> Packs:
        """Look which packs there are now: one listing where they are the same, and none where a local folder has not
        changed since, or the last look at a store is less than ``older_than_s`` ago. Packs that a killed process
        replaced and left are removed."""
        with self._lock:
            now, changed_s = time.time(), self._changed_s()
            is_known = now - self._looked_s < older_than_s if changed_s is None else changed_s == self._seen_changed_s
            if is_known:
                return self
            names, superseded = current(storage.list_files(storage.join(self.folder, FOLDER), ".zip"))
            if names != self.names:
                contents = self._read(names)
                holders = {file: name for name, files in contents.items() for file in files}
                self.names, self.contents, self.holders = names, contents, holders
            self._looked_s = now
            self._seen_changed_s = changed_s if changed_s is not None and now - changed_s > storage.YOUNG_S else None
        for name in superseded:
            with contextlib.suppress(OSError):
                storage.remove(self.uri(name))
        return self

    def _changed_s(self) -> float | None:
        """When a pack last came or went; None where only a listing tells."""
        folder = self.uri("")
        if not storage.is_local(folder):
            return None
        try:
            return os.stat(storage.resolve(folder)[1]).st_mtime
        except FileNotFoundError:
            return None

    def _read(self, names: list[str]) -> dict[str, dict[str, Section]]:
        batches = _index(self.folder).batches() if names else ()
        known = {f"{row['name']}.zip": row for batch in batches for row in batch.to_pylist()}
        contents: dict[str, dict[str, Section]] = {}
        for name in names:
            if row := known.get(name):  # else it was replaced since the listing
                columns = (row[column] for column in SCHEMA.names)
                contents[name] = {file: Section(*place) for file, *place in zip(*columns, strict=True)}
        return contents

    def sections(self) -> dict[str, Section]:
        """Return where the content of each file lies that counts, as of one look."""
        with self._lock:
            return {file: self.contents[pack][file] for file, pack in self.holders.items()}

    def find(self, file: str) -> tuple[str, Section] | None:
        """Return the pack whose content of a file counts, and where it lies; None where the file is in no pack."""
        pack = self.holders.get(file)
        section = self.contents.get(pack, {}).get(file) if pack else None
        return (pack, section) if pack and section else None

    def uri(self, pack: str) -> str:
        return storage.join(self.folder, FOLDER, pack)


@functools.lru_cache(maxsize=4096)
def packs_of(folder: str) -> Packs:
    """Return what this process knows of a folder's packs; see `Packs.look`."""
    return Packs(folder)


def current(names: list[str]) -> tuple[list[str], list[str]]:
    """Return the packs that count, in order, and those that others have replaced."""
    newest: dict[int, tuple[int, str]] = {}
    ours = {name: place for name in names if (place := place_of(name))}
    for name, (order, generation) in ours.items():
        newest[order] = max(newest.get(order, (-1, "")), (generation, name))
    counting = [name for _, (_, name) in sorted(newest.items())]
    return counting, sorted(ours.keys() - counting)


def _index(folder: str) -> FileIndex:
    corpus, kind, source = folder.rsplit("/", 2)
    return FileIndex(
        storage.join(folder, FOLDER),
        storage.join(corpus, "state", source, f"{kind}-packs"),
        SCHEMA,
        _summarise,
        suffix=".zip",
        list_stamps=_pack_stamps,
    )


def _pack_stamps(folder: str, suffix: str) -> dict[str, str]:
    return dict.fromkeys(sorted(current(storage.list_files(folder, suffix))[0]), "whole")  # a pack never changes


def _summarise(uri: str, _: str) -> dict[str, Any]:
    fs, path = storage.resolve(uri)
    try:
        with fs.open(path, "rb") as file:
            sections = read_sections(file)
    except zipfile.BadZipFile as error:
        raise OSError(errno.EIO, f"no pack: {error}", uri) from error
    values = {name: [getattr(section, name) for section in sections.values()] for name in Section._fields}
    return {"names": list(sections), "offsets": values["offset"], "sizes": values["size"], "crcs": values["crc"]}


def forget_removed(folder: str) -> None:
    """Forget, at once and for good, what packs held that are not there any more."""
    _index(folder).purge()


def stamp_of(section: Section) -> str:
    """Return the stamp of a file in a pack."""
    return f"{section.crc:08x}-{section.size:x}"


def open_packed(packs: Packs, pack: str, section: Section) -> SectionFile:
    """Open a file that is in a pack, as plain bytes."""
    fs, path = storage.resolve(packs.uri(pack))
    return SectionFile(fs.open(path, "rb"), section)
