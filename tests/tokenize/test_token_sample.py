"""Token samples: to members of a tar and back, and shards whose bytes never change."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from triforce.ingest.corpus.records import CLIP_FIELDS, Clip
from triforce.tokenize.shards import read_shard, write_shard
from triforce.tokenize.token_sample import METADATA, TokenSample, sample_metadata


def samples() -> list[TokenSample]:
    return [
        TokenSample(
            f"clip-{i}",
            np.arange(3 * i + 1, dtype=np.uint16),
            np.array([i, 7], np.uint16),
            {"text": f"a “{i}”", "duration_s": 1.5, "size": [12 * i + 2]},
        )
        for i in range(3)
    ]


def assert_same(one: TokenSample, other: TokenSample) -> None:
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.text, other.text)
    assert (one.clip_id, one.codes.dtype, one.metadata) == (other.clip_id, other.codes.dtype, other.metadata)


def test_a_sample_comes_back_from_its_members():
    for sample in samples():
        members = sample.to_members()
        assert set(members) == {"codes.npy", "text.npy", "json"}
        assert_same(TokenSample.from_members(sample.clip_id, members), sample)
    grid = TokenSample("image", np.arange(6, dtype=np.uint16).reshape(2, 3), np.zeros(0, np.uint16), {"size": [8, 12]})
    assert_same(TokenSample.from_members("image", grid.to_members()), grid)


def test_what_is_no_sample_is_refused():
    with pytest.raises(ValueError, match="int64: shards hold uint16"):
        TokenSample("a", np.arange(3), np.zeros(0, np.uint16), {}).to_members()
    members = samples()[0].to_members()
    with pytest.raises(KeyError, match="text"):
        TokenSample.from_members("a", {name: data for name, data in members.items() if name != "text.npy"})
    with pytest.raises(ValueError, match=r".*"):
        TokenSample.from_members("a", members | {"json": b"{"})


def test_metadata_are_the_clips_columns_and_the_size():
    row = dict.fromkeys(CLIP_FIELDS) | {name: name.upper() for name in METADATA}
    found = sample_metadata(Clip.from_row(row | {"audio": {"bytes": b"not carried along", "path": None}}), (5, 6))
    assert found == {name: name.upper() for name in METADATA} | {"size": [5, 6]}


def test_a_shard_has_the_bytes_that_it_always_had(tmp_path: Path):
    path = tmp_path / "shard-000000.tar"
    stats = write_shard(str(path), samples(), {"shard": path.name})
    assert stats["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert stats["sha256"] == "54a946917dd3abe4d55f212d0b180a84c982daf1695904ebea9e8cb3948f3135"
    record = hashlib.sha256(path.with_suffix(".json").read_bytes()).hexdigest()
    assert record == "8f3b1b3c955d98e16140f636c12e15d7039306bf0f9c3a3df3894d8b118f9b39"
    for read, sample in zip(read_shard(str(path)), samples(), strict=True):
        assert_same(read, sample)
