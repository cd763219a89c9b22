"""The launcher ``ray``: Ray Train starts the workers, on this machine or a cluster, and restarts them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from triforce.ingest import storage
from triforce.tokenize.ray_session import connect
from triforce.train.config import ClusterConfig, train_config
from triforce.train.launch.worker import Run, work
from triforce.train.trainer.loop import Trainer


def launch(run: Run, num_threads: int) -> None:
    """Train to the end on ``num_workers`` workers of ``num_threads`` threads each."""
    config = run.config
    connect()
    TorchTrainer(
        _worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "run_name": run.name,
            "inputs": run.inputs,
            "num_threads": num_threads,
        },
        scaling_config=ScalingConfig(num_workers=_num_workers(config), use_gpu=config.use_gpu),
        run_config=RunConfig(
            name=run.name,
            storage_path=storage.absolute(config.runs),
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    ).fit()


def _num_workers(config: ClusterConfig) -> int | tuple[int, int]:
    """A number, or the range within which Ray goes on with the workers that it can get."""
    return config.num_workers if config.min_workers is None else (config.min_workers, config.num_workers)


def _worker(settings: dict[str, Any]) -> None:
    """Train on one worker of Ray Train, from the last checkpoint where there is one."""
    run = Run(train_config(**settings["config"]), settings["run_name"], settings["inputs"])
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(settings["num_threads"])  # Ray gives a worker one thread a core that it reserves
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        work(run, rank, num_workers, get_device(), _report)
        return
    with checkpoint.as_directory() as folder:
        work(run, rank, num_workers, get_device(), _report, Path(folder))


def _report(trainer: Trainer, metrics: dict[str, float], save: bool) -> None:
    metrics = {"step": trainer.state.step, **metrics}
    if not save or (trainer.rank and not trainer.sharded):
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory(prefix="triforce-checkpoint-") as folder:
        trainer.save(Path(folder))
        ray.train.report(metrics, checkpoint=None if trainer.rank else Checkpoint.from_directory(folder))
