"""Packs of whole-clip mels: what comes back, crops as from the corpus, and stale ones made again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import add_recording

from triforce.ingest.corpus.store import Corpus
from triforce.models.audio.mel import MelConfig
from triforce.models.release_files import load_card
from triforce.train.config import train_config
from triforce.train.data.crops import ClipCrops, make_crops
from triforce.train.data.order import FlatOrder, Place
from triforce.train.data.packed.crops import PackedCrops
from triforce.train.data.packed.make import pack_corpus
from triforce.train.data.packed.pack import NAME, Pack, PackError, is_pack
from triforce.train.data.packed.sound import PackedSound
from triforce.train.export import export
from triforce.train.job import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    corpus = Corpus(str(tmp_path_factory.mktemp("pack") / "corpus"))
    add_recording(corpus, "feed", "a", 12)
    return corpus


@pytest.fixture(scope="module")
def pack(corpus) -> Pack:
    return pack_corpus(corpus.uri, Path(corpus.uri).parent / "pack", samples=True)


def config(data: str, folder: Path, **settings):
    places = {"corpus": data, "release": str(folder / "release"), "runs": str(folder / "runs")}
    model = {"hidden": 16, "num_blocks": 1, "quantizer": "fsq"}
    return train_config(stage="dvae", model=model, **({"crop_frames": 48, "batch_size": 4} | places | settings))


def test_mels_come_back_within_the_rounding(corpus, pack, tmp_path):
    crops = ClipCrops(config(corpus.uri, tmp_path, validation_share=0.0, eval_clips=99), MelConfig(), CPU)
    assert len(pack) == len(crops.store)
    for index, mel in enumerate(crops.evaluation()):
        packed = pack.mel(index)[:, : mel.shape[1]]
        assert (packed - mel).abs().max() <= 0.0245
        assert pack.sample_bounds[index + 1] - pack.sample_bounds[index] == len(crops.store.waveform(0, index))


def test_crops_are_parts_of_clips_with_their_sound(pack, tmp_path):
    crops = make_crops(config(str(pack.folder), tmp_path, crop_frames=64), MelConfig(), CPU)
    assert isinstance(crops, PackedCrops)
    place = Place(0, 1)
    mels, sizes = crops.batch(place, 5)
    where = crops.places(Place(0, 1), 5)
    assert place.taken == 5
    sound = PackedSound(crops.config, CPU).cut(where)
    for row, (clip, offset) in enumerate(zip(where.clips, where.offsets, strict=True)):
        size = int(sizes[row, 0])
        whole = pack.mel(int(clip))
        assert torch.allclose(mels[row, :, :size], whole[:, offset : offset + size])
        assert (mels[row, :, size:] == crops.mel_config.log_floor).all()
        start = pack.sample_bounds[clip] + offset * 256
        expected = pack.samples[start : start + 63 * 256][: pack.sample_bounds[clip + 1] - start]
        assert np.array_equal((sound[row] * 32768).numpy()[: len(expected)].astype(np.int16), expected)


def test_every_clip_comes_once_an_epoch_whatever_the_batches():
    order = FlatOrder(10, seed=3)
    together = order(np.arange(30))
    assert all(sorted(together[i : i + 10]) == list(range(10)) for i in (0, 10, 20))
    assert not np.array_equal(together[:10], together[10:20])
    apart = np.concatenate([FlatOrder(10, seed=3)(np.arange(i, i + 6)) for i in range(0, 30, 6)])
    assert np.array_equal(together, apart)


def test_a_stale_pack_is_made_again(corpus, pack, tmp_path):
    before = (pack.folder / NAME).stat().st_mtime_ns
    assert pack_corpus(corpus.uri, pack.folder, samples=True).hash == pack.hash
    assert (pack.folder / NAME).stat().st_mtime_ns == before
    other = Corpus(str(tmp_path / "corpus"))
    add_recording(other, "feed", "b", 3)
    folder = tmp_path / "pack"
    first = pack_corpus(other.uri, folder)
    add_recording(other, "feed", "c", 3)
    second = pack_corpus(other.uri, folder)
    assert second.hash != first.hash
    assert len(second) == 2 * len(first)


def test_half_a_pack_is_none(pack, tmp_path):
    (tmp_path / "mels.npy").write_bytes((pack.folder / "mels.npy").read_bytes())
    assert not is_pack(tmp_path)
    with pytest.raises(PackError, match="not written to its end"):
        Pack(tmp_path)
    with pytest.raises(ValueError, match="speed_jitter"):
        PackedCrops(config(str(pack.folder), tmp_path, speed_jitter=0.1), CPU)


def test_a_dvae_trains_on_a_pack(pack, tmp_path):
    summary = train(config(str(pack.folder), tmp_path, max_steps=6, eval_every=6), progress=False)
    assert summary.steps == 6
    assert summary.metrics["eval/l1_nats"] > 0


def test_an_export_fits_and_trains(corpus, tmp_path):
    release = tmp_path / "release"
    train(config(corpus.uri, tmp_path, max_steps=2, release=str(release)), progress=False)
    whole = export(tmp_path / "whole", corpus=corpus.uri, release=str(release), samples=True)
    assert whole.whole
    assert whole.num_bytes < 64 << 20
    room = whole.num_bytes // 2
    half = export(tmp_path / "half", corpus=corpus.uri, release=str(release), samples=True, max_bytes=room)
    assert not half.whole
    assert 0 < half.num_clips < whole.num_clips
    on_disk = sum(path.stat().st_size for path in (tmp_path / "half").rglob("*") if path.is_file())
    assert on_disk == half.num_bytes <= room
    assert load_card(str(tmp_path / "half" / "release"), "dvae") == load_card(str(release), "dvae")
    assert train(config(str(tmp_path / "half" / "pack"), tmp_path / "there", max_steps=2), progress=False).steps == 2
    with pytest.raises(ValueError, match="raise --max-mib"):
        export(tmp_path / "none", corpus=corpus.uri, release=str(release), max_bytes=1000)
