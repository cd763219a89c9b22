"""What every training task provides to the loop and to the job."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from triforce.train.data.order import Place


class Task(Protocol):
    """What is trained, on what, and how well it does."""

    model: nn.Module
    place: Place

    def next_batch(self) -> Any:
        """This worker's part of the next step's batch; moves ``place``."""
        ...

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Scalar to minimise, and what to plot. Draws from torch's global generator alone."""
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of ``model``, a copy of the task's own with averaged weights, on clips that training never sees."""
        ...

    def anneal(self, progress: float) -> None:
        """Told before each step how much of the run is behind, 0 to 1."""
        ...
