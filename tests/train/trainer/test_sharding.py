"""Sharded weights against gradients that are shared, in two processes; checkpoints that fit any number of workers."""

import json
import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp

from triforce.models.gpt import GPT, GPTConfig
from triforce.train.config import TrainConfig, train_config
from triforce.train.data.order import Place
from triforce.train.tasks.base import Task
from triforce.train.tasks.gpt_loss import speech_vocabulary, token_losses
from triforce.train.trainer.loop import Trainer

VOCABULARY = speech_vocabulary(30, 40)


class SequenceTask(Task):
    """Rows whose next id follows from the last: whoever is at a position of the order gets the same row."""

    def __init__(self, config: TrainConfig, place: Place) -> None:
        torch.manual_seed(0)
        self.config, self.place = config, place
        self.model = GPT(GPTConfig(vocabulary=VOCABULARY, num_layers=2, width=32, num_heads=2, max_positions=32))

    @classmethod
    def make(cls, config: TrainConfig, place: Place, device: torch.device) -> Task:
        return cls(config, place)

    @classmethod
    def input_hashes(cls, config: TrainConfig) -> dict[str, str]:
        return {}

    def next_batch(self) -> SimpleNamespace:
        return self._rows([self.place.next() for _ in range(self.config.part_size)])

    def _rows(self, positions: list[int]) -> SimpleNamespace:
        rows = torch.stack([(position * 7 + torch.arange(25) * 3) % 70 + 1 for position in positions])
        ids, targets = rows[:, :-1], rows[:, 1:]
        positions, ones = torch.arange(24).expand(ids.shape), torch.ones_like(ids)
        return SimpleNamespace(ids=ids, targets=targets, positions=positions, documents=ones, weights=ones.float())

    def loss(self, batch: SimpleNamespace) -> tuple[torch.Tensor, dict]:
        losses, _ = token_losses(self.model, batch)
        return losses.mean(), {}

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        with torch.no_grad():
            losses, _ = token_losses(model, self._rows([0, 1, 2, 3]))
        return {"loss": float(losses.mean())}


def make_config(sharding: str, num_workers: int, steps: int) -> TrainConfig:
    return train_config(
        stage="gpt",
        release="r",
        runs="x",
        tokens="t",
        sharding=sharding,
        num_workers=num_workers,
        batch_size=8,
        accumulation=2,
        max_steps=steps,
        eval_every=2,
        log_every=1,
        checkpoint_every_s=1e-6,
        precision="float32",  # sums in another order are to differ in the last digits alone
        optimizer={"learning_rate": 3e-3, "warmup_steps": 2, "decay_share": 0},
    )


def fit(rank: int, num_workers: int, sharding: str, folder: Path, steps: int) -> None:
    """Train on one of ``num_workers`` from the checkpoint in ``folder``, if any, and leave one there."""
    folder.mkdir(exist_ok=True)
    config = make_config(sharding, num_workers, steps)
    trainer = Trainer(SequenceTask(config, Place(rank, num_workers)), config, rank=rank, num_workers=num_workers)
    if (folder / "state.json").exists():
        trainer.load(folder)
        if num_workers > 1:  # nobody writes before all have read
            torch.distributed.barrier()
    trainer.fit(lambda trainer, metrics, save: trainer.save(folder), lambda history: None)
    averaged = trainer.averaged()
    if rank == 0:
        torch.save(averaged.state_dict(), folder / "averaged.pt")


def two_workers(rank: int, folder: Path, port: int) -> None:
    """Gradients shared; then weights sharded, with a stop after three steps, whose checkpoint is kept."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    fit(rank, 2, "ddp", folder / "ddp", 6)
    fit(rank, 2, "fsdp", folder / "fsdp", 3)
    if rank == 0:
        shutil.copytree(folder / "fsdp", folder / "three")
    fit(rank, 2, "fsdp", folder / "fsdp", 6)
    torch.distributed.destroy_process_group()


def result(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """The averaged weights and the history that a run left."""
    state = json.loads((folder / "state.json").read_text())
    return torch.load(folder / "averaged.pt", weights_only=True), state["history"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_sharded_weights_learn_what_shared_gradients_do_and_resume_on_any_number_of_workers(tmp_path):
    mp.spawn(two_workers, (tmp_path, free_port()), nprocs=2)
    fit(0, 1, "ddp", tmp_path / "one", 6)
    whole, history = result(tmp_path / "one")
    for name in ("ddp", "fsdp"):
        weights, found = result(tmp_path / name)
        assert [entry["step"] for entry in found] == [1, 2, 3, 4, 5, 6]
        for key, tensor in whole.items():
            torch.testing.assert_close(weights[key], tensor, atol=1e-4, rtol=1e-3)
        # Worker 0's curve shows the loss of its own half of the batch; the gradient and the evaluation are everyone's.
        for one, other in zip(history, found, strict=True):
            assert one["train/grad_norm"] == pytest.approx(other["train/grad_norm"], rel=1e-3)
            if "eval/loss" in one:
                assert one["eval/loss"] == pytest.approx(other["eval/loss"], rel=1e-3)
    fit(0, 1, "ddp", tmp_path / "three", 6)  # one worker is left, and what was sharded is whole
    for key, tensor in result(tmp_path / "three")[0].items():
        torch.testing.assert_close(tensor, whole[key], atol=1e-4, rtol=1e-3)
