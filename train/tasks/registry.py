"""The task of each stage. A new stage is a config class in the union of `config`, a task, and a line here."""

from __future__ import annotations

import torch

from triforce.train.config import TrainConfig
from triforce.train.data.order import Place
from triforce.train.tasks.base import Task
from triforce.train.tasks.diffusion import DiffusionTask
from triforce.train.tasks.dvae import DVAETask
from triforce.train.tasks.gpt import GPTTask
from triforce.train.tasks.vocoder import VocoderTask

TASKS: dict[str, type[Task]] = {
    "dvae": DVAETask,
    "gpt": GPTTask,
    "diffusion": DiffusionTask,
    "vocoder": VocoderTask,
}


def make_task(config: TrainConfig, place: Place, device: torch.device) -> Task:
    """Return the task of a config, with weights that its seed fixes."""
    torch.manual_seed(config.seed)
    return TASKS[config.stage].make(config, place, device)


def input_hashes(config: TrainConfig) -> dict[str, str]:
    """Hashes of what a run reads: its data, and the networks that it stands on."""
    return TASKS[config.stage].input_hashes(config)
