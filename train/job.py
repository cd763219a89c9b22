"""Train a stage on Ray Train: start the workers, show progress, resume, and write the stage into the release."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from torch import nn
from tqdm import tqdm

from triforce.ingest import storage
from triforce.models.memory import reuse_freed_memory
from triforce.models.release_files import load_card, stage_files
from triforce.tokenize.ray_session import connect
from triforce.train.config import ClusterConfig, TrainConfig, train_config, with_absolute_paths
from triforce.train.data.order import Place
from triforce.train.tasks.base import Task
from triforce.train.tasks.registry import TASKS, input_hashes, make_task
from triforce.train.trainer.curves import Curves, as_lines
from triforce.train.trainer.loop import Trainer

log = logging.getLogger(__name__)

SHOWN = ("train/loss", "eval/loss", "eval/l1_nats", "eval/l1_levels", "eval/perplexity", "eval/speech_bits")
"""Metrics that the progress bar shows, where a stage has them."""


@dataclass(frozen=True)
class TrainSummary:
    """What a run came to."""

    stage: str
    run_name: str
    hash: str
    steps: int
    wall_s: float
    metrics: dict[str, float]
    skipped: bool
    """Whether the release already held the result of this run."""


def train(config: TrainConfig, *, progress: bool = True) -> TrainSummary:
    """Fit a stage, or continue where an earlier call of the same config was stopped, and write it into the release."""
    started = time.monotonic()
    config = with_absolute_paths(config)  # Ray puts workers into a folder of theirs
    inputs = input_hashes(config)
    run_name = config.run_name(inputs)
    card = _finished(config, run_name)
    if card is not None:
        return _summary(card, run_name, time.monotonic() - started, skipped=True)
    if about := TASKS[config.stage].describe(config):
        log.info("train %s: %s", config.stage, about)
    connect()
    num_threads = config.threads_per_worker or max(1, (os.cpu_count() or 1) // config.num_workers)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "run_name": run_name,
            "inputs": inputs,
            "num_threads": num_threads,
        },
        scaling_config=ScalingConfig(num_workers=_num_workers(config), use_gpu=config.use_gpu),
        run_config=RunConfig(
            name=run_name,
            storage_path=storage.absolute(config.runs),
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    with _progress_bar(config, run_name) if progress else contextlib.nullcontext():
        trainer.fit()
    card = _finished(config, run_name)
    if card is None:
        raise RuntimeError(
            f"{config.release}/{config.stage}: the workers ended without writing it; their logs are in "
            f"{config.runs}/{run_name}"
        )
    return _summary(card, run_name, time.monotonic() - started, skipped=False)


def _num_workers(config: ClusterConfig) -> int | tuple[int, int]:
    """A number, or the range within which Ray goes on with the workers that it can get."""
    return config.num_workers if config.min_workers is None else (config.min_workers, config.num_workers)


def _finished(config: TrainConfig, run_name: str) -> dict[str, Any] | None:
    """The card of the release's stage, where this run made it."""
    card = load_card(config.release, config.stage)
    return card if card is not None and card.get("run_name") == run_name else None


def _summary(card: dict[str, Any], run_name: str, wall_s: float, *, skipped: bool) -> TrainSummary:
    return TrainSummary(card["stage"], run_name, card["hash"], card["steps"], wall_s, card["metrics"], skipped)


def _worker(settings: dict[str, Any]) -> None:
    """Train on one worker of Ray Train, from the last checkpoint where there is one."""
    whole = train_config(**settings["config"])
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    config = whole.for_workers(num_workers)
    torch.set_num_threads(settings["num_threads"])  # Ray gives a worker one thread a core that it reserves
    device = get_device()
    if device.type == "cpu":
        reuse_freed_memory()
    task = make_task(config, Place(rank, num_workers), device)
    trainer = Trainer(task, config, rank=rank, num_workers=num_workers, device=str(device))
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.load(Path(folder))
    run_uri = storage.join(config.runs, settings["run_name"])
    with Curves(run_uri, trainer.state.step) as curves, task.read_ahead():
        trainer.fit(_report, curves)
    averaged = trainer.averaged()
    if rank == 0:
        write_release(trainer, task, whole, settings, averaged)


def _report(trainer: Trainer, metrics: dict[str, float], save: bool) -> None:
    metrics = {"step": trainer.state.step, **metrics}
    if not save or (trainer.rank and not trainer.sharded):
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory(prefix="triforce-checkpoint-") as folder:
        trainer.save(Path(folder))
        ray.train.report(metrics, checkpoint=None if trainer.rank else Checkpoint.from_directory(folder))


def write_release(
    trainer: Trainer, task: Task, config: TrainConfig, settings: dict[str, Any], averaged: nn.Module | None = None
) -> None:
    """Write the averaged network, the trainer's unless given, into the release. ``settings`` has the run's name and the
    hashes of its inputs.
    """
    averaged = trainer.ema if averaged is None else averaged
    history = trainer.state.history
    card = {
        "run_name": settings["run_name"],
        "inputs": settings["inputs"],
        "training": config.model_dump(mode="json"),
        "steps": trainer.state.step,
        "training_s": trainer.state.elapsed_s,
        "metrics": {key: value for entry in history for key, value in entry.items()},  # the last of each
        "versions": {name: version(name) for name in ("triforce", "torch", "ray")},
    } | task.card(settings["inputs"])
    folder = storage.join(config.release, config.stage)
    storage.remove(storage.join(folder, "config.json"))  # no half of an earlier stage may pass for this one
    storage.write_bytes(storage.join(folder, "metrics.jsonl"), as_lines(history))
    for name, data in stage_files(config.stage, task.released(averaged), card, task.tokenizer).items():
        storage.write_bytes(storage.join(folder, name), data)


@contextlib.contextmanager
def _progress_bar(config: TrainConfig, run_name: str) -> Iterator[None]:
    """Follow the run's ``metrics.jsonl``, wherever the workers are."""
    uri = storage.join(config.runs, run_name, "metrics.jsonl")
    stop = threading.Event()
    with tqdm(total=config.max_steps, desc=f"train {config.stage}", unit="step", dynamic_ncols=True) as bar:
        thread = threading.Thread(target=_follow, args=(uri, bar, stop.wait), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            _show(uri, bar)


def _follow(uri: str, bar: tqdm, wait: Callable[[float], bool]) -> None:
    while not wait(2.0):
        _show(uri, bar)


def _show(uri: str, bar: tqdm) -> None:
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        lines = storage.read_bytes(uri).decode().splitlines()
        latest = {key: value for line in lines for key, value in json.loads(line).items()}
        bar.n = int(latest["step"])
        bar.set_postfix({key: latest[key] for key in SHOWN if key in latest})
