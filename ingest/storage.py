"""Files by URI: local paths and ``s3://bucket/key`` behave the same, and files are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

if TYPE_CHECKING:
    import pyarrow.fs as pafs

TEMPORARY_PREFIX = ".tmp-"
_LOCAL = LocalFileSystem(use_listings_cache=False)


def resolve(uri: str | os.PathLike) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the filesystem of ``uri`` and the path inside it. Listings are not cached, as others write there too: what
    they wrote since would be missing for as long as this process lives.
    """
    path = os.fspath(uri)
    if path.startswith("/") and ":" not in path:  # fsspec takes a tenth of a second to find that out a thousand times
        return _LOCAL, path.rstrip("/") or "/"
    return fsspec.core.url_to_fs(path, use_listings_cache=False)


def readable(name: str) -> str:
    """Return a file's name as text that can be stored: bytes that are no UTF-8 become ``\\xff``, and stay apart."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def named_disk_errors(path: str | os.PathLike) -> Iterator[None]:
    """Say which disk is full, and what to do, where a library's error says neither."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        words = f"{os.strerror(error.errno)}: free some, then run the same command again, which goes on from here"
        raise OSError(error.errno, words, os.fspath(path)) from error


def arrow_filesystem(uri: str | os.PathLike) -> tuple[pafs.FileSystem, str]:
    """Return what `resolve` does, for Arrow's readers. Local files are opened by Arrow itself: its threads may outlive
    a short program, and one that holds a Python file when the interpreter ends brings the whole process down.
    """
    import pyarrow.fs as pafs  # takes a tenth of a second, and bare machines that only train have none

    fs, path = resolve(uri)
    local = isinstance(fs, LocalFileSystem)
    return (pafs.LocalFileSystem() if local else pafs.PyFileSystem(pafs.FSSpecHandler(fs))), path


def is_local(uri: str | os.PathLike) -> bool:
    """Whether ``uri`` names a local file; asks for no filesystem that may not be installed."""
    return fsspec.core.split_protocol(os.fspath(uri))[0] in (None, *LocalFileSystem.protocol)


def absolute(uri: str) -> str:
    """Return a URI that means the same in another working folder: an absolute path, or a store's address as it is."""
    return os.path.abspath(resolve(uri)[1]) if is_local(uri) else uri


def join(uri: str | os.PathLike, *parts: str) -> str:
    return "/".join([os.fspath(uri).rstrip("/"), *(part.strip("/") for part in parts)])


def exists(uri: str | os.PathLike) -> bool:
    fs, path = resolve(uri)
    return fs.exists(path)


def remove(uri: str | os.PathLike, *, recursive: bool = False) -> None:
    """Remove the file or folder at ``uri``, if there is one."""
    fs, path = resolve(uri)
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=recursive)


def list_files(folder: str | os.PathLike, suffix: str = "") -> list[str]:
    """Return the sorted names of finished files in ``folder`` that end in ``suffix``; [] where there is no folder."""
    fs, path = resolve(folder)
    if isinstance(fs, LocalFileSystem):  # one system call for each thousand names, where fsspec stats every file
        try:
            names = [entry.name for entry in os.scandir(path) if not entry.is_dir()]
        except FileNotFoundError:
            return []
    else:
        try:
            names = [entry["name"].rsplit("/", 1)[-1] for entry in fs.ls(path, detail=True) if entry["type"] == "file"]
        except FileNotFoundError:
            return []
    return sorted(name for name in names if name.endswith(suffix) and not name.startswith(TEMPORARY_PREFIX))


YOUNG_S = 2.0
"""Age in seconds under which a file's time tells nothing: the clock of a file system ticks, and a file may be written
twice within a tick. Assumed."""


VERSIONS = ("ETag", "etag", "mtime", "LastModified", "created")
"""What the stores that fsspec knows call a file's version or time, best first."""


def list_stamps(folder: str | os.PathLike, suffix: str = "") -> dict[str, str]:
    """Return the names that `list_files` does, each with a stamp that changes when its file is written again.

    It is empty for a file too young to tell. One listing; no file is opened.
    """
    return {name: stamp for name, stamp in list_entries(folder).items() if stamp is not None and name.endswith(suffix)}


def list_entries(folder: str | os.PathLike) -> dict[str, str | None]:
    """Return the names of finished files with their stamps, as `list_stamps` does, and of folders with None."""
    fs, path = resolve(folder)
    try:
        entries = os.scandir(path) if isinstance(fs, LocalFileSystem) else fs.ls(path, detail=True)
    except FileNotFoundError:
        return {}
    now = time.time()
    stamps = dict(_stamp(entry, now) for entry in entries)
    return {name: stamps[name] for name in sorted(stamps) if not name.startswith(TEMPORARY_PREFIX)}


def _stamp(entry: Any, now: float) -> tuple[str, Any]:
    """Name and stamp of an entry of a listing, fsspec's or the operating system's; None is the stamp of a folder."""
    if isinstance(entry, os.DirEntry):
        if entry.is_dir():
            return entry.name, None
        return entry.name, _stamp_of_stat(entry.stat(), now)
    name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
    if entry["type"] != "file":
        return name, None
    version = next(
        (str(entry[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if key in entry), ""
    )
    return name, version and f"{version}-{entry['size']}"


def _stamp_of_stat(stat: os.stat_result, now: float) -> str:
    is_young = now - stat.st_mtime < YOUNG_S
    return "" if is_young else f"{stat.st_ino:x}-{stat.st_size:x}-{stat.st_mtime_ns:x}"


def list_sizes(folder: str | os.PathLike, suffix: str = "") -> dict[str, int]:
    """Return the names that `list_files` does, each with the file's size in bytes. One listing."""
    fs, path = resolve(folder)
    try:
        if isinstance(fs, LocalFileSystem):
            sizes = {entry.name: entry.stat().st_size for entry in os.scandir(path) if not entry.is_dir()}
        else:
            entries = (entry for entry in fs.ls(path, detail=True) if entry["type"] == "file")
            sizes = {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in entries}
    except FileNotFoundError:
        return {}
    return {
        name: sizes[name] for name in sorted(sizes) if name.endswith(suffix) and not name.startswith(TEMPORARY_PREFIX)
    }


def stamp_of(uri: str | os.PathLike) -> str | None:
    """Return the stamp that `list_stamps` has for a file, None where there is none."""
    fs, path = resolve(uri)
    now = time.time()
    try:
        if not isinstance(fs, LocalFileSystem):
            return _stamp(fs.info(path), now)[1]
        return _stamp_of_stat(os.stat(path), now)
    except FileNotFoundError:
        return None


def remove_all(uris: Iterable[str]) -> None:
    """Remove files of one filesystem, those that are there; an object store is told of many in one request."""
    paths = [resolve(uri) for uri in uris]
    if paths and not isinstance(paths[0][0], LocalFileSystem):
        with contextlib.suppress(FileNotFoundError):
            paths[0][0].rm([path for _, path in paths])
        return
    for _, path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def list_folders(folder: str | os.PathLike) -> list[str]:
    """Return the sorted names of the folders in ``folder``; [] where there is no folder."""
    fs, path = resolve(folder)
    try:
        entries = fs.ls(path, detail=True)
    except FileNotFoundError:
        return []
    return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory")


def read_bytes(uri: str | os.PathLike) -> bytes:
    fs, path = resolve(uri)
    return fs.cat_file(path)


@contextlib.contextmanager
def atomic_file(uri: str | os.PathLike) -> Iterator[Path]:
    """Yield a local file to write, which becomes ``uri`` when the block ends and is removed when it raises.

    On a local disk the rename is the commit; on an object store the single upload is.
    """
    fs, path = resolve(uri)
    if isinstance(fs, LocalFileSystem):
        target = Path(path)
        with named_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-{target.name}")
        try:
            with named_disk_errors(target):
                yield temporary
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix="triforce-") as folder:
        temporary = Path(folder) / path.rsplit("/", 1)[-1]
        yield temporary
        fs.put_file(str(temporary), path)


def write_bytes(uri: str | os.PathLike, data: bytes) -> None:
    with atomic_file(uri) as temporary:
        temporary.write_bytes(data)


def create(uri: str | os.PathLike, data: bytes) -> bool:
    """Write a small file where there is none, and return whether this call made it: of several at once one does.

    Holds for folders of local and network file systems with hard links, and for object stores that take a put only
    where there is nothing (``If-None-Match``), as S3 does.
    """
    fs, path = resolve(uri)
    try:
        if not isinstance(fs, LocalFileSystem):
            return _create_object(fs, path, data)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-{target.name}")
        try:
            temporary.write_bytes(data)
            os.link(temporary, target)  # unlike a rename it fails where there is a file
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        return False
    return True


def _create_object(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> bool:
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:  # s3fs's, where a store that is not Amazon's says less of what was not as required
        if error.errno != errno.EINVAL or not fs.exists(path):
            raise
        return False
    return True


def remove_stale_temporaries(
    folder: str | os.PathLike, *, prefix: str = TEMPORARY_PREFIX, older_than_s: float = 3600.0
) -> int:
    """Remove files that killed processes left half-written below a local ``folder``; return their number."""
    if not is_local(folder):
        return 0
    count = 0
    for place, _, names in os.walk(resolve(folder)[1]):
        for name in names:
            if name.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):
                    path = os.path.join(place, name)
                    if time.time() - os.stat(path).st_mtime > older_than_s:
                        os.unlink(path)
                        count += 1
    return count


def sha256_of(uri: str | os.PathLike) -> str:
    """Return the hex SHA-256 of a file, read in pieces."""
    fs, path = resolve(uri)
    digest = hashlib.sha256()
    with fs.open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
