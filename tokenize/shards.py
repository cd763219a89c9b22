"""Token samples and the WebDataset shards that hold them.

A sample's members: ``<clip_id>.codes.npy`` uint16 of the codes' grid shape, ``<clip_id>.text.npy`` uint16,
``<clip_id>.json`` with text, duration, speaker, source, licence, and ``size``, the positions that the codes stand for.
The same samples always make the same bytes. Beside each ``shard-000000.tar`` lies ``shard-000000.json``: its counts,
its SHA-256, a hash of what it was made of, and the clips that failed.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import webdataset as wds
from webdataset.tariterators import group_by_keys, tar_file_expander

from triforce.ingest import storage


@dataclass(frozen=True)
class TokenSample:
    clip_id: str
    codes: np.ndarray
    """uint16, the codes' grid: ``(K,)`` for speech."""
    text: np.ndarray
    """``(L,)`` uint16."""
    metadata: dict[str, Any]


def shard_name(index: int) -> str:
    return f"shard-{index:06d}.tar"


def write_shard(uri: str, samples: Iterable[TokenSample], stats: dict[str, Any]) -> dict[str, Any]:
    """Commit a whole shard or nothing, with fixed member times and owners; what ``shard-*.json`` says of it.

    ``stats`` is what the caller knows of it. The record comes first, the shard's rename is the commit: a shard is never
    there without its record.
    """
    with storage.atomic_file(uri) as path:
        with path.open("wb") as file:
            counts = _write_tar(file, samples)
        stats = stats | counts | {"num_bytes": path.stat().st_size, "sha256": storage.sha256_of(path)}
        storage.remove(uri)  # one that is made anew: no record may stand beside the tar of another
        storage.write_bytes(stats_uri(uri), json.dumps(stats, indent=1, sort_keys=True).encode())
    return stats


def _write_tar(file: BinaryIO, samples: Iterable[TokenSample]) -> dict[str, Any]:
    counts = {"num_clips": 0, "num_codes": 0, "num_text": 0, "duration_s": 0.0}
    writer = wds.TarWriter(file, mtime=0.0, user="triforce", group="triforce", encoder=False)
    for sample in samples:
        members = {"__key__": sample.clip_id, "codes.npy": _npy(sample.codes), "text.npy": _npy(sample.text)}
        members["json"] = json.dumps(sample.metadata, sort_keys=True, ensure_ascii=False).encode()
        writer.write(members)
        counts["num_clips"] += 1
        counts["num_codes"] += int(sample.codes.size)
        counts["num_text"] += int(sample.text.size)
        counts["duration_s"] += sample.metadata["duration_s"] or 0.0
    writer.close()
    return counts | {"duration_s": round(counts["duration_s"], 3)}


def read_shard(uri: str) -> Iterator[TokenSample]:
    """The samples of a shard, in their order."""
    fs, path = storage.resolve(uri)
    with fs.open(path, "rb") as stream:
        yield from read_samples(stream, uri)


def read_samples(stream: BinaryIO, uri: str) -> Iterator[TokenSample]:
    """The samples of an open shard; ``uri`` is for errors."""
    for member in group_by_keys(tar_file_expander([{"url": uri, "stream": stream}])):
        try:
            codes, text = (np.load(io.BytesIO(member[key]), allow_pickle=False) for key in ("codes.npy", "text.npy"))
            yield TokenSample(member["__key__"], codes, text, json.loads(member["json"]))
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{uri}, sample {member.get('__key__')}: not a token sample ({error}); verify the shards"
            ) from error


def stats_uri(shard_uri: str) -> str:
    return shard_uri.removesuffix(".tar") + ".json"


def read_stats(tokens: str) -> dict[int, dict[str, Any]]:
    """The records of all shards, by the shard's number; an unreadable one counts as missing."""
    names = [name for name in storage.list_files(tokens, ".json") if name.startswith("shard-")]
    fs, folder = storage.resolve(tokens)
    files = fs.cat([f"{folder}/{name}" for name in names], on_error="omit") if names else {}
    found = {}
    for path, data in files.items():
        with contextlib.suppress(ValueError):
            found[int(path.rsplit("/", 1)[-1].removeprefix("shard-").removesuffix(".json"))] = json.loads(data)
    return found


def stale_mark(shard_uri: str) -> str:
    """The file that says of a shard that it holds clips which were taken out of the corpus."""
    return shard_uri.removesuffix(".tar") + ".stale"


def list_shards(tokens: str) -> list[str]:
    """URIs of the finished shards, in order."""
    return [storage.join(tokens, name) for name in storage.list_files(tokens, ".tar")]


def _npy(array: np.ndarray) -> bytes:
    if array.dtype != np.uint16:
        raise ValueError(f"array of {array.dtype}: shards hold uint16")
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
