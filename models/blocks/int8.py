"""Weights rounded to int8."""

from __future__ import annotations

import torch

LARGEST = 127
"""Steps of a weight at most."""


def to_int8(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a matrix or filters ``(N, ...)`` to int8, and return it with the size of a step ``(N,)`` in each row."""
    scale = (tensor.float().flatten(1).abs().amax(1) / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    steps = (tensor.float() / scale.view(-1, *[1] * (tensor.ndim - 1))).round().clamp(-LARGEST, LARGEST)
    return steps.to(torch.int8), scale
