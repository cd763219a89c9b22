"""Token samples: to members of a tar and back, and shards whose bytes never change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import webdataset as wds

from triforce.ingest.corpus.records import CLIP_FIELDS, Clip, Recording, Word
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


def awkward(number: int, *, words: bool) -> TokenSample:
    """The first samples know nothing that may be unknown; the later ones know all."""
    known = number >= 6
    clip = Clip.cut(
        Recording("aa", "talks", "files", "aa", "https://example.org/aa"),
        *(24_000 * number, 24_000 * (number + 1), 24_000),
        text="a word" if known else None,
        speaker="Ann" if known else None,
        licence="CC0-1.0" if known else None,
        language="en" if known else None,
        modality="music" if known else None,
        words=(Word(" a", 0.1, 0.2), Word(" word", 0.2, 0.5)) if known else None,
    )
    text = np.arange(3 * known, dtype=np.uint16)
    return TokenSample(clip.clip_id, np.arange(5, dtype=np.uint16), text, sample_metadata(clip, (20,), words=words))


@pytest.mark.parametrize("words", [False, True])
def test_shards_whose_first_samples_know_little_open_elsewhere(tmp_path: Path, words):
    written = [awkward(number, words=words) for number in range(8)]
    uris = [str(tmp_path / f"shard-00000{number}.tar") for number in range(2)]
    for uri, part in zip(uris, (written[:7], written[7:]), strict=True):
        write_shard(uri, part, {})
    for read, sample in zip([sample for uri in uris for sample in read_shard(uri)], written, strict=True):
        assert_same(read, sample)

    hub = datasets.load_dataset("webdataset", data_files=uris, split="train", cache_dir=str(tmp_path / "cache"))
    assert hub["__key__"][:] == [sample.clip_id for sample in written]
    assert [row["speaker"] for row in hub["json"]] == [""] * 6 + ["Ann"] * 2
    assert [row["licence"] for row in hub["json"]] == [""] * 6 + ["CC0-1.0"] * 2
    assert hub["text.npy"][7] == [0, 1, 2]
    if words:
        assert json.loads(hub["json"][7]["words"]) == [[" a", 0.1, 0.2], [" word", 0.2, 0.5]]
    decoded = list(wds.WebDataset(uris, shardshuffle=False).decode())
    assert [row["json"]["language"] for row in decoded] == [""] * 6 + ["en"] * 2


def test_a_sample_of_an_older_version_is_read():
    members = samples()[0].to_members()
    old = {"text": "a", "speaker": None, "words": [["a", 0.1, 0.2]]}
    read = TokenSample.from_members("clip-0", members | {"json": json.dumps(old).encode()})
    assert read.metadata == old
