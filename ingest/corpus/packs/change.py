"""Take files out of packs, and replace files in them: a pack is written again without them, which switches it at once.

All of it is done under `triforce.ingest.locks.maintenance`, which the caller holds.
"""

from __future__ import annotations

import functools
import io
import logging
import shutil
import uuid
from collections.abc import Collection, Mapping

from triforce.ingest import storage
from triforce.ingest.corpus.packs.pack_file import (
    BLOCK_BYTES,
    CheckedCopy,
    Content,
    RottenFile,
    Section,
    pack_name,
    place_of,
    write_pack,
)
from triforce.ingest.corpus.packs.pack_list import FOLDER, Packs, forget_removed, open_packed, packs_of

logger = logging.getLogger(__name__)


def remove_files(folder: str, names: Collection[str]) -> None:
    """Remove files of ``folder`` for good, by themselves and in packs; those that are not there are no error."""
    replace_packed(folder, dict.fromkeys(names))
    for name in names:
        storage.remove(storage.join(folder, name))


def replace_packed(folder: str, contents: Mapping[str, bytes | None]) -> set[str]:
    """Replace the contents of files that are in packs of ``folder``, in all of them; None takes a file out.

    Returns the names that were in a pack. Files by themselves stay as they are.
    """
    packs = packs_of(folder).look()
    storage.remove_stale_temporaries(storage.join(folder, FOLDER), older_than_s=0)  # of whom a kill ended in here
    found = contents.keys() & packs.holders.keys()
    if found:
        for name, sections in packs.contents.items():  # what a later pack has of a file, an earlier one may have too
            if hit := sections.keys() & found:
                _write_again(packs, name, sections, {file: contents[file] for file in hit})
        packs.look()
        forget_removed(folder)
    return found


def _write_again(
    packs: Packs, pack: str, sections: Mapping[str, Section], contents: Mapping[str, bytes | None]
) -> None:
    """Replace a pack by its next generation, with these contents in it, or remove it where nothing is left."""
    files = []
    for name, section in sections.items():
        if name not in contents:
            files.append(packed_content(packs, pack, name, section))
        elif (data := contents[name]) is not None:
            files.append(Content(name, len(data), functools.partial(io.BytesIO, data)))
    order, generation = place_of(pack) or (0, 0)
    publish(packs, pack_name(order, generation + 1, uuid.uuid4().hex[:12]), files)
    storage.remove(packs.uri(pack))


def packed_content(packs: Packs, pack: str, name: str, section: Section) -> Content:
    """Return a file of a pack to be packed again; it is compared with its checksum on the way."""

    def opened() -> CheckedCopy:
        return CheckedCopy(open_packed(packs, pack, section), section, packs.uri(pack), name)

    return Content(name, section.size, opened)


def publish(packs: Packs, name: str, files: list[Content]) -> dict[str, Section]:
    """Write a pack, if any of the files can go into it; from then on it counts.

    A file that rotted in its pack goes by itself, as it is: it must not keep others from being removed.
    """
    while files:
        try:
            with storage.atomic_file(storage.join(packs.folder, FOLDER, name)) as path:
                return write_pack(path, files)
        except RottenFile as rotten:
            files = [file for file in files if file.name != rotten.name]
            found = packs.find(rotten.name)
            if found and packs.uri(found[0]) == rotten.pack:  # else another pack's content of it counts
                take_out(packs, rotten.name, *found)
    return {}


def take_out(packs: Packs, name: str, pack: str, section: Section) -> None:
    """Write a file of a pack by itself, if it is not there, byte for byte; warn where it has another checksum."""
    uri = storage.join(packs.folder, name)
    if storage.exists(uri):
        return
    with storage.atomic_file(uri) as path, path.open("wb") as target:
        try:
            with packed_content(packs, pack, name, section).open() as opened:
                shutil.copyfileobj(opened, target, BLOCK_BYTES)
        except RottenFile as rotten:  # at the end, when all is written
            logger.warning("%s", rotten)
