"""Shards: WebDataset tar files of token samples, with a record beside each.

The same samples always make the same bytes. Beside each ``shard-000000.tar`` lies its record ``shard-000000.json``: its
counts, its SHA-256, a hash of its inputs, and the clips that failed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from triforce.ingest import storage
from triforce.ingest.corpus.shard_names import shard_index
from triforce.models.reading.front_end import FrontEnd, load_front_end
from triforce.tokenize.token_sample import TokenSample


def load_tokenizer(tokens: str) -> FrontEnd:
    """Load the text front end of a tokens folder."""
    return load_front_end(storage.read_bytes(storage.join(tokens, "tokenizer.json")).decode())


def write_shard(uri: str, samples: Iterable[TokenSample], stats: dict[str, Any]) -> dict[str, Any]:
    """Commit a whole shard or nothing, with fixed member times and owners; return its record.

    ``stats`` is the caller's part of the record. The record is written first and the shard's rename is the commit, so a
    shard never exists without its record.
    """
    with storage.atomic_file(uri) as path:
        with path.open("wb") as file:
            counts = _write_tar(file, samples)
        stats = stats | counts | {"num_bytes": path.stat().st_size, "sha256": storage.sha256_of(path)}
        storage.remove(uri)  # a shard that is made again: no record may lie beside an older tar
        storage.write_bytes(stats_uri(uri), json.dumps(stats, indent=1, sort_keys=True).encode())
    return stats


def _write_tar(file: BinaryIO, samples: Iterable[TokenSample]) -> dict[str, Any]:
    import webdataset as wds  # takes half a second, and bare machines have none

    counts = {"num_clips": 0, "num_codes": 0, "num_text": 0, "duration_s": 0.0}
    writer = wds.TarWriter(file, mtime=0.0, user="triforce", group="triforce", encoder=False)
    for sample in samples:
        writer.write({"__key__": sample.clip_id, **sample.to_members()})
        counts["num_clips"] += 1
        counts["num_codes"] += int(sample.codes.size)
        counts["num_text"] += int(sample.text.size)
        counts["duration_s"] += sample.metadata["duration_s"] or 0.0
    writer.close()
    return counts | {"duration_s": round(counts["duration_s"], 3)}


def read_shard(uri: str) -> Iterator[TokenSample]:
    """Yield the samples of a shard, in their order."""
    fs, path = storage.resolve(uri)
    with fs.open(path, "rb") as stream:
        yield from read_samples(stream, uri)


def read_samples(stream: BinaryIO, uri: str) -> Iterator[TokenSample]:
    """Yield the samples of an open shard; ``uri`` appears in errors."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    for member in group_by_keys(tar_file_expander([{"url": uri, "stream": stream}])):
        try:
            yield TokenSample.from_members(member["__key__"], member)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{uri}, sample {member.get('__key__')}: not a token sample ({error}); verify the shards"
            ) from error


def stats_uri(shard_uri: str) -> str:
    """Return the URI of a shard's record."""
    return shard_uri.removesuffix(".tar") + ".json"


def read_stats(tokens: str) -> dict[int, dict[str, Any]]:
    """Return the records of all shards by shard number; an unreadable one counts as missing."""
    names = [name for name in storage.list_files(tokens, ".json") if shard_index(name) is not None]
    fs, folder = storage.resolve(tokens)
    files = fs.cat([f"{folder}/{name}" for name in names], on_error="omit") if names else {}
    found = {}
    for path, data in files.items():
        with contextlib.suppress(ValueError):
            found[int(path.rsplit("/", 1)[-1].removeprefix("shard-").removesuffix(".json"))] = json.loads(data)
    return found


def list_shards(tokens: str) -> list[str]:
    """Return the URIs of the finished shards, in order."""
    return [storage.join(tokens, name) for name in storage.list_files(tokens, ".tar")]
