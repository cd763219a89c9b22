import hashlib

import numpy as np
import pytest
import torch
from corpora import add_recording

from triforce.ingest.corpus.rewrite import replace_columns
from triforce.ingest.corpus.store import Corpus
from triforce.models.audio.mel import MelConfig
from triforce.models.vocabulary import Segment
from triforce.train.config import train_config
from triforce.train.data.clips import ClipStore
from triforce.train.data.crops import ClipCrops
from triforce.train.data.order import GroupCache, Part, Place, ShuffledOrder, is_validation
from triforce.train.data.tokens.documents import parse_layout
from triforce.train.data.tokens.rows import stack
from triforce.train.tasks.gpt_loss import speech_vocabulary


@pytest.mark.parametrize("num_workers", [1, 3])
def test_an_epoch_is_every_clip_once_whoever_reads_it(num_workers):
    sizes = [3, 1, 40, 7, 0, 5] * 9
    order = ShuffledOrder(sizes, seed=1)
    total = sum(sizes)
    for epoch in range(2):
        places = [Place(rank, num_workers) for rank in range(num_workers)]
        positions = sorted(place.next() for place in places for _ in range(-(-total // num_workers)))[:total]
        seen = [order(epoch * total + position) for position in positions]
        assert sorted(seen) == [(group, row) for group, size in enumerate(sizes) for row in range(size)]


def test_the_order_depends_on_seed_and_epoch_alone():
    sizes = [20] * 40
    one, two = ShuffledOrder(sizes, 1), ShuffledOrder(sizes, 1)
    expected = [one(position) for position in range(1600)]
    assert [two(position) for position in (1599, 3, 800)] == [expected[position] for position in (1599, 3, 800)]
    assert expected[:800] != expected[800:]
    assert [ShuffledOrder(sizes, 2)(position) for position in range(800)] != expected[:800]
    with pytest.raises(ValueError, match="nothing to train on"):
        ShuffledOrder([0, 0], 1)


def test_reading_stays_within_a_window_of_groups():
    order = ShuffledOrder([32] * 200, seed=0)
    assert len({order(position)[0] for position in range(512)}) == 16


def test_the_cache_keeps_to_its_bytes():
    reads = []

    def read(group: int) -> tuple[str, int]:
        reads.append(group)
        return f"group {group}", 40

    cache = GroupCache(read, 100)
    assert [cache[group] for group in (0, 1, 0, 2, 0, 1)] == [f"group {group}" for group in (0, 1, 0, 2, 0, 1)]
    assert reads == [0, 1, 2, 1]  # 1 was the oldest when 2 came


def test_validation_is_a_share_by_id():
    ids = [f"clip-{i}" for i in range(5000)]
    held = {clip_id for clip_id in ids if is_validation(clip_id, 0.1)}
    assert 400 < len(held) < 600
    assert held <= {clip_id for clip_id in ids if is_validation(clip_id, 0.2)}
    assert not any(is_validation(clip_id, 0.0) for clip_id in ids)


def test_the_clip_store_reads_what_was_kept(tmp_path):
    corpus = Corpus(str(tmp_path))
    kept = add_recording(corpus, "feed", "a", 40, drop=3)
    stores = [ClipStore(corpus, 24_000, part, 1 << 20) for part in (Part(0.3), Part(0.3, True))]
    held = [clip_id for clip_id in kept if is_validation(clip_id, 0.3)]
    assert 0 < len(held) < len(kept) == 37
    rows = {row["clip_id"]: row for row in corpus.clips(["clip_id", "duration_s", "text"]).to_pylist()}
    for store, expected in zip(stores, ([clip_id for clip_id in kept if clip_id not in held], held), strict=True):
        assert len(store) == len(expected)
        groups = range(len(store.group_sizes))
        assert [clip_id for group in groups for clip_id in store.clip_ids(group)] == expected
        places = [(group, row) for group in groups for row in range(store.group_sizes[group])]
        assert [store.text(*place) for place in places] == [rows[clip_id]["text"] for clip_id in expected]
        lengths = [len(store.waveform(*place)) / 24_000 for place in places]
        np.testing.assert_allclose(lengths, [rows[clip_id]["duration_s"] for clip_id in expected], atol=1e-4)


def test_clips_that_change_under_a_run_stop_it(tmp_path):
    corpus = Corpus(str(tmp_path))
    add_recording(corpus, "feed", "a", 5)
    store = ClipStore(corpus, 24_000, Part(0.0), 1 << 20)
    [uri] = corpus.clip_files()
    replace_columns(uri, {"drop_reason": ["quiet", None, None, None, None]})
    with pytest.raises(ValueError, match="changed since this run began"):
        store.waveform(0, 0)


def test_the_order_is_the_one_that_runs_began_with():
    sizes = [3, 1, 40, 7, 0, 5] * 9
    order = ShuffledOrder(sizes, seed=7)
    found = [order(position) for position in range(2 * sum(sizes))]
    assert hashlib.sha256(str(found).encode()).hexdigest()[:12] == "ea6ca73145a1"


def pitch_hz(samples: np.ndarray) -> float:
    """Of a pure tone, from the zero crossings of its middle half."""
    middle = samples[len(samples) // 4 : -len(samples) // 4].astype(np.float64)
    return float((np.diff(np.signbit(middle)) != 0).sum()) * 24_000 / 2 / len(middle)


def test_jittered_crops_are_played_at_other_speeds_the_same_ones_each_time(tmp_path, monkeypatch):
    corpus = Corpus(str(tmp_path / "corpus"))
    add_recording(corpus, "feed", "a", 8)
    fields = {"stage": "dvae", "corpus": corpus.uri, "release": str(tmp_path), "runs": str(tmp_path), "crop_frames": 64}
    plain, jittered = (
        ClipCrops(train_config(**fields, speed_jitter=jitter), MelConfig(), torch.device("cpu")) for jitter in (0, 0.2)
    )
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(40_000) / 24_000)).astype(np.int16)
    for crops in (plain, jittered):
        monkeypatch.setattr(crops.store, "waveform", lambda group, row: tone)
    positions = range(40)
    assert [pitch_hz(plain.crop(i)[0]) for i in positions] == pytest.approx([440] * 40, rel=0.01)
    heard = np.array([pitch_hz(jittered.crop(i)[0]) for i in positions]) / 440
    assert 10 < (abs(heard - 1) < 0.002).sum() < 30  # half of them stay as they are
    assert heard.min() == pytest.approx(0.8, abs=0.05)
    assert heard.max() == pytest.approx(1.2, abs=0.05)
    for position in positions:
        samples, frames = jittered.crop(position)
        assert (samples.shape, samples.dtype, frames) == ((63 * 256,), np.int16, 64)
        np.testing.assert_array_equal(samples, jittered.crop(position)[0])


def test_rows_are_packed_whole_with_their_own_positions():
    vocabulary = speech_vocabulary(300, 64)
    documents = [
        vocabulary.document_ids([Segment("text", np.arange(n)), Segment("speech", np.arange(2 * n))]) for n in (2, 5)
    ]
    batch = stack([[(ids, np.ones(len(ids), np.float32)) for ids in documents]], context=64)
    ids, targets = batch.ids[0].numpy(), batch.targets[0].numpy()
    start = len(documents[0])
    np.testing.assert_array_equal(ids[:start], documents[0])
    np.testing.assert_array_equal(targets[: start - 1], documents[0][1:])
    assert targets[start - 1] == 0  # the first document's end predicts nothing of the second
    assert batch.positions[0, start] == 0
    assert batch.documents[0, : start + len(documents[1])].unique().tolist() == [1, 2]
    assert not batch.weights[0][targets == 0].any()


@pytest.mark.parametrize("layout", ["", "text>", "text>speech>image", "Text>speech", "text,speech"])
def test_a_layout_that_is_none_is_refused(layout):
    with pytest.raises(ValueError, match="layout"):
        parse_layout(layout)
    assert parse_layout("voice+text>speech") == ("voice", "text", "speech")
