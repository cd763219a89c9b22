"""What a training task provides to the loop and to the job."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from triforce.models.reading.front_end import FrontEnd
from triforce.train.data.order import Place


class Task(ABC):
    """What is trained, on what, and how well it does. Subclasses are registered by stage in `registry`."""

    model: nn.Module
    """What is trained; its averaged copy is given to `evaluate` and `released`."""
    place: Place
    """Where this worker is in the order of samples."""
    tokenizer: FrontEnd | None = None
    """Text tokenizer that the release needs beside the network."""

    @classmethod
    @abstractmethod
    def make(cls, config: Any, place: Place, device: torch.device) -> Task:
        """Return the task of a config of this stage, with what it needs of the release loaded."""

    @classmethod
    @abstractmethod
    def input_hashes(cls, config: Any) -> dict[str, str]:
        """Hashes of what a run reads, by name. Raises FileNotFoundError or ValueError where something is missing or
        does not fit together.
        """

    @classmethod
    def describe(cls, config: Any) -> str:
        """What a run will take, before it starts; empty where there is nothing to say."""
        return ""

    @abstractmethod
    def next_batch(self) -> Any:
        """Return this worker's part of the next step's batch; moves ``place``."""

    @abstractmethod
    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the scalar to minimise, and what to plot. Draws from torch's global generator alone."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of ``model``, a copy of the task's own with averaged weights, on clips that training never sees."""

    def anneal(self, progress: float) -> None:  # noqa: B027 - most tasks have nothing to adapt
        """Adapt to ``progress``, the share of the run that is behind, 0 to 1; called before each step."""

    def activation_bytes(self, half: bool) -> int:
        """Bytes that a sample or row of the config's size keeps for its backward pass, where matrix products are in
        ``half`` precision or not; 0 where that is not known.
        """
        return 0

    def close(self) -> None:  # noqa: B027 - most tasks hold nothing open
        """Free what the task holds open; called at the end of a run."""

    def released(self, model: nn.Module) -> nn.Module:
        """The part of ``model`` that a release holds."""
        return model

    def card(self, inputs: dict[str, str]) -> dict[str, Any]:
        """Fields of the release's ``config.json`` that this stage has beside those of all; ``inputs`` as from
        `input_hashes`.
        """
        return {}

    def read_ahead(self) -> contextlib.AbstractContextManager[None]:
        """Let other processes read for the task while the context lasts, where the config asks for it."""
        return contextlib.nullcontext()
