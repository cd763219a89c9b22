"""Refuse a run that cannot fit in its worker's memory, and say what would."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from triforce.train.config import TrainConfig
from triforce.train.tasks.base import Task
from triforce.train.trainer.loop import freeze, in_bfloat16
from triforce.train.trainer.memory import free_bytes, state_bytes

log = logging.getLogger(__name__)

MARGIN = 1.1
"""Estimate over what there is, from which on a run is refused. What runs took was 1.2 to 1.6 times the estimate
(measured, train/README.md): nothing that fits is refused, and not all that does not."""
ROOM = 1.6
"""What there is over the estimate of what is advised, at least: the worst of the same measurements."""
ANYWAY = "check_memory=false begins it all the same"


class MemoryShortError(ValueError):
    """A run that would not fit in memory was not begun."""


def require_room(task: Task, config: TrainConfig, device: torch.device, sharers: int, free: int | None = None) -> None:
    """Raise MemoryShortError where training would take `MARGIN` times as much memory as a worker has, and say which
    ``accumulation`` would fit. ``free`` bytes are there, by default as measured; ``sharers`` workers of this machine
    share them, unless each has a GPU.
    """
    freeze(task.model, config.train_only)  # as the trainer does: what is frozen takes less
    if free is None:
        free = free_bytes(device)
    half = in_bfloat16(config.precision, device, task.model)
    a_sample = task.activation_bytes(half)
    if free is None or not a_sample:
        return
    if device.type == "cpu":
        free //= sharers
    shards = config.num_workers if config.sharding == "fsdp" else 1
    free += sum(p.numel() * p.element_size() for p in task.model.parameters())  # these are there already
    state = state_bytes(task.model, device, half=half, shards=shards)

    def needed(part_size: int) -> int:
        return state + part_size * a_sample

    total = needed(config.part_size)
    log.info("train %s: about %s of memory a worker, of %s", config.stage, _gib(total), _gib(free))
    if config.check_memory and total > MARGIN * free:
        raise MemoryShortError(_refusal(config, needed, state, free))


def _refusal(config: TrainConfig, needed: Callable[[int], int], state: int, free: int) -> str:
    a_row = f" x context {config.context}" if config.stage == "gpt" else ""
    words = (
        f"batch_size {config.batch_size}{a_row}, {config.part_size} at a time, needs about "
        f"{_gib(needed(config.part_size))} of memory a worker, and there are {_gib(free)}: "
    )
    rows = config.batch_size // config.num_workers
    for accumulation in range(config.accumulation + 1, rows + 1):
        part_size = rows // accumulation
        if rows % accumulation == 0 and ROOM * needed(part_size) <= free:
            fits = f"accumulation={accumulation}, {part_size} at a time, would take about {_gib(needed(part_size))}"
            return f"{words}{fits}; {ANYWAY}"
    shorter = "context, checkpoint_activations=true" if config.stage == "gpt" else "crops"
    alone = f"weights and optimizer alone take {_gib(state)}, one sample {_gib(needed(1) - state)} more"
    return f"{words}{alone}; give a smaller size or shorter {shorter}; {ANYWAY}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**28 else f"{count / 2**20:.0f} MiB"
