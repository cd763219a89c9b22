import hashlib
import io
import json
import tarfile
from dataclasses import replace
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

from triforce.flows.cli.main import main
from triforce.ingest import storage
from triforce.ingest.corpus.arrow_schema import CLIP_SCHEMA
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.takedown import remove
from triforce.ingest.local_files import ImportConfig, import_folder
from triforce.ingest.media.pixels import decode_png, encode_png
from triforce.models.audio.mel import MelConfig, log_mel
from triforce.models.blocks.layers import ResidualBlock
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.release import Release
from triforce.models.release_files import TrainedNetwork, require_dvae, stage_files
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.encode import encode_media, size_batches
from triforce.tokenize.inspect.usage import code_usage
from triforce.tokenize.inspect.verify import verify_tokens
from triforce.tokenize.job import tokenize_corpus
from triforce.tokenize.plan import extend_plan, open_tokens
from triforce.tokenize.planning.plan_files import MemberReader, plan_batches
from triforce.tokenize.ray_session import connect
from triforce.tokenize.restore import check_release, write_restored
from triforce.tokenize.shards import list_shards, read_shard, write_shard
from triforce.tokenize.token_sample import TokenSample
from triforce.train.data.tokens.token_store import TokenStore


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


def test_actors_that_find_no_core_are_refused_before_they_wait_for_ever(place, cluster):
    config = place[0].model_copy(update={"cpus_per_reader": 64.0})
    with pytest.raises(ValueError, match=r"cpus_per_reader=64 .* reserve 65 cores and Ray has \d+: lower"):
        tokenize_corpus(config)


def test_another_dvae_is_refused(place):
    config, _, _ = place
    dvae = require_dvae(config.release)
    open_tokens(config, dvae)
    with pytest.raises(ValueError, match="begun with dvae_hash"):
        open_tokens(config, TrainedNetwork(dvae.model, dvae.card | {"hash": "0" * 64}))
    with pytest.raises(ValueError, match="begun with clips_per_shard"):
        open_tokens(config.model_copy(update={"clips_per_shard": 5}), dvae)


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
    config, _, kept = place
    dvae = require_dvae(config.release)
    open_tokens(config, dvae)
    shards = extend_plan(config)
    assert [(shard.index, shard.num_clips) for shard in shards] == [(0, 4), (1, 4), (2, 2)]
    assert len(extend_plan(config)) == 3  # nothing new: nothing planned
    other = config.model_copy(update={"tokens": str(tmp_path / "other")})
    open_tokens(other, dvae)
    extend_plan(other)
    members = [MemberReader(tokens).members(index) for tokens in (config.tokens, other.tokens) for index in range(4)]
    assert members[:4] == members[4:]
    assert [member.clip_id for shard in members[:4] for member in shard] == kept


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
    for sizes in ([(5,), (900,), (30,), (30,), (7,), (200,), (1,)], [(16, 8), (8, 16), (4, 4), (64, 64), (8, 8)]):
        batches = list(size_batches(sizes, 400))
        assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
        assert len(batches) < len(sizes)
        for batch in batches:
            assert len(batch) == 1 or np.prod(np.max([sizes[i] for i in batch], axis=0)) * len(batch) <= 400


def test_codes_do_not_depend_on_the_batch(tmp_path):
    write_dvae(tmp_path / "release")
    dvae = Release.load(str(tmp_path / "release")).dvae
    mels = [log_mel(sweep(duration, i), MelConfig()).numpy() for i, duration in enumerate((1.0, 0.3, 2.2, 1.7))]
    small, large = (encode_media(dvae, mels, frames, torch.device("cpu")) for frames in (256, 100_000))
    for a, b in zip(small, large, strict=True):
        np.testing.assert_array_equal(a, b)

    images = DVAE(DVAEConfig(channels=3, compression=(4, 4), hidden=16, stem=8, num_blocks=1)).eval()
    pictures = [np.random.default_rng(i).random((3, *size), np.float32) for i, size in enumerate([(16, 8), (8, 20)])]
    for picture, codes in zip(pictures, encode_media(images, pictures, 1000, torch.device("cpu")), strict=True):
        np.testing.assert_array_equal(codes, images.encode(torch.from_numpy(picture)[None])[0].numpy())


def kinds(config: TokenizeConfig, **settings) -> set[str]:
    return {fault.kind for fault in verify_tokens(config.tokens, config.corpus, config.release, **settings).faults}


def test_verify_proves_a_good_set_and_names_every_fault(place, cluster):
    config, corpus, kept = place
    tokenize_corpus(config)
    proof = verify_tokens(config.tokens, config.corpus, config.release, recompute=4)
    assert (proof.faults, proof.num_clips, proof.num_recomputed) == ([], len(kept), 4)
    shard = Path(config.tokens) / "shard-000001.tar"
    whole, samples = shard.read_bytes(), list(read_shard(str(shard)))
    stats = json.loads(shard.with_suffix(".json").read_text())

    def commit(changed: list[TokenSample]) -> set[str]:
        write_shard(str(shard), changed, stats)
        return kinds(config, recompute=len(kept))

    def altered(**changes) -> list[TokenSample]:
        return [replace(samples[0], **changes), *samples[1:]]

    codes = samples[0].codes
    assert commit(samples[1:]) >= {"other clips", "index"}
    assert "unreadable" in commit([samples[0], *samples])
    another = next(read_shard(list_shards(config.tokens)[0]))
    assert commit([another, *samples[1:]]) >= {"other clips", "twice"}
    assert "sample" in commit(altered(codes=np.full_like(codes, 9000)))
    assert "sample" in commit(altered(codes=codes[:-1]))
    assert "sample" in commit(altered(text=samples[0].text[:-1]))
    assert "recompute" in commit(altered(codes=(codes + 1) % 8192))
    assert commit(samples) == set()
    assert shard.read_bytes() == whole
    shard.write_bytes(whole[:700] + bytes([whole[700] ^ 1]) + whole[701:])
    assert "checksum" in kinds(config)
    shard.write_bytes(whole[: len(whole) // 2])
    assert "checksum" in kinds(config)
    shard.unlink()
    assert "missing" in kinds(config)
    shard.write_bytes(whole)
    write_dvae(Path(config.release), seed=1)
    assert kinds(config, recompute=len(kept)) >= {"other dvae", "recompute"}
    write_dvae(Path(config.release))
    add_recording(corpus, "another", "c", 1, seed=3)
    assert kinds(config) == {"not planned"}


def test_the_commands_list_show_count_verify_and_restore(place, cluster, tmp_path, capsys):
    config, _, kept = place
    tokenize_corpus(config)
    uris = list_shards(config.tokens)
    capsys.readouterr()

    def tokens(*words: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(["tokens", *words])
        assert end.value.code == 0, capsys.readouterr().err
        return capsys.readouterr().out

    assert tokens("ls", config.tokens).count("shard-") == 3
    assert [json.loads(line)["clip_id"] for line in tokens("ls", config.tokens, "--clips", "--json").splitlines()] == (
        pa.Table.from_batches(plan_batches(config.tokens))["clip_id"].to_pylist()
    )
    shown = json.loads(tokens("show", config.tokens, kept[3], "--json"))
    ours = {sample.clip_id: sample for uri in list_shards(config.tokens) for sample in read_shard(uri)}[kept[3]]
    assert shown["codes"] == ours.codes.tolist()
    assert json.loads(tokens("stats", config.tokens, "--json"))["num_codes"] == sum(
        shard["num_codes"] for shard in json.loads((Path(config.tokens) / "index.json").read_text())["shards"]
    )
    tokens("verify", config.tokens, "--corpus", config.corpus, "--release", config.release)
    places = ("--release", config.release, "-o", str(tmp_path / "out"), "--clip", kept[3], "--format", "flac")
    tokens("decode", config.tokens, *places)
    restored, rate = soundfile.read(tmp_path / "out" / f"{kept[3]}.flac", dtype="float32")
    release = Release.load(config.release)
    mel = release.decode(ours.codes.astype(np.int64), ours.metadata["size"][0])
    np.testing.assert_allclose(restored, release.vocode(mel).clip(-1, 1), atol=1e-4)
    assert rate == 24_000
    assert 0 <= ours.metadata["duration_s"] * rate - len(restored) < 256 + 1

    page = tmp_path / "codes.html"
    tokens("picture", config.tokens, "--corpus", config.corpus, "--release", config.release, "-o", str(page))
    assert page.read_text().count("data:audio/mpeg") >= 16
    assert page.read_text().count("<svg") == 2
    usage, codes = code_usage(config.tokens), [sample.codes for uri in uris for sample in read_shard(uri)]
    assert usage.counts.tolist() == np.bincount(np.concatenate(codes), minlength=8192).tolist()
    first, second = usage.top[0], usage.top[1]
    pairs = sum(int(((one[:-1] == first) & (one[1:] == second)).sum()) for one in codes)
    assert usage.transitions[0, 1] == pairs
    by_id = {sample.clip_id: sample.codes for uri in uris for sample in read_shard(uri)}
    for code, places in zip(usage.top, usage.occurrences, strict=True):
        assert all(by_id[place.clip_id][place.position] == code for place in places)


def test_pictures_are_tokenized_and_come_back_at_their_size(cluster, tmp_path):
    corpus = Corpus(str(tmp_path / "corpus"))
    generator = np.random.default_rng(0)
    shapes = [(16, 24), (32, 8), (18, 20)]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, shape in enumerate(shapes):
        (folder / f"p{number}.png").write_bytes(encode_png(generator.integers(0, 256, (*shape, 3), np.uint8)))
        (folder / f"p{number}.txt").write_text("x")
    import_folder(corpus, folder, ImportConfig(modality="image", source="pictures"))
    add_recording(corpus, "feed", "a", 1)
    torch.manual_seed(0)
    model = DVAE(DVAEConfig(channels=3, compression=(4, 4), hidden=16, stem=8, num_blocks=1))
    for name, data in stage_files("dvae", model, {"modality": "image"}).items():
        storage.write_bytes(tmp_path / "release/dvae" / name, data)
    places = {name: str(tmp_path / name) for name in ("corpus", "release", "tokens")}
    assert tokenize_corpus(TokenizeConfig(**places)).num_clips == 3
    assert verify_tokens(places["tokens"], places["corpus"], places["release"], recompute=3).faults == []
    [uri] = list_shards(places["tokens"])
    samples = list(read_shard(uri))
    assert sorted(sample.codes.shape for sample in samples) == [(4, 6), (5, 5), (8, 2)]
    release = Release.load(places["release"])
    path = write_restored(release, samples[0], check_release(places["tokens"], release), tmp_path)
    assert list(decode_png(path.read_bytes()).shape[:2]) == samples[0].metadata["size"]


def test_what_was_taken_out_leaves_its_shard(place, cluster):
    config, corpus, kept = place
    tokenize_corpus(config)
    [recording] = [r for r in corpus.recordings() if r.source_id == "a"]
    removal = remove(corpus, [recording], tokens=config.tokens)
    assert removal.stale_shards
    with pytest.raises(ValueError, match="taken out of the corpus"):
        TokenStore([config.tokens], 1 << 20)
    summary = tokenize_corpus(config)
    assert (summary.num_new_shards, summary.num_failed) == (1, 0)  # of the two, one held nothing else
    left = sorted(sample.clip_id for uri in list_shards(config.tokens) for sample in read_shard(uri))
    assert left == [clip_id for clip_id in kept if not clip_id.startswith(recording.recording_id)]
    assert tokenize_corpus(config).num_new_shards == 0
