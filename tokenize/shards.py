"""Token samples and the WebDataset shards that hold them.

A sample's members: ``<clip_id>.codes.npy`` uint16 of the codes' grid shape, ``<clip_id>.text.npy`` uint16,
``<clip_id>.json`` with text, duration, speaker, source and licence. The same samples always make the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

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


def write_shard(uri: str, samples: Iterable[TokenSample]) -> None:
    """Write a whole shard or nothing, with fixed member times and owners."""
    with storage.atomic_file(uri) as path, path.open("wb") as file:
        writer = wds.TarWriter(file, mtime=0.0, user="triforce", group="triforce", encoder=False)
        for sample in samples:
            writer.write(
                {
                    "__key__": sample.clip_id,
                    "codes.npy": _npy(sample.codes),
                    "text.npy": _npy(sample.text),
                    "json": json.dumps(sample.metadata, sort_keys=True, ensure_ascii=False).encode(),
                }
            )
        writer.close()


def read_shard(uri: str) -> Iterator[TokenSample]:
    """The samples of a shard, in their order."""
    fs, path = storage.resolve(uri)
    with fs.open(path, "rb") as stream:
        for member in group_by_keys(tar_file_expander([{"url": uri, "stream": stream}])):
            try:
                codes, text = (
                    np.load(io.BytesIO(member[key]), allow_pickle=False) for key in ("codes.npy", "text.npy")
                )
                yield TokenSample(member["__key__"], codes, text, json.loads(member["json"]))
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"{uri}, sample {member.get('__key__')}: not a token sample ({error}); verify the shards"
                ) from error


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
