"""What a teacher is: a frozen network that hears how much of a clip its decode has kept."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Teacher(nn.Module, ABC):
    """A frozen network whose features of a decode are to be those of the original.

    A teacher is no part of the model that is trained, of its checkpoints or of a release. It draws nothing at random
    and does not wait for the device.
    """

    hash: str
    """SHA-256 of its weights: part of what a run has read."""

    @abstractmethod
    def forward(self, decoded: torch.Tensor, original: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """Return how far ``decoded`` is from ``original``, both ``(B, C, *size)``, as a scalar with a gradient for
        ``decoded``: 0 where nothing that the teacher hears is lost, 1 where it hears no more than of a constant.

        ``sizes`` ``(B, D)`` are the samples' own sizes; what lies past them counts nothing.
        """
