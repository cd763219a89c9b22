"""Find packs that cannot be read."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator

from triforce.ingest import storage
from triforce.ingest.corpus.packs.pack_file import place_of, read_sections
from triforce.ingest.corpus.packs.pack_list import FOLDER


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
