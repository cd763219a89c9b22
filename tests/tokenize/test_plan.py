"""The plan and what is remembered of it, without Ray: the actors are called by hand."""

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from corpora import add_recording

from triforce.ingest import storage
from triforce.ingest.corpus.records import make_recording_id
from triforce.ingest.corpus.rewrite import replace_columns
from triforce.ingest.corpus.store import Corpus
from triforce.models.audio.mel import MelConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.release_files import require_dvae, stage_files
from triforce.tokenize import job
from triforce.tokenize.actors import EncodeActor, ReadActor, WriteActor, planned_row
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.inspect.verify import verify_tokens
from triforce.tokenize.plan import extend_plan, open_tokens
from triforce.tokenize.planning.inputs import InputHasher
from triforce.tokenize.planning.plan_files import MemberReader, num_planned_shards, plan_batches
from triforce.tokenize.shards import list_shards, load_tokenizer, read_shard, read_stats, write_shard


@pytest.fixture
def config(tmp_path) -> TokenizeConfig:
    """Three recordings in two sources, four clips a shard, and a dVAE at random."""
    corpus = Corpus(str(tmp_path / "corpus"))
    for source, name, num_clips, drop in (("b", "one", 7, 2), ("a", "two", 5, 0), ("b", "three", 3, 0)):
        add_recording(corpus, source, name, num_clips, drop=drop, seed=num_clips)
    age(tmp_path / "corpus")
    torch.manual_seed(0)
    for name, data in stage_files(
        "dvae", DVAE(DVAEConfig(hidden=16, stem=8, num_blocks=1)), {"mel": MelConfig().model_dump()}
    ).items():
        storage.write_bytes(tmp_path / "release/dvae" / name, data)
    places = {name: str(tmp_path / name) for name in ("corpus", "release", "tokens")}
    return TokenizeConfig(**places, clips_per_shard=4)


def age(folder: Path) -> None:
    """Date new files back: young ones are looked at again."""
    for path in folder.rglob("*.parquet"):
        if time.time() - (written_s := path.stat().st_mtime) < 1800:
            os.utime(path, (written_s - 3600,) * 2)


def bring_up_to_date(config: TokenizeConfig, monkeypatch) -> list[int]:
    """`tokenize_corpus` without Ray; the shards that it made."""
    made = []

    def pipeline(config, shards):
        actors = ReadActor(
            config.corpus, require_dvae(config.release).card, load_tokenizer(config.tokens).to_json(), False
        )
        encode, write = EncodeActor(config), WriteActor(config.tokens)
        for shard in shards:
            made.append(shard.index)
            yield write(encode(actors(planned_row(shard))))

    monkeypatch.setattr(job, "run_pipeline", pipeline)
    monkeypatch.setattr(job, "connect", lambda: None)
    job.tokenize_corpus(config)
    return made


def counted_files(monkeypatch) -> list[str]:
    """The clip files that are read from now on, by who reads them."""
    from triforce.ingest.corpus import clip_index

    read: list[str] = []
    summarise, rows = clip_index.summarise, InputHasher._read

    def counted(uri, name):
        read.append(f"index {name}")
        return summarise(uri, name)

    def counted_rows(self, source, recording_id):
        read.append(f"rows {recording_id}")
        return rows(self, source, recording_id)

    monkeypatch.setattr(clip_index, "summarise", counted)
    monkeypatch.setattr(InputHasher, "_read", counted_rows)
    return read


def test_a_run_after_one_new_recording_reads_that_one_alone(config, monkeypatch):
    corpus = Corpus(config.corpus)
    assert bring_up_to_date(config, monkeypatch) == [0, 1, 2, 3]
    before = {Path(uri).name: Path(uri).read_bytes() for uri in list_shards(config.tokens)}
    read = counted_files(monkeypatch)
    assert bring_up_to_date(config, monkeypatch) == []
    assert read == []
    added = add_recording(corpus, "a", "new", 2, seed=9)
    age(Path(config.corpus))
    assert bring_up_to_date(config, monkeypatch) == [4]
    assert read == [f"index {make_recording_id('a', 'new')}"]
    assert {name: Path(config.tokens, name).read_bytes() for name in before} == before
    assert [sample.clip_id for sample in read_shard(list_shards(config.tokens)[4])] == added


def test_a_shard_is_made_again_where_its_clips_changed_and_nowhere_else(config, monkeypatch):
    corpus = Corpus(config.corpus)
    bring_up_to_date(config, monkeypatch)
    index = (Path(config.tokens) / "index.json").read_bytes()
    uri = corpus.clips_uri("a", make_recording_id("a", "two"))
    before = corpus.clips(["snr_db", "text", "drop_reason"], source="a").to_pydict()

    replace_columns(uri, {"snr_db": [3.0] * 5})  # of which shards know nothing
    age(Path(config.corpus))
    read = counted_files(monkeypatch)
    assert bring_up_to_date(config, monkeypatch) == []
    assert [line.split()[0] for line in read].count("index") == 1
    assert (Path(config.tokens) / "index.json").read_bytes() == index

    replace_columns(uri, {"text": ["other", *before["text"][1:]]})
    age(Path(config.corpus))
    assert bring_up_to_date(config, monkeypatch) == [0]
    replace_columns(uri, {"drop_reason": ["quiet", *before["drop_reason"][1:]]})
    age(Path(config.corpus))
    assert bring_up_to_date(config, monkeypatch) == [0]
    replace_columns(uri, {"drop_reason": before["drop_reason"], "text": before["text"]})
    age(Path(config.corpus))
    assert bring_up_to_date(config, monkeypatch) == [0]
    assert num_planned_shards(config.tokens) == 4
    assert (Path(config.tokens) / "index.json").read_bytes() == index


def test_what_is_remembered_may_be_lost(config, monkeypatch):
    bring_up_to_date(config, monkeypatch)
    before = {Path(uri).name: Path(uri).read_bytes() for uri in list_shards(config.tokens)}
    storage.remove(storage.join(config.corpus, "state"), recursive=True)
    (Path(config.tokens) / "checked.json").write_bytes(b"[")
    assert bring_up_to_date(config, monkeypatch) == []
    assert {Path(uri).name: Path(uri).read_bytes() for uri in list_shards(config.tokens)} == before


def test_inputs_are_hashed_as_in_the_records_that_are_there(config):
    """Else every shard of every folder would be made again."""
    open_tokens(config, require_dvae(config.release))
    extend_plan(config)
    names = ["clip_id", "text", "duration_s", "speaker", "source", "licence", "language", "recording_id"]
    names += ["start_sample", "end_sample", "sample_rate_hz", "modality"]
    rows = Corpus(config.corpus).clips(names, kept_only=True).to_pylist()
    rows = sorted((row | {"modality": "speech"} for row in rows), key=lambda row: (row["source"], row["clip_id"]))
    plan, hasher = MemberReader(config.tokens), InputHasher(Corpus(config.corpus), "speech", words=False)
    for index in range(4):
        some = rows[4 * index : 4 * index + 4]
        expected = hashlib.sha256(json.dumps(some, sort_keys=True).encode()).hexdigest()
        assert hasher(plan.members(index)) == ([row["clip_id"] for row in some], expected)


def test_the_plan_of_several_runs_is_read_in_order(config, monkeypatch):
    corpus = Corpus(config.corpus)
    open_tokens(config, require_dvae(config.release))
    for number in range(4):
        extend_plan(config)
        add_recording(corpus, "a", f"more-{number}", 3, seed=20 + number)
    shards = extend_plan(config)
    kept = corpus.clips(["clip_id"], kept_only=True).num_rows
    assert sum(shard.num_clips for shard in shards) == kept
    planned = pa.Table.from_batches(plan_batches(config.tokens))
    assert len(set(planned["clip_id"].to_pylist())) == planned.num_rows == kept
    assert np.diff(planned["shard"].to_numpy()).min() >= 0
    plan = MemberReader(config.tokens)
    members = [member.clip_id for shard in shards for member in plan.members(shard.index)]
    assert members == planned["clip_id"].to_pylist()


def test_verify_finds_a_sample_in_two_shards(config, monkeypatch):
    bring_up_to_date(config, monkeypatch)
    first, second = list_shards(config.tokens)[:2]
    samples, stranger = list(read_shard(second)), next(iter(read_shard(first)))
    write_shard(second, [stranger, *samples[1:]], read_stats(config.tokens)[1])
    faults = verify_tokens(config.tokens, config.corpus, config.release).faults
    assert {(fault.kind, fault.place) for fault in faults} >= {
        ("twice", stranger.clip_id),
        ("other clips", "shard-000001.tar"),
    }
    write_shard(second, samples, read_stats(config.tokens)[1])
    proof = verify_tokens(config.tokens, config.corpus, config.release, recompute=5)
    assert (proof.faults, proof.num_clips, proof.num_recomputed) == ([], 13, 5)
