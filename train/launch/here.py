"""The launcher ``here``: train in this process, and under ``torchrun`` in each of its processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import distributed

from triforce.train.launch import checkpoints
from triforce.train.launch.worker import Report, Run, Worker, work
from triforce.train.trainer.loop import Trainer


def launch(run: Run) -> None:
    """Train to the end. Raises ValueError where `torchrun` started another number of processes than the config has
    workers, and RuntimeError where a GPU is asked for and there is none.
    """
    rank, num_workers, local_rank, local_workers = _ranks()
    if num_workers != run.config.num_workers:
        raise ValueError(
            f"num_workers {run.config.num_workers}: launcher here trains in the processes that there are, "
            f"{num_workers}; start `torchrun --nproc-per-node {run.config.num_workers} -m triforce.train ...`, or give "
            "launcher=ray"
        )
    worker = Worker(rank, num_workers, local_workers, _device(run.config.use_gpu, local_rank))
    threads = torch.get_num_threads()
    torch.set_num_threads(worker.num_threads(run.config))
    try:
        with _process_group(num_workers, worker.device):
            work(run, worker, _reporting(run))
    finally:
        torch.set_num_threads(threads)


def under_torchrun() -> bool:
    """Whether `torchrun` started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _ranks() -> tuple[int, int, int, int]:
    """Rank and number of processes, among all and on this machine."""
    if not under_torchrun():
        return 0, 1, 0, 1
    found = os.environ
    rank, num_workers = int(found["RANK"]), int(found["WORLD_SIZE"])
    return rank, num_workers, int(found.get("LOCAL_RANK", "0")), int(found.get("LOCAL_WORLD_SIZE", num_workers))


def _device(use_gpu: bool, local_rank: int) -> torch.device:
    if not use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError("use_gpu: this machine has no GPU that torch can use; leave it out, or train elsewhere")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@contextlib.contextmanager
def _process_group(num_workers: int, device: torch.device) -> Iterator[None]:
    if not under_torchrun() or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def _reporting(run: Run) -> Iterator[Report]:
    """Give what saves checkpoints while steps go on; wait for the last one at the end."""
    with checkpoints.Writer(run.uri) as writer:

        def report(trainer: Trainer, metrics: dict[str, float], save: bool) -> None:
            if not save or (trainer.rank and not trainer.sharded):
                return
            writer.wait()  # before the copy: there is room for one
            if (snapshot := trainer.snapshot()) is not None:
                writer.submit(snapshot)

        yield report
