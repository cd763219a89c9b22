import hashlib
import io
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import soundfile
import torch
import webdataset as wds
from corpora import add_recording, sweep

from triforce.ingest import storage
from triforce.ingest.corpus import CLIP_SCHEMA, Corpus
from triforce.ingest.takedown import remove
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.layers import ResidualBlock
from triforce.models.mel import MelConfig, log_mel
from triforce.models.release import Release, stage_files
from triforce.tokenize.cluster import connect
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.encode import encode_mels, length_batches
from triforce.tokenize.job import tokenize_corpus
from triforce.tokenize.plan import extend_plan, open_tokens, shards_of
from triforce.tokenize.shards import list_shards, read_shard
from triforce.train.token_store import TokenStore


def write_dvae(release: Path, seed: int = 0) -> None:
    """A small dVAE with weights at random."""
    torch.manual_seed(seed)
    model = DVAE(DVAEConfig(hidden=32, stem=16, num_blocks=1))
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            torch.nn.init.normal_(module.mix.weight, std=0.2)
    model.set_statistics(torch.full((100,), -6.0), torch.full((100,), 3.0))
    for name, data in stage_files("dvae", model, {"mel": MelConfig().model_dump()}).items():
        storage.write_bytes(release / "dvae" / name, data)


@pytest.fixture(scope="module")
def cluster():
    connect(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture
def place(tmp_path):
    """A corpus of two recordings, a release with a dVAE, and the config for both."""
    corpus = Corpus(str(tmp_path / "corpus"))
    kept = add_recording(corpus, "feed", "a", 7, drop=2, seed=1) + add_recording(corpus, "feed", "b", 5, seed=2)
    write_dvae(tmp_path / "release")
    config = TokenizeConfig(
        corpus=corpus.uri, release=str(tmp_path / "release"), tokens=str(tmp_path / "tokens"), clips_per_shard=4
    )
    return config, corpus, sorted(kept)


def digests(folder: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(folder).glob("shard-*"))}


def test_every_kept_clip_once_and_right(place, cluster):
    config, corpus, kept = place
    summary = tokenize_corpus(config)
    samples = [sample for uri in list_shards(config.tokens) for sample in read_shard(uri)]
    assert sorted(sample.clip_id for sample in samples) == kept
    assert (summary.num_shards, summary.num_clips, summary.num_failed) == (3, 10, 0)
    release = Release.load(config.release)
    tokenizer_json = json.loads((Path(config.tokens) / "tokenizer.json").read_text())
    assert tokenizer_json["model"]["type"] == "BPE"
    rows = {row["clip_id"]: row for row in corpus.dataset().to_table().to_pylist()}
    for sample in samples:
        row = rows[sample.clip_id]
        waveform, _ = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        np.testing.assert_array_equal(sample.codes, release.encode(waveform))  # alone, as in the batch
        assert sample.metadata["text"] == row["text"]
        assert sample.metadata["source"] == "feed"

    before = digests(config.tokens)
    again = tokenize_corpus(config)
    assert again.num_new_shards == 0
    assert digests(config.tokens) == before


def test_what_was_lost_is_made_again_to_the_byte_and_new_clips_add_shards(place, cluster):
    config, corpus, kept = place
    tokenize_corpus(config)
    before = digests(config.tokens)
    (Path(config.tokens) / "shard-000001.tar").unlink()
    (Path(config.tokens) / ".tmp-123-shard-000001.tar").write_bytes(b"half")
    tokenize_corpus(config)
    assert {name: d for name, d in digests(config.tokens).items() if name in before} == before
    assert len(list_shards(config.tokens)) == 3

    added = add_recording(corpus, "another", "c", 3, seed=3)
    assert tokenize_corpus(config).num_new_shards == 1
    assert {name: digests(config.tokens)[name] for name in before} == before
    found = sorted(sample.clip_id for uri in list_shards(config.tokens) for sample in read_shard(uri))
    assert found == sorted(kept + added)


def test_two_workers_write_what_one_does(place, cluster, tmp_path):
    config, _, _ = place
    tokenize_corpus(config)
    other = config.model_copy(update={"tokens": str(tmp_path / "other"), "num_workers": 2})
    tokenize_corpus(other)
    assert digests(other.tokens) == digests(config.tokens)


def test_another_dvae_is_refused(place):
    config, _, _ = place
    stage = Release.load(config.release)
    open_tokens(config, stage.dvae_hash, stage.dvae.config.num_codes)
    with pytest.raises(ValueError, match="begun with dvae_hash"):
        open_tokens(config, "0" * 64, stage.dvae.config.num_codes)
    with pytest.raises(ValueError, match="begun with clips_per_shard"):
        open_tokens(config.model_copy(update={"clips_per_shard": 5}), stage.dvae_hash, stage.dvae.config.num_codes)


def test_a_broken_clip_is_named_and_the_rest_goes_on(place, cluster):
    config, corpus, _ = place
    uri = corpus.clip_files()[0]
    rows = pq.read_table(uri, partitioning=None).to_pylist()
    broken = next(row for row in rows if row["drop_reason"] is None)
    broken["audio"] = {"bytes": b"fLaC not", "path": None}
    pq.write_table(pa.Table.from_pylist(rows, schema=CLIP_SCHEMA), uri)
    with pytest.raises(ValueError, match="1 of 10 clips failed"):
        tokenize_corpus(config)
    summary = tokenize_corpus(config.model_copy(update={"max_failed_share": 0.2}))
    assert (summary.num_clips, summary.num_failed) == (9, 1)
    stats = [json.loads(path.read_text()) for path in Path(config.tokens).glob("shard-*.json")]
    assert [failure["clip_id"] for shard in stats for failure in shard["failed"]] == [broken["clip_id"]]


def test_an_empty_corpus_says_what_to_do(tmp_path):
    write_dvae(tmp_path / "release")
    config = TokenizeConfig(
        corpus=str(tmp_path / "none"), release=str(tmp_path / "release"), tokens=str(tmp_path / "t")
    )
    with pytest.raises(ValueError, match="triforce ingest"):
        tokenize_corpus(config)
    with pytest.raises(FileNotFoundError, match="triforce train dvae"):
        tokenize_corpus(config.model_copy(update={"release": str(tmp_path / "nowhere")}))


def test_the_plan_is_a_function_of_the_corpus(place, tmp_path):
    config, _, _ = place
    stage = Release.load(config.release)
    open_tokens(config, stage.dvae_hash, 8192)
    shards = shards_of(extend_plan(config))
    assert [len(shard.clips) for shard in shards] == [4, 4, 2]
    assert shards_of(extend_plan(config)) == shards  # nothing new: nothing planned
    other = config.model_copy(update={"tokens": str(tmp_path / "other")})
    open_tokens(other, stage.dvae_hash, 8192)
    assert shards_of(extend_plan(other)) == shards


def test_shards_open_in_webdataset_and_datasets(place, cluster):
    config, _, kept = place
    tokenize_corpus(config)
    uris = list_shards(config.tokens)
    found = {sample["__key__"]: sample for sample in wds.WebDataset(uris, shardshuffle=False).decode()}
    assert sorted(found) == kept
    ours = {sample.clip_id: sample for uri in uris for sample in read_shard(uri)}
    for key, sample in found.items():
        np.testing.assert_array_equal(sample["codes.npy"], ours[key].codes)
    hub = datasets.load_dataset(
        "webdataset", data_files={"train": uris}, split="train", cache_dir=config.tokens + "-cache"
    )
    assert sorted(hub["__key__"]) == kept
    with tarfile.open(uris[0]) as tar:
        assert {member.mtime for member in tar} == {0}


def test_batches_hold_all_within_their_bound():
    lengths = [5, 900, 30, 30, 7, 200, 1]
    batches = list(length_batches(lengths, 400))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 400


def test_codes_do_not_depend_on_the_batch(tmp_path):
    write_dvae(tmp_path / "release")
    dvae = Release.load(str(tmp_path / "release")).dvae
    mels = [log_mel(sweep(duration, i), MelConfig()) for i, duration in enumerate((1.0, 0.3, 2.2, 1.7))]
    small, large = (encode_mels(dvae, mels, frames, torch.device("cpu")) for frames in (256, 100_000))
    for a, b in zip(small, large, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_was_taken_out_leaves_its_shard(place, cluster):
    config, corpus, kept = place
    tokenize_corpus(config)
    [recording] = [r for r in corpus.recordings() if r.source_id == "a"]
    removal = remove(corpus, [recording], tokens=config.tokens)
    assert removal.stale_shards
    with pytest.raises(ValueError, match="taken out of the corpus"):
        TokenStore([config.tokens], 1 << 20)
    summary = tokenize_corpus(config)
    assert (summary.num_new_shards, summary.num_failed) == (len(removal.stale_shards), 0)
    left = sorted(sample.clip_id for uri in list_shards(config.tokens) for sample in read_shard(uri))
    assert left == [clip_id for clip_id in kept if not clip_id.startswith(recording.recording_id)]
    assert tokenize_corpus(config).num_new_shards == 0
