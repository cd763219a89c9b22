"""Runs that cannot fit are refused with what would, and runs that can are not."""

import re
from pathlib import Path

import pytest
import torch
from corpora import add_recording

from triforce.ingest.corpus.store import Corpus
from triforce.train.config import train_config
from triforce.train.data.order import Place
from triforce.train.job import train
from triforce.train.launch import room
from triforce.train.launch.room import MemoryShortError, require_room
from triforce.train.tasks.registry import make_task
from triforce.train.trainer.loop import Trainer
from triforce.train.trainer.memory import free_bytes, group_free_bytes, kept_bytes, state_bytes

CPU = torch.device("cpu")
MODELS = {
    "dvae": {"hidden": 32, "num_blocks": 2, "quantizer": "ema-vq", "codebook_size": 32},
    "vocoder": {"hidden": 32, "inner": 64, "num_blocks": 2},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    corpus = Corpus(str(tmp_path_factory.mktemp("room") / "corpus"))
    add_recording(corpus, "feed", "a", 12)
    return corpus


def make_config(folder: Path, corpus: Corpus, stage: str = "dvae", **settings):
    fields = {"batch_size": 64, "crop_frames": 65, "precision": "float32", "max_steps": 2}
    places = {"release": str(folder / "release"), "runs": str(folder / "runs"), "corpus": corpus.uri}
    return train_config(stage=stage, model=MODELS[stage], **(places | fields | settings))


@pytest.mark.parametrize("stage", MODELS)
def test_what_is_advised_fits(tmp_path, corpus, stage):
    config = make_config(tmp_path, corpus, stage, batch_size=1024)
    task = make_task(config, Place(0, 1), CPU)
    state, a_sample = state_bytes(task.model, CPU), task.activation_bytes(half=False)
    require_room(task, config, CPU, 1, state + 1024 * a_sample)
    some = 4 * (2 * state + 100 * a_sample)
    with pytest.raises(MemoryShortError, match="check_memory=false") as refused:
        require_room(task, config, CPU, 4, some)  # shared by four
    assert re.match(
        r"batch_size 1024, 1024 at a time, needs about [\d.]+ [MG]iB of memory a worker", str(refused.value)
    )
    accumulation = int(re.search(r"accumulation=(\d+)", str(refused.value)).group(1))
    assert accumulation > 4
    fields = {"stage": stage, "batch_size": 1024}
    require_room(task, make_config(tmp_path, corpus, **fields, accumulation=accumulation), CPU, 4, some)
    require_room(task, make_config(tmp_path, corpus, **fields, check_memory=False), CPU, 4, some)
    with pytest.raises(MemoryShortError, match="give a smaller size or shorter crops"):
        require_room(task, config, CPU, 1, 1 << 16)


def test_a_refused_run_takes_no_step(tmp_path, corpus, monkeypatch):
    config = make_config(tmp_path, corpus)
    monkeypatch.setattr(room, "free_bytes", lambda device: 1 << 20)
    with pytest.raises(MemoryShortError, match="batch_size 64"):
        train(config, progress=False)
    assert not list((tmp_path / "runs").glob("*/metrics.jsonl"))


def test_looking_changes_nothing(tmp_path, corpus):
    config = make_config(tmp_path, corpus)
    losses = []
    for look in (False, True):
        task = make_task(config, Place(0, 1), CPU)
        if look:
            before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
            task.activation_bytes(half=False)
            assert all(torch.equal(before[name], tensor) for name, tensor in task.model.state_dict().items())
            assert task.model.training
        drawn = torch.rand(1)
        trainer = Trainer(task, config)
        losses.append((drawn, [float(trainer.step(0.0)["train/loss"]) for _ in range(2)]))
    assert losses[0] == losses[1]


def test_kept_bytes_are_what_backward_needs():
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 8))
    x = torch.zeros(10, 16)
    # The input, tanh's output once for both that need it; no weights
    assert kept_bytes(model, lambda: model(x).sum()) == 4 * 10 * (16 + 32)


def test_limits_of_groups_count(tmp_path):
    inner = tmp_path / "pod"
    inner.mkdir()
    for folder, limit in ((inner, "1000000"), (tmp_path, "max")):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text("700000\n")
        (folder / "memory.stat").write_text("anon 400000\ninactive_file 150000\nactive_file 50000\n")
    assert list(group_free_bytes(iter([inner, tmp_path, tmp_path / "none"]))) == [500_000]
    old = tmp_path / "old"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("900\n")
    (old / "memory.usage_in_bytes").write_text("1000\n")
    (old / "memory.stat").write_text("total_inactive_file 10\n")
    assert list(group_free_bytes(iter([old]))) == [0]
    assert 0 < free_bytes(CPU) < 1 << 50
