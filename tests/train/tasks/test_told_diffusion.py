"""A diffusion network that is told codes and phonemes: from a corpus, from a pack, and when a text is read aloud."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import add_recording
from tiny_run import hum, write_release

from triforce.ingest.corpus.store import Corpus
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.gpt import GPT
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.reading.interleave import pieces_at_codes
from triforce.models.reading.phonemes import BOUNDARY, NUMBERS
from triforce.models.release import Release
from triforce.models.release_files import load_stage, stage_files
from triforce.train.config import train_config
from triforce.train.data.order import Place
from triforce.train.data.packed.make import pack_corpus
from triforce.train.data.restoration import PiecesAtCodes
from triforce.train.evaluate.systems import resynthesize
from triforce.train.job import train
from triforce.train.tasks.registry import input_hashes, make_task

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Timed and untimed clips as corpus and pack, and a release whose GPT reads by pieces."""
    folder = tmp_path_factory.mktemp("told")
    corpus = Corpus(str(folder / "corpus"))
    add_recording(corpus, "feed", "0", 8, timed=True)
    add_recording(corpus, "feed", "1", 2, seed=1)
    pack_corpus(corpus.uri, folder / "pack")
    write_release(folder / "release", stages=("dvae", "gpt", "vocoder"), reads=True)
    before = load_stage(str(folder / "release"), "gpt")
    assert before is not None
    gpt = GPT(before.model.config.model_copy(update={"reading_units": "pieces"})).eval()
    card = {name: before.card[name] for name in ("dvae_hash", "layouts")}
    for name, data in stage_files("gpt", gpt, card, Release.load(str(folder / "release")).tokenizer).items():
        (folder / "release/gpt" / name).write_bytes(data)
    return folder


def config(folder: Path, data: str, **settings):
    places = {"corpus": str(folder / data), "release": str(folder / "release"), "runs": str(folder / "runs")}
    common = {"crop_frames": 48, "batch_size": 5, "eval_clips": 3, "codes": True, "pieces": True, "max_steps": 3}
    common |= {"model": {"hidden": 32, "num_blocks": 1, "fold": 4}, "launcher": "here"}
    return train_config(stage="diffusion", **(places | common | settings))


def test_a_code_says_the_last_piece_that_has_begun():
    pieces, before = np.array([5, 6, 7, 8]), np.array([1, 1, 3, 9])
    assert pieces_at_codes(pieces, before, 5).tolist() == [-1, 6, 6, 7, 7]
    assert pieces_at_codes(pieces[:0], before[:0], 2).tolist() == [-1, -1]


def test_pieces_follow_the_words_times_and_untimed_clips_have_none(folder):
    reader = Release.load(str(folder / "release")).tokenizer
    tell = PiecesAtCodes(reader, codes_per_s=10.0, spelt_share=0.0)
    words = [("two", 0.5, 1.1), ("six", 1.5, 2.5)]
    found = tell("clip", "two six", words, 30)
    assert (found[:5] == -1).all()
    spoken = [NUMBERS[name] for name in ("T", "UW1", "S", "IH1", "K", "S")]
    told = [found[0], *found[1:][np.diff(found) != 0]]
    assert [piece for piece in told if piece >= 0 and piece != BOUNDARY] == spoken
    assert np.flatnonzero(found == spoken[0])[0] == 5  # the code whose centre is behind 0.5 s
    assert np.flatnonzero(found == spoken[2])[0] == 15
    assert (tell("clip", "two six", None, 4) == -1).all()
    assert (tell("clip", "two", [("two", 0.0, 0.1), ("three", 0.1, 0.2)], 4) == -1).all()
    letters = PiecesAtCodes(reader, 10.0, spelt_share=1.0)("clip", "two six", words, 30)
    assert NUMBERS["w"] in letters
    assert spoken[1] not in letters


@pytest.mark.parametrize("data", ["corpus", "pack"])
def test_a_crop_is_told_what_lies_in_it(folder, data):
    task = make_task(config(folder, data), Place(0, 1), CPU)
    batch, taught = task.next_batch()
    assert not taught
    assert batch.tokens.shape == (5, 2, 12)
    release = Release.load(str(folder / "release"))
    known = 0
    for row in range(5):
        count = -(-int(batch.sizes[row, 0]) // 4)
        codes, pieces = batch.tokens[row, :, :count]
        assert (batch.tokens[row, :, count:] == -1).all()
        frames, (reach,) = int(batch.sizes[row, 0]), release.dvae.config.decoder_reach
        decoded = release.dvae.decode(codes[None])[0]
        inner = slice(reach * 4, frames - reach * 4)
        assert inner.stop > inner.start
        assert (decoded[:, inner] - batch.prior[row, :, inner]).abs().max() < 0.03  # a pack rounds to bytes
        known += bool((pieces >= 0).any())
    assert 0 < known <= 5
    assert torch.isfinite(task.loss((batch, taught))[0])
    assert task.model.config.token_sizes == (64, release.tokenizer.size)
    assert set(task.evaluate(task.model)) >= {"loss", "l1_nats", "l1_mean_nats"}


def test_a_teacher_hears_the_mean_of_the_first_crops(folder):
    taught = config(folder, "pack", teacher="whisper", teacher_every=2, model={"hidden": 32, "fold": 4})
    task = make_task(taught, Place(0, 1), CPU)
    losses = [task.loss(task.next_batch()) for _ in range(3)]
    assert [list(metrics) for _, metrics in losses] == [["teacher"], [], ["teacher"]]
    losses[0][1]["teacher"].backward()
    assert task.model.head.weight.grad.abs().max() > 0
    batch, _ = task.next_batch()
    generators = (torch.Generator().manual_seed(1) for _ in range(2))
    alone, beside = (
        task.model.losses(batch.medium, batch.prior, batch.sizes, each, tokens=batch.tokens, num_means=count)
        for each, count in zip(generators, (0, 2), strict=True)
    )
    assert alone[1].shape[0] == 0
    assert beside[1].shape == (2, 100, 48)
    assert task.evaluate(task.model)["teacher"] > 0
    assert input_hashes(taught).keys() == {"dvae", "corpus", "teacher"}


def test_a_text_is_read_with_its_phonemes(folder):
    train(config(folder, "pack"), progress=False)
    uri = str(folder / "release")
    release = Release.load(uri)
    network = release.diffusion
    assert network.config.num_pieces == release.tokenizer.size
    with torch.no_grad():
        network.head.weight.normal_(std=0.05)
        for embedding in network.tokens.embeddings:
            embedding.weight.normal_()
    best = release.draw("one two", sampling=SamplingConfig(max_codes=40))[0]
    assert best.spoken.shape == best.codes.shape
    spoken = best.spoken[best.spoken >= 0]
    assert set(spoken) <= set(np.concatenate(release.words("one two")))
    told, hidden = (release.render(best.codes, spoken=known)[1] for known in (best.spoken, None))
    assert np.abs(told - hidden).max() > 1e-3
    np.testing.assert_array_equal(release.speak("one two", sampling=SamplingConfig(max_codes=40)).mel, told)


def test_an_evaluation_tells_the_network_the_codes(folder):
    train(config(folder, "pack"), progress=False)
    release = Release.load(str(folder / "release"))
    sampler = SamplerConfig(num_steps=2)
    outputs, codes = resynthesize(release, hum(1.0), seed=3, sampler=sampler)
    tokens = release.told(codes)["tokens"]
    assert tokens[0].tolist() == codes.tolist()
    assert (tokens[1] == -1).all()
    prior = release.decode(codes, outputs["dvae"].mel.shape[-1])
    told, untold = (release.restore(prior, seed=3, config=sampler, tokens=each) for each in (tokens, None))
    np.testing.assert_array_equal(outputs["diffusion"].mel, told.numpy())
    assert not torch.equal(told, untold)


def test_the_mean_is_heard_while_codes_are_drawn(folder, tmp_path):
    uri = str(shutil.copytree(folder / "release", tmp_path / "release"))
    train(config(folder, "pack", release=uri, sampler={"method": "mean", "num_steps": 1}), progress=False)
    release = Release.load(uri)
    assert release.sampler_of(None) == SamplerConfig(method="mean", num_steps=1)
    assert release.sampler_of(SamplerConfig(num_steps=3)) == SamplerConfig(method="mean", num_steps=3)
    assert release.streams()
    pool = release.pool(1)
    reading = pool.add(release.words("one two three"), SamplingConfig(max_codes=60), seed=1)
    stream, sounds, at = release.stream(seed=4), [], 0
    while not reading.done:
        for _ in range(9):
            pool.step()
        codes, spoken = pool.codes(reading), pool.spoken(reading)
        assert codes.shape == spoken.shape
        sounds.append(stream.push(codes[at:], spoken[at:], last=reading.done))
        at = len(codes)
    best = reading.candidates[0]
    np.testing.assert_array_equal(best.spoken[: len(spoken)], spoken)
    assert (np.diff(np.flatnonzero(best.spoken == -1)) == 1).all()
    whole, _ = release.render(best.codes, spoken=best.spoken, seed=4)
    found = np.concatenate(sounds)
    assert len(sounds) > 3
    assert found.shape == whole.shape
    assert np.sqrt(((found - whole) ** 2).mean() / (whole**2).mean()) < 0.005


def test_a_vocoder_learns_from_what_the_network_restores(folder, tmp_path):
    uri = str(shutil.copytree(folder / "release", tmp_path / "release"))
    pack_corpus(str(folder / "corpus"), tmp_path / "sound", samples=True)
    card = {"stage": "vocoder", "corpus": str(tmp_path / "sound"), "release": uri, "runs": str(tmp_path / "runs")}
    shape = {"hidden": 64, "inner": 128, "num_blocks": 2}
    settings = card | {"model": shape, "batch_size": 4, "crop_frames": 33, "eval_clips": 2, "decoded_share": 0.5}
    restored = train_config(**settings, restored=True)
    shutil.rmtree(tmp_path / "release/diffusion", ignore_errors=True)
    with pytest.raises(FileNotFoundError, match="no diffusion network in"):
        input_hashes(restored)
    mean = {"method": "mean", "num_steps": 1, "guidance": 2.0, "guidance_of": "latents"}
    train(config(folder, "pack", release=uri, sampler=mean), progress=False)
    release = Release.load(uri)
    network = release.diffusion
    torch.manual_seed(0)
    torch.nn.init.normal_(network.head.weight, std=0.1)
    kept = load_stage(uri, "diffusion").card
    for name, data in stage_files("diffusion", network, kept | {"dvae_hash": release.dvae_hash}).items():
        (tmp_path / "release/diffusion" / name).write_bytes(data)

    task = make_task(restored, Place(0, 1), CPU)
    plain = make_task(train_config(**settings), Place(0, 1), CPU)
    pack = task.crops.crops.pack
    number = next(index for index, clip in enumerate(pack.clips) if clip.get("words"))
    clip, held = pack.clips[number], slice(*pack.bounds[number : number + 2])
    codes = release.dvae.encode(pack.mel(number)[None])[0]
    decoded = pack.scale.from_bytes(pack.scale.to_bytes(release.decode(codes, held.stop - held.start)))
    tell = PiecesAtCodes(release.tokenizer, pack.mel_config.frames_per_s / release.dvae.config.compression[0])
    spoken = tell(clip["clip_id"], clip["text"], [tuple(word) for word in clip["words"]], len(codes))
    expected = release.restore(decoded, seed=number, tokens=release.tokens(codes, spoken))
    found = pack.scale.from_bytes(task.crops.decoded[held]).T
    assert (found - pack.scale.from_bytes(pack.scale.to_bytes(expected))).abs().mean() < 0.01
    assert (found - decoded).abs().mean() > 0.1
    (sound, shown), (same, before) = task.next_batch(), plain.next_batch()
    torch.testing.assert_close(sound, same)
    torch.testing.assert_close(shown[2:], before[2:])
    assert not torch.allclose(shown[:2], before[:2], atol=0.1)
    assert set(input_hashes(restored)) == {"corpus", "dvae", "diffusion"}
    with pytest.raises(ValueError, match=r"for packs, and .* is none"):
        input_hashes(train_config(**(settings | {"corpus": str(folder / "corpus")}), restored=True))
    with pytest.raises(ValueError, match="restored=true with decoded_share 0"):
        train_config(**(settings | {"decoded_share": 0}), restored=True)


def test_what_cannot_be_told_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="diffusion of speech alone, this is diffusion of image"):
        train_config(stage="diffusion", corpus="c", release="r", runs="x", modality="image", crop=(8, 8), pieces=True)
    with pytest.raises(ValueError, match="pieces with readers_per_worker 0 and speed_jitter"):
        config(folder, "corpus", codes=False, speed_jitter=0.1)
    write_release(tmp_path / "release", stages=("dvae",))
    with pytest.raises(FileNotFoundError, match="triforce train gpt"):
        input_hashes(config(folder, "corpus", release=str(tmp_path / "release")))
    with pytest.raises(ValueError, match="latents with the pack"):
        make_task(config(folder, "pack", latents=True), Place(0, 1), CPU)
