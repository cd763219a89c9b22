"""The launcher ``ray``: Ray Train starts the workers, on this machine or a cluster, and restarts them."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, CheckpointUploadMode, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from triforce.ingest import storage
from triforce.tokenize.ray_session import connect
from triforce.train.config import ClusterConfig, train_config
from triforce.train.launch import checkpoints
from triforce.train.launch.worker import Report, Run, Worker, work
from triforce.train.trainer.loop import Trainer
from triforce.train.trainer.snapshot import Snapshot

log = logging.getLogger(__name__)

PATIENCE_S = 1800.0
"""Time after which a worker no longer waits for a checkpoint to be written: Ray writes none whose report it passed over
because another worker had died. Assumed."""


def launch(run: Run) -> None:
    """Train to the end on the config's workers."""
    config = run.config
    connect()
    TorchTrainer(
        _worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "run_name": run.name,
            "inputs": run.inputs,
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
    worker = Worker(context.get_world_rank(), context.get_world_size(), context.get_local_world_size(), get_device())
    torch.set_num_threads(worker.num_threads(run.config))  # Ray gives a worker one thread a core that it reserves
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        work(run, worker, _reporting(run))
        return
    with checkpoint.as_directory() as folder:
        work(run, worker, _reporting(run), Path(folder))


@contextlib.contextmanager
def _reporting(run: Run) -> Iterator[Report]:
    """Give what reports to Ray, whose thread writes checkpoints while steps go on; wait for the last at the end."""
    upload = _Upload(run.uri)

    def report(trainer: Trainer, metrics: dict[str, float], save: bool) -> None:
        upload.wait()  # before the copy: there is room for one
        metrics = {"step": trainer.state.step, **metrics}
        takes_part = save and (trainer.sharded or not trainer.rank)
        snapshot = trainer.snapshot() if takes_part else None
        if snapshot is None:
            ray.train.report(metrics)
            return
        upload.begin(snapshot)
        ray.train.report(
            metrics,
            checkpoint=Checkpoint.from_directory(tempfile.mkdtemp(prefix="triforce-checkpoint-")),  # Ray removes it
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=upload,
        )

    yield report
    upload.wait()
    if upload.failed is not None:  # Ray ends this worker too, and starts another from the last checkpoint
        raise checkpoints.CheckpointError(f"{run.uri}: the last checkpoint was not written") from upload.failed


class _Upload:
    """Writes one snapshot at a time where Ray keeps the run's checkpoints, under the name that Ray gives it."""

    def __init__(self, run_uri: str) -> None:
        self.run_uri = run_uri
        self._done = Event()
        self._done.set()
        self.failed: Exception | None = None
        self._snapshot: Snapshot | None = None

    def begin(self, snapshot: Snapshot) -> None:
        """Take the snapshot that Ray's thread is about to write."""
        self._snapshot = snapshot
        self._done.clear()

    def wait(self) -> None:
        """Return when nothing is being written."""
        if not self._done.wait(PATIENCE_S):
            log.warning("%s: a checkpoint was not written within %.0f s: going on", self.run_uri, PATIENCE_S)

    def __call__(self, _: Checkpoint, name: str) -> Checkpoint:
        """Write it; Ray ends the worker where this raises."""
        assert self._snapshot is not None, "begun"
        try:
            checkpoints.write_as(self._snapshot, self.run_uri, name)
        except Exception as error:  # some of a store's errors Ray answers by calling again
            self.failed = error
            raise
        else:
            self.failed = self._snapshot = None
        finally:
            self._done.set()
        return Checkpoint(storage.join(self.run_uri, name))
