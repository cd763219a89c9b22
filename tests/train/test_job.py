"""Ray Train for real: two workers, one of them killed, and a second call that finds all done."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
from corpora import add_recording

from triforce.ingest.corpus import Corpus
from triforce.models.release import Release
from triforce.train.config import TrainConfig
from triforce.train.job import train


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def make_config(folder: Path, corpus: Corpus, **settings) -> TrainConfig:
    return TrainConfig(
        stage="dvae",
        release=str(folder / "release"),
        runs=str(folder / "runs"),
        corpus=corpus.uri,
        model={"hidden": 16, "stem": 8, "num_blocks": 1},
        **(
            {"batch_size": 4, "crop_frames": 32, "threads_per_worker": 1, "eval_every": 1000, "log_every": 1} | settings
        ),
    )


def curve(config: TrainConfig, run_name: str) -> dict[int, float]:
    lines = (Path(config.runs) / run_name / "metrics.jsonl").read_text().splitlines()
    return {entry["step"]: entry["train/loss"] for entry in map(json.loads, lines)}


def kill_a_worker(runs: Path, after_step: int, killed: list[int]) -> None:
    """Once a checkpoint is there and ``after_step`` steps are logged, SIGKILL one training process."""
    me = psutil.Process()
    for _ in range(600):
        time.sleep(0.1)
        logs = list(runs.glob("*/metrics.jsonl"))
        workers = [
            p for p in me.children(recursive=True) if "ray::" in p.name() or "ray::" in " ".join(p.cmdline()[:1])
        ]
        workers = [p for p in workers if "RayTrainWorker" in " ".join(p.cmdline())]
        if logs and workers and list(runs.glob("*/checkpoint_*")) and logs[0].read_text().count("\n") >= after_step:
            killed.append(workers[-1].pid)
            os.kill(workers[-1].pid, signal.SIGKILL)
            return


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_and_a_second_call_does_nothing(tmp_path, cluster):
    corpus = Corpus(str(tmp_path / "corpus"))
    add_recording(corpus, "feed", "a", 12)
    straight = train(make_config(tmp_path / "straight", corpus, num_workers=2, max_steps=120), progress=False)

    config = make_config(tmp_path / "killed", corpus, num_workers=2, max_steps=120, checkpoint_every_s=0.5)
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(Path(config.runs), 20, killed))
    killer.start()
    summary = train(config, progress=False)
    killer.join()
    assert killed, "no worker was found to kill"
    assert summary.steps == 120
    expected, found = (
        curve(make_config(tmp_path / "straight", corpus), straight.run_name),
        curve(config, summary.run_name),
    )
    assert found == pytest.approx(expected, rel=1e-4)
    assert Release.load(config.release).dvae.config.hidden == 16

    again = train(config, progress=False)
    assert again.skipped
    assert again.hash == summary.hash


@pytest.mark.slow
def test_two_workers_learn_what_one_does(tmp_path, cluster):
    corpus = Corpus(str(tmp_path / "corpus"))
    add_recording(corpus, "feed", "a", 12)
    losses = []
    for num_workers in (1, 2):
        config = make_config(tmp_path / str(num_workers), corpus, num_workers=num_workers, max_steps=10)
        summary = train(config, progress=False)
        losses.append(curve(config, summary.run_name))
    # The same clips in each step, averaged over workers; the curve of worker 0 shows its own half.
    assert losses[0].keys() == losses[1].keys()
    assert losses[1][10] == pytest.approx(losses[0][10], rel=0.2)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match="triforce ingest"):
        train(make_config(tmp_path, Corpus(str(tmp_path / "none"))))
    config = TrainConfig(stage="gpt", release=str(tmp_path), runs=str(tmp_path), tokens=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="triforce train dvae"):
        train(config)
