"""One pack: a ZIP file without compression, which holds files of many recordings just as they are.

Any tool for ZIP files lists and takes out what is in it. Its last part says where each file begins, so that a reader
asks for that part of the pack alone. A pack is written whole and never changed.
"""

from __future__ import annotations

import io
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

BLOCK_BYTES = 1 << 20
LOCAL_HEADER_BYTES = 30
"""Bytes before a file's name in front of its content (ZIP application note 6.3.10, 4.3.7); no extra field follows, as
`MAX_FILE_BYTES` are few enough for none."""
MAX_FILE_BYTES = 1 << 30
"""Larger files are not packed: nothing would be won."""
NAME = re.compile(r"(\d+)-(\d+)-[0-9a-f]+\.zip")


class Section(NamedTuple):
    """Where a file lies in a pack, and what it is."""

    offset: int
    size: int
    crc: int


class Content(NamedTuple):
    """A file to pack: its name, its size and what opens it."""

    name: str
    size: int
    open: Any
    """Callable that returns a context with the open file."""


def pack_name(order: int, generation: int, token: str) -> str:
    """Return the name of a pack. Of two packs with a file of the same name the one of the higher ``order`` counts; of
    two packs of the same order the one of the higher ``generation`` replaces the other altogether. So no two packs of
    other files may have the same order, see `next_order`."""
    return f"{order:017d}-{generation:04d}-{token}.zip"


def next_order(names: Iterable[str]) -> int:
    """Return an order behind that of all these packs: the time in microseconds, which is not that of a pack which
    another process writes although it lost its lock."""
    last = max((place[0] for name in names if (place := place_of(name))), default=0)
    return max(last + 1, time.time_ns() // 1000)


def place_of(name: str) -> tuple[int, int] | None:
    """Return order and generation of a pack by its name, None for another file."""
    found = NAME.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def write_pack(path: Path, contents: Iterable[Content]) -> dict[str, Section]:
    """Write a pack of files in the order given; return where each of them lies. The same files give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as pack:
        for content in contents:
            info = zipfile.ZipInfo(content.name)  # of the first of January 1980
            info.file_size = content.size
            with content.open() as source, pack.open(info, "w") as target:
                shutil.copyfileobj(source, target, BLOCK_BYTES)
    with path.open("rb") as file:
        return read_sections(file)


def read_sections(file: IO[bytes]) -> dict[str, Section]:
    """Return where each file of a pack lies. Raises `zipfile.BadZipFile` for what is no pack."""
    with zipfile.ZipFile(file) as pack:
        found = {}
        for info in pack.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_FILE_BYTES:
                raise zipfile.BadZipFile(f"{info.filename} is compressed or too large, as in no pack of ours")
            offset = info.header_offset + LOCAL_HEADER_BYTES + len(info.filename.encode())
            found[info.filename] = Section(offset, info.file_size, info.CRC)
        return found


class SectionFile(io.RawIOBase):
    """A part of an open file, as a file of its own."""

    def __init__(self, file: IO[bytes], section: Section) -> None:
        self._file, self._section, self._position = file, section, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._section.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._section.size - self._position, 0)
        self._file.seek(self._section.offset + self._position)
        data = self._file.read(left if size is None or size < 0 else min(size, left))
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class RottenFile(zipfile.BadZipFile):
    """A file has another checksum than its pack says."""

    def __init__(self, pack: str, name: str) -> None:
        super().__init__(f"{pack}: {name} has another checksum than its pack says: run `triforce corpus verify`")
        self.pack, self.name = pack, name


class CheckedCopy(io.RawIOBase):
    """A file that is read from its beginning to its end, and must then have the checksum that its pack says.

    Raises `RottenFile` where it has another: a pack that rotted is not written again as if it were whole.
    """

    def __init__(self, file: io.RawIOBase, section: Section, pack: str, name: str) -> None:
        self._file, self._section, self._pack, self._name = file, section, pack, name
        self._crc = self._size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        data = self._file.read(-1 if size is None else size) or b""
        self._crc, self._size = zlib.crc32(data, self._crc), self._size + len(data)
        if not data and (self._size, self._crc) != (self._section.size, self._section.crc):
            raise RottenFile(self._pack, self._name)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()
