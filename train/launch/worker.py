"""What a worker does, whoever started it: make the task, go on from the last checkpoint, train, write the release."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from triforce.ingest import storage
from triforce.ingest.cores import num_cores
from triforce.models.memory import reuse_freed_memory
from triforce.models.release_files import stage_files
from triforce.train.config import TrainConfig
from triforce.train.data.order import Place
from triforce.train.launch import checkpoints
from triforce.train.launch.room import require_room
from triforce.train.tasks.base import Task
from triforce.train.tasks.registry import make_task
from triforce.train.trainer.curves import Curves, as_lines
from triforce.train.trainer.loop import Trainer

PACKAGES = ("triforce", "torch", "ray")
"""Packages whose versions the card names, where they are installed."""


@dataclass(frozen=True)
class Run:
    """A run to be worked on, the same on every worker."""

    config: TrainConfig
    name: str
    inputs: dict[str, str]
    """Hashes of what is read."""

    @property
    def uri(self) -> str:
        """The folder of its checkpoints and curves."""
        return storage.join(self.config.runs, self.name)


@dataclass(frozen=True)
class Worker:
    """One of the workers of a run."""

    rank: int
    num_workers: int
    local_workers: int
    """Workers on this one's machine, which share its cores and its memory."""
    device: torch.device

    def num_threads(self, config: TrainConfig) -> int:
        """CPU threads of this worker: as the config says, or its share of the cores of the machine that it is on."""
        return config.threads_per_worker or max(1, num_cores() // self.local_workers)


Report = Callable[[Trainer, dict[str, float], bool], None]
"""Takes the trainer, its metrics, and whether to save a checkpoint."""


def work(run: Run, worker: Worker, reporting: AbstractContextManager[Report], restored: Path | None = None) -> None:
    """Train to the end. Leaving ``reporting`` waits for the last checkpoint; then the release is written. ``restored``
    is a local checkpoint that the launcher kept; one below the run's folder that has come further goes before it.
    """
    config, device = run.config.for_workers(worker.num_workers), worker.device
    if device.type == "cpu":
        reuse_freed_memory()
    task = make_task(config, Place(worker.rank, worker.num_workers), device)
    require_room(task, config, worker.device, worker.local_workers)
    trainer = Trainer(task, config, rank=worker.rank, num_workers=worker.num_workers, device=str(device))
    _resume(trainer, run, restored)
    with reporting as report, Curves(run.uri, trainer.state.step) as curves, task.read_ahead():
        trainer.fit(report, curves)
    averaged = trainer.averaged()
    if worker.rank == 0:
        write_release(trainer, task, run.config, {"run_name": run.name, "inputs": run.inputs}, averaged)


def _resume(trainer: Trainer, run: Run, restored: Path | None) -> None:
    step = -1 if restored is None else int(json.loads((restored / "state.json").read_text())["step"])
    found = checkpoints.newest(run.uri)
    if found is not None and found[0] > step:
        with checkpoints.as_folder(found[1]) as folder:
            trainer.load(folder)
    elif restored is not None:
        trainer.load(restored)


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
        "versions": _versions(),
    } | task.card(settings["inputs"])
    folder = storage.join(config.release, config.stage)
    storage.remove(storage.join(folder, "config.json"))  # no half of an earlier stage may pass for this one
    storage.write_bytes(storage.join(folder, "metrics.jsonl"), as_lines(history))
    for name, data in stage_files(config.stage, task.released(averaged), card, task.tokenizer).items():
        storage.write_bytes(storage.join(folder, name), data)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a bare machine runs from the sources, without Ray
            continue
    return found
