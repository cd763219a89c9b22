"""Ray Train for real: two workers, one of them killed, and a second call that finds all done."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
import torch
from corpora import add_recording

from triforce.ingest.corpus.store import Corpus
from triforce.models.release import Release
from triforce.tokenize.ray_session import connect
from triforce.train.config import RECIPES, STAGE_CONFIGS, TrainConfig, train_config
from triforce.train.data.order import Place
from triforce.train.job import train
from triforce.train.tasks.dvae import DVAETask
from triforce.train.tasks.registry import TASKS
from triforce.train.trainer.loop import Trainer


@pytest.fixture(scope="module")
def cluster():
    connect(num_cpus=2)
    yield
    ray.shutdown()


def make_config(folder: Path, corpus: Corpus, **settings) -> TrainConfig:
    return train_config(
        stage="dvae",
        release=str(folder / "release"),
        runs=str(folder / "runs"),
        corpus=corpus.uri,
        model={"hidden": 16, "num_blocks": 1, "quantizer": "fsq"},
        **(
            {
                "batch_size": 4,
                "crop_frames": 32,
                "threads_per_worker": 1,
                "precision": "float32",
                "eval_every": 1000,
                "log_every": 1,
            }
            | settings
        ),
    )


def curve(history: list[dict]) -> dict[int, float]:
    return {entry["step"]: entry["train/loss"] for entry in history}


def logged(config: TrainConfig, run_name: str) -> dict[int, float]:
    """The curve that a run on Ray left."""
    return curve(
        [json.loads(line) for line in (Path(config.runs) / run_name / "metrics.jsonl").read_text().splitlines()]
    )


def undisturbed(config: TrainConfig) -> Trainer:
    """The same run in this process, on one worker."""
    torch.manual_seed(config.seed)
    trainer = Trainer(DVAETask(config, Place(0, 1), torch.device("cpu")), config)
    trainer.fit(lambda trainer, metrics, save: None, lambda history: None)
    return trainer


def kill_the_worker(runs: Path, killed: list[int]) -> None:
    """Once a checkpoint is there, SIGKILL the training process."""
    me = psutil.Process()
    for _ in range(3000):
        time.sleep(0.1)
        if not list(runs.glob("*/checkpoint_*")):
            continue
        for process in me.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # processes come and go
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    killed.append(process.pid)
                    os.kill(process.pid, signal.SIGKILL)
                    return


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_and_a_second_call_does_nothing(tmp_path, cluster):
    corpus = Corpus(str(tmp_path / "corpus"))
    add_recording(corpus, "feed", "a", 12)
    config = make_config(tmp_path, corpus, max_steps=250, checkpoint_every_s=1.5, launcher="ray")
    killed: list[int] = []
    killer = threading.Thread(target=kill_the_worker, args=(Path(config.runs), killed))
    killer.start()
    summary = train(config, progress=False)
    killer.join()
    assert killed, "no worker was found to kill"
    assert summary.steps == 250
    assert logged(config, summary.run_name) == pytest.approx(curve(undisturbed(config).state.history), rel=1e-3)
    assert Release.load(config.release).dvae.config.hidden == 16

    again = train(config, progress=False)
    assert again.skipped
    assert again.hash == summary.hash


@pytest.mark.slow
def test_two_workers_learn_what_one_does(tmp_path, cluster, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Ray's workers are elsewhere, and find relative folders all the same
    corpus = Corpus("corpus")
    add_recording(corpus, "feed", "a", 12)
    config = make_config(Path(), corpus, num_workers=2, max_steps=10)
    train(config, progress=False)
    alone = make_config(Path(), corpus, max_steps=10)
    trainer = undisturbed(alone)
    together = Release.load(config.release).dvae
    batch, sizes = trainer.task.crops.batch(Place(0, 1), 8)
    torch.manual_seed(alone.seed)  # the weights that training began with
    untrained = DVAETask(alone, Place(0, 1), torch.device("cpu")).model
    errors = [float((m(batch, sizes).reconstruction - batch).abs().mean()) for m in (together, trainer.ema, untrained)]
    # The same clips in each step, gradients averaged over workers: the same network, but for the order of sums.
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)
    assert errors[2] > 1.01 * errors[1]


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match="triforce ingest"):
        train(make_config(tmp_path, Corpus(str(tmp_path / "none"))))
    config = train_config(stage="gpt", release=str(tmp_path), runs=str(tmp_path), tokens=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="triforce train dvae"):
        train(config)


def test_every_stage_has_a_task():
    assert TASKS.keys() == STAGE_CONFIGS.keys() == RECIPES.keys()
