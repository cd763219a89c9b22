"""The state of training at a step, copied to host memory, so that steps go on while it is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CHECKPOINT_FILES = ("model.safetensors", "ema.safetensors", "optimizer.pt", "state.json")
"""What a checkpoint consists of, in the order in which it is written."""


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds. It shares no memory with the trainer: later steps change nothing in it."""

    weights: dict[str, dict[str, torch.Tensor]]
    """Tensors of ``model`` and of ``ema``, its average."""
    optimizer: dict[str, Any]
    """The optimizer's ``state_dict``."""
    state: dict[str, Any]
    """Step, training time, places in the data and the curve."""

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return int(self.state["step"])

    def write(self, folder: Path) -> None:
        """Write `CHECKPOINT_FILES` into ``folder``, which exists."""
        for name, tensors in self.weights.items():
            save_file(tensors, folder / f"{name}.safetensors")
        torch.save(self.optimizer, folder / "optimizer.pt")
        (folder / "state.json").write_text(json.dumps(self.state))


def to_host(value: Any, device: torch.device) -> Any:
    """Copy nested dicts, lists and tuples with all their tensors to host memory, and wait until they are there.

    From a GPU the copies go into pinned memory one behind the other, and the device is waited for once.
    """
    copied = _copied(value)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return copied


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", non_blocking=True, copy=True)
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    return value
