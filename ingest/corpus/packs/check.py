"""Find packs that cannot be read and files in packs that rotted, and save what can be saved."""

from __future__ import annotations

import logging
import shutil
import struct
import zipfile
from collections.abc import Iterator
from typing import IO

from triforce.ingest import storage
from triforce.ingest.corpus.packs.change import packed_content
from triforce.ingest.corpus.packs.overlay import ENDING
from triforce.ingest.corpus.packs.pack_file import (
    BLOCK_BYTES,
    LOCAL_HEADER_BYTES,
    MAX_FILE_BYTES,
    CheckedCopy,
    RottenFile,
    Section,
    SectionFile,
    place_of,
    read_sections,
)
from triforce.ingest.corpus.packs.pack_list import FOLDER, current, packs_of

logger = logging.getLogger(__name__)

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
"""Signature, version, flags, method, time, date, checksum, sizes packed and plain, lengths of name and extra field (ZIP
application note 6.3.10, 4.3.7)."""


def broken_packs(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each pack of a folder that cannot be read, with what is wrong with it."""
    for name in storage.list_files(storage.join(folder, FOLDER), ".zip"):
        fs, path = storage.resolve(storage.join(folder, FOLDER, name))
        try:
            with fs.open(path, "rb") as file:
                read_sections(file)
            if place_of(name) is None:
                yield name, "no name of a pack; it holds nothing that is read"
        except FileNotFoundError:
            continue  # replaced since the listing
        except (zipfile.BadZipFile, OSError) as error:
            yield name, str(error)


def rotten_files(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each file that counts and has another checksum than its pack says, with the pack's address."""
    packs = packs_of(folder).look()
    single = set(storage.list_files(folder, ENDING))
    for name, section in packs.sections().items():
        if name in single or (pack := packs.holders.get(name)) is None:
            continue
        try:
            with packed_content(packs, pack, name, section).open() as file:
                while file.read(BLOCK_BYTES):
                    pass
        except FileNotFoundError:
            continue  # taken out meanwhile
        except RottenFile as rotten:
            yield name, rotten.pack


def remove_broken(folder: str, name: str) -> int:
    """Remove a pack whose directory cannot be read; the files in it that are whole, and nowhere else, are by themselves
    from then on. Returns their number. The caller holds `triforce.ingest.locks.maintenance`.

    Raises OSError where the disk or the store does not give the pack: then it stays.
    """
    names = storage.list_files(storage.join(folder, FOLDER), ".zip")
    uri = storage.join(folder, FOLDER, name)
    num_saved = 0
    if name in current(names)[0]:  # else another replaced it, perhaps to take a recording out
        known = set(storage.list_files(folder, ENDING))
        for other in current(names)[0]:
            known |= _names_in(storage.join(folder, FOLDER, other))
        fs, path = storage.resolve(uri)
        with fs.open(path, "rb") as file:
            entries = [entry for entry in _entries(file) if entry[0] not in known]
        num_saved = sum(_save(folder, uri, *entry) for entry in entries)
    storage.remove(uri)
    logger.warning("%s could not be read: %d files in it were whole and are by themselves now", uri, num_saved)
    return num_saved


def _names_in(uri: str) -> set[str]:
    fs, path = storage.resolve(uri)
    try:
        with fs.open(path, "rb") as file:
            return set(read_sections(file))
    except (FileNotFoundError, zipfile.BadZipFile):
        return set()


def _entries(file: IO[bytes]) -> Iterator[tuple[str, Section]]:
    """Yield what stands in a pack up to where it is damaged, by the headers in front of the files."""
    offset = 0
    while True:
        file.seek(offset)
        header = file.read(LOCAL_HEADER_BYTES)
        if len(header) < LOCAL_HEADER_BYTES:
            return
        signature, _, _, method, _, _, crc, _, size, name_length, extra_length = LOCAL_HEADER.unpack(header)
        name = file.read(name_length).decode("utf-8", "replace")
        is_ours = signature == b"PK\3\4" and method == zipfile.ZIP_STORED and size <= MAX_FILE_BYTES
        if not is_ours or "/" in name or not name.endswith(ENDING):
            return
        offset += LOCAL_HEADER_BYTES + name_length + extra_length
        yield name, Section(offset, size, crc)
        offset += size


def _save(folder: str, pack: str, name: str, section: Section) -> bool:
    """Write a file of a pack by itself if it is whole; return whether it was."""
    fs, pack_path = storage.resolve(pack)
    try:
        with (
            storage.atomic_file(storage.join(folder, name)) as path,
            path.open("wb") as target,
            CheckedCopy(SectionFile(fs.open(pack_path, "rb"), section), section, pack, name) as source,
        ):
            shutil.copyfileobj(source, target, BLOCK_BYTES)
    except RottenFile:
        return False
    return True
