"""What workers share: gradients (DDP), or weights, gradients and the optimizer's state too (FSDP2).

A checkpoint is the same whole one either way, whatever the number of workers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_RANK_0 = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def shard(model: nn.Module, root: nn.Module) -> None:
    """Shard ``model`` over all workers in place, a block at a time; ``root``, which holds it, takes what is left."""
    for block in model.blocks:
        fully_shard(block)
    fully_shard(root)


def whole_weights(model: nn.Module, names: set[str]) -> dict[str, torch.Tensor]:
    """Return the tensors in ``names`` whole on rank 0; every rank must call it."""
    tensors = get_model_state_dict(model, options=WHOLE)
    return {name: tensors[name].contiguous() for name in names if name in tensors}


def load_whole_weights(model: nn.Module, tensors: dict[str, torch.Tensor], aliases: dict[str, str]) -> None:
    """Load and shard what `whole_weights` gave. ``aliases`` has a tied tensor's name by its other name."""
    whole = tensors | {alias: tensors[name] for alias, name in aliases.items() if name in tensors}
    set_model_state_dict(model, whole, options=FROM_RANK_0)


def whole_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimizer's state by the parameters' names on rank 0; every rank must call it."""
    return get_optimizer_state_dict(model, optimizer, options=WHOLE)


def load_whole_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load and shard what `whole_optimizer` gave."""
    set_optimizer_state_dict(model, optimizer, state, options=FROM_RANK_0)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this worker's part of a tensor that may be sharded over all."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def tied_names(model: nn.Module) -> dict[str, str]:
    """Return the names of tensors that share memory with an earlier one, each with the earlier one's name."""
    first: dict[int, str] = {}
    aliases = {}
    for name, tensor in model.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in first:
            aliases[name] = first[tensor.data_ptr()]
        first.setdefault(tensor.data_ptr(), name)
    return aliases
