"""Files of a corpus, each by itself or in a pack, behind the address that it has by itself.

::

    <corpus>/clips/source=<s>/<recording_id>.parquet        a file by itself
    <corpus>/clips/source=<s>/packed/<order>-...zip         packs of such files (`pack_file`); beside rows the same

A file by itself goes before one of its name in a pack, and a later pack before an earlier one. So whatever writes a
file writes it as if there were no packs. A pack's one upload, or rename, is what switches all of its files at once:
readers see them as they were or as they are.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
from fsspec import AbstractFileSystem

from triforce.ingest import storage
from triforce.ingest.corpus.packs.pack_file import Section, SectionFile
from triforce.ingest.corpus.packs.pack_list import FOLDER, Packs, open_packed, packs_of, stamp_of

ENDING = ".parquet"
LOOKS = 3
"""Looks for a file that is being packed, or taken out of a pack, meanwhile. Assumed."""
REMOTE_LOOK_S = 1.0
"""Time in seconds for which a look at a store's packs holds for a process that reads pack after pack. Assumed."""


def list_stamps(folder: str, suffix: str = ENDING) -> dict[str, str]:
    """Return the names of a folder's files, by themselves and packed, each with a stamp that changes with the file."""
    single, packs = _consistent(folder, storage.list_stamps, suffix)
    found = {name: stamp_of(section) for name, section in packs.sections().items()} | single
    return {name: found[name] for name in sorted(found)}


def list_files(folder: str, suffix: str = ENDING) -> list[str]:
    """Return the sorted names of a folder's files, by themselves and packed."""
    single, packs = _consistent(folder, storage.list_files, suffix)
    return sorted({*single, *packs.holders}) if packs.holders else list(single)


def _consistent(folder: str, listing: Callable[[str, str], Any], suffix: str) -> tuple[Any, Packs]:
    """Return what is by itself in a folder and what is in its packs, so that nothing on its way is missed: what comes
    into a pack, or out of it, is for a while in both. Where nothing was ever packed it takes one listing."""
    single = _single_if_unpacked(folder, listing, suffix)
    if single is not None:
        return single, Packs(folder)
    packs = packs_of(folder).look()
    for _ in range(LOOKS):
        names, single = packs.names, listing(folder, suffix)
        if packs.look().names == names:
            break
    return single, packs


def _single_if_unpacked(folder: str, listing: Callable[[str, str], Any], suffix: str) -> Any:
    """Return a folder's listing if there was no folder of packs when it ended, else None."""
    if storage.is_local(folder):
        single = listing(folder, suffix)
        return None if os.path.isdir(storage.resolve(storage.join(folder, FOLDER))[1]) else single
    entries = storage.list_entries(folder)  # the packs' folder is named in it, on the last of its pages
    if FOLDER in entries:
        return None
    return {name: stamp for name, stamp in entries.items() if stamp is not None and name.endswith(suffix)}


def exists(uri: str) -> bool:
    """Whether there is a file at ``uri``, by itself or packed."""
    folder, _, name = uri.rpartition("/")
    packs = packs_of(folder)
    if storage.exists(uri) or packs.look(older_than_s=REMOTE_LOOK_S if name in packs.holders else 0.0).find(name):
        return True
    return storage.exists(uri)  # it may have been taken out of a pack between the two looks


@contextlib.contextmanager
def open_file(uri: str, *, block_size: int | None = None) -> Iterator[Any]:
    """Yield the file at ``uri``, by itself or packed, for Arrow to read; raises FileNotFoundError where there is none.

    Local files are opened by Arrow itself, packed ones as memory of the pack. Of an object store ``block_size`` bytes
    are read at a time.
    """
    options = {} if block_size is None else {"block_size": block_size}
    file, was_packed = None, True
    for look in range(LOOKS):
        with contextlib.suppress(FileNotFoundError):
            file = _open_whole(uri, options)
            break
        if not was_packed:  # at the look before, and since then it is not by itself either
            break
        folder, _, name = uri.rpartition("/")
        # A process that reads pack after pack need not list a store's packs for each file.
        packs = packs_of(folder)
        packs.look(older_than_s=REMOTE_LOOK_S if not look and name in packs.holders else 0.0)
        found = packs.find(name)
        was_packed = found is not None
        with contextlib.suppress(FileNotFoundError):
            if found is not None:
                file = _open_section(packs.uri(found[0]), found[1], options)
                break
    if file is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri)
    with file:
        yield file


def _open_whole(uri: str, options: dict[str, Any]) -> Any:
    fs, path = storage.resolve(uri)
    return pa.OSFile(path) if storage.is_local(uri) else fs.open(path, "rb", **options)


def _open_section(uri: str, section: Section, options: dict[str, Any]) -> Any:
    if not storage.is_local(uri):
        fs, path = storage.resolve(uri)
        return SectionFile(fs.open(path, "rb", **options), section)
    with pa.memory_map(storage.resolve(uri)[1]) as pack:
        pack.seek(section.offset)
        return pa.BufferReader(pack.read_buffer(section.size))


def arrow_filesystem(corpus_uri: str, uris: list[str]) -> pafs.FileSystem:
    """Return the filesystem by which an Arrow dataset of these files of a corpus opens them, packed ones too."""
    if not any(packs_of(folder).look().names for folder in {uri.rpartition("/")[0] for uri in uris}):
        return storage.arrow_filesystem(corpus_uri)[0]
    return pafs.PyFileSystem(pafs.FSSpecHandler(_PackedFiles(corpus_uri)))


class _PackedFiles(AbstractFileSystem):
    """The files of a corpus by the paths that they have by themselves, for reading."""

    cachable = False

    def __init__(self, corpus_uri: str) -> None:
        super().__init__()
        self._fs, self._is_local = storage.resolve(corpus_uri)[0], storage.is_local(corpus_uri)

    def _found(self, path: str) -> tuple[Packs, str, Section] | None:
        folder, _, name = (path if self._is_local else self._fs.unstrip_protocol(path)).rpartition("/")
        packs = packs_of(folder)
        packs.look(older_than_s=REMOTE_LOOK_S if name in packs.holders else 0.0)
        found = packs.find(name)
        return found and (packs, *found)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        try:
            return self._fs.info(path)
        except FileNotFoundError:
            if found := self._found(path):
                return {"name": path, "size": found[2].size, "type": "file"}
            raise

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        try:
            return self._fs.open(path, mode)
        except FileNotFoundError:
            if found := self._found(path):
                return open_packed(*found)
            raise
