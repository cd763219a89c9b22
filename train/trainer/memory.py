"""How much memory a run will take, and how much there is: estimated before the first step, never allocated to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from triforce.ingest.cores import cgroups

TRAINED_BYTES = 20
"""Bytes of a trained parameter: float32 weight, gradient, two moments of AdamW, moving average."""
FROZEN_BYTES = 8
"""Bytes of a frozen parameter: float32 weight and moving average."""
HALF_BYTES = 2
"""Bytes of a trained parameter's copy in half precision, which products are of."""
COPIED_BYTES = 16
"""Bytes of a trained parameter's copy while a checkpoint is written: without the gradient. On a GPU it is not there."""

COMPILED_SHARE = 0.65
"""What a compiled network keeps of what it keeps otherwise, since fused operations keep no results between them. GPT
`medium` on an H100: 22.3 GB against 31.7 (train/README.md)."""


def state_bytes(model: nn.Module, device: torch.device, *, half: bool = False, shards: int = 1) -> int:
    """Bytes that weights, gradients, averages and the optimizer's state will take of a worker's device, with the copy
    that a checkpoint is written from where that is host memory, and in ``half`` precision that which products are
    of. ``shards`` workers share them.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    copied = (COPIED_BYTES if device.type == "cpu" else 0) + (HALF_BYTES if half else 0)
    return ((TRAINED_BYTES + copied) * trained + FROZEN_BYTES * frozen) // shards


def kept_bytes(model: nn.Module, loss: Callable[[], torch.Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass, weights and buffers aside. The pass is taken: in
    evaluation mode, so that nothing in the model moves, and without a trace in the global generators.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    training = model.training
    gpus = [index for index in {p.device.index for p in model.parameters() if p.is_cuda} if index is not None]
    model.eval()
    try:
        with torch.random.fork_rng(gpus), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            held = loss()  # until the sum is taken, so that no address is used twice
            return sum(kept.values()) if held.requires_grad else 0
    finally:
        model.train(training)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process can still get: of a GPU's memory, or of the machine's that is neither in use nor beyond
    what the process's control groups allow; None where that cannot be told. Swap does not count.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        import psutil  # a bare machine may have none
    except ImportError:
        return None
    return min([psutil.virtual_memory().available, *group_free_bytes(cgroups("memory"))])


def group_free_bytes(folders: Iterator[Path]) -> Iterator[int]:
    """Yield what is left of the memory limit of each control group that has one. Cached files count as free, for they
    give way.
    """
    for folder in folders:
        version_2 = (folder / "memory.max").exists()
        names = ("memory.max", "memory.current", "")
        limit, used, total = names if version_2 else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        try:
            most, current = (folder / limit).read_text().strip(), int((folder / used).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # the outermost group has no limit
            continue
        if most != "max":
            cached = sum(int(stat.get(f"{total}{kind}_file", 0)) for kind in ("inactive", "active"))
            yield max(0, int(most) - current + cached)
