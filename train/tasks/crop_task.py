"""What the tasks that train on crops have in common."""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from functools import partial
from typing import Any

import torch

from triforce.train.data.base import Crops
from triforce.train.data.config import CROP_AXES
from triforce.train.data.crop_stream import streaming
from triforce.train.tasks.base import Task
from triforce.train.trainer.memory import COMPILED_SHARE, kept_bytes

MEASURED_PIXELS = 64
"""Positions along each axis of the crop of pixels that is measured, at most: what is kept grows with their number."""


class CropTask(Task):
    """A task whose batches are crops of clips, which other processes may read ahead."""

    config: Any
    crops: Crops

    def read_ahead(self) -> contextlib.AbstractContextManager[None]:
        config = self.config
        return streaming(self.crops.streamed, config, config.part_size, config.max_steps * config.accumulation)

    @abstractmethod
    def example(self, count: int, size: tuple[int, ...]) -> Any:
        """Return a batch of ``count`` samples of ``size`` positions, as `next_batch` gives it, of no content."""

    def activation_bytes(self, half: bool) -> int:
        """Measured: what the loss of two samples keeps beyond that of one, of pixels of a part of each."""
        config = self.config
        pixels = config.modality in CROP_AXES
        size = config.crop if pixels else (config.crop_frames,)
        taken = tuple(min(n, MEASURED_PIXELS) for n in size) if pixels else size
        device = next(self.model.parameters()).device

        def loss(count: int) -> torch.Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                return self.loss(self.example(count, taken))[0]

        one, two = (kept_bytes(self.model, partial(loss, count)) for count in (1, 2))
        return int((two - one) * math.prod(size) / math.prod(taken) * (COMPILED_SHARE if config.compile else 1))


def samples(
    count: int, channels: int, size: tuple[int, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return zeros ``(count, channels, *size)`` and their sizes ``(count, D)``."""
    return torch.zeros(count, channels, *size, device=device), torch.tensor([size] * count, device=device)
