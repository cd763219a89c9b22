"""The training loop that all networks share: step, evaluate, save, and resume as if nothing had happened.

Everything random is drawn from (seed, step, rank) and everything read depends on a position, so a resumed run takes
the same steps as one that was never stopped.
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from triforce.models.decoding.products import has_bfloat16_units
from triforce.models.release_files import load_unique, unique_tensors
from triforce.train.tasks.base import Task
from triforce.train.trainer import sharding
from triforce.train.trainer.config import LoopConfig, OptimizerConfig
from triforce.train.trainer.graph import GraphedUpdate, Update
from triforce.train.trainer.snapshot import Snapshot, to_host

log = logging.getLogger(__name__)


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient is no longer a number: training would only destroy the weights."""


@dataclass
class TrainerState:
    """How far a run has come: optimizer steps, training time and the points of its curves."""

    step: int = 0
    elapsed_s: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class _Loss(nn.Module):
    """The task's loss as a module, so that DistributedDataParallel and torch.compile see one forward pass."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._task = [task]  # a list hides the task from module registration

    def forward(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self._task[0].loss(batch)


class Trainer:
    """Trains a task's network on one worker, to the end or to where it is stopped."""

    def __init__(
        self, task: Task, config: LoopConfig, *, rank: int = 0, num_workers: int = 1, device: str = "cpu"
    ) -> None:
        self.task, self.config = task, config
        self.rank, self.num_workers = rank, num_workers
        self.device = torch.device(device)
        self.half = in_bfloat16(config.precision, self.device, task.model)
        self.state = TrainerState()
        task.model.to(self.device)
        self.ema = copy.deepcopy(task.model).eval().requires_grad_(False)
        freeze(task.model, config.train_only)
        self._class = type(task.model)  # sharding changes it
        self._names, self._tied = set(unique_tensors(task.model)), sharding.tied_names(task.model)
        module: nn.Module = _Loss(task)
        self.sharded = num_workers > 1 and config.sharding == "fsdp"
        if self.sharded:
            sharding.shard(task.model, module)
            sharding.shard(self.ema, self.ema)
        self.graphed = self._can_be_graphed()
        self.optimizer = make_optimizer(task.model, config.optimizer, capturable=self.graphed)
        if num_workers > 1 and not self.sharded:
            # Buffers are codebooks and statistics that the quantizers keep in step themselves.
            module = DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)
        self.module = torch.compile(module) if config.compile else module
        self._places: list[dict[str, Any]] = []
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)
        self._average = Averaging(self.ema, task.model)
        self._update: Update = GraphedUpdate(self._take_step) if self.graphed else self._take_step

    def _can_be_graphed(self) -> bool:
        config = self.config
        return config.cuda_graph and self.device.type == "cuda" and self.num_workers == config.accumulation == 1

    def fit(
        self,
        report: Callable[[Trainer, dict[str, float], bool], None],
        log_metrics: Callable[[list[dict[str, float]]], None],
    ) -> None:
        """Train to the end. ``report(trainer, metrics, save)`` runs on every rank after an evaluation or when a
        checkpoint is due.
        """
        config, state = self.config, self.state
        started = time.monotonic() - state.elapsed_s
        saved_s = state.elapsed_s
        while (done := self.share_done()) < 1:
            metrics = self.step(done)
            state.step += 1
            state.elapsed_s, due = self._agree(time.monotonic() - started, saved_s)
            last = self.share_done() >= 1
            evaluated = state.step % config.eval_every == 0 or last
            logged = evaluated or state.step % config.log_every == 0 or state.step == 1
            if logged or due:
                metrics = self._measured(metrics)
            if evaluated:
                metrics |= {f"eval/{name}": value for name, value in self.task.evaluate(self.ema).items()}
            if logged:
                state.history.append({"step": state.step, "wall_s": round(state.elapsed_s, 2)} | metrics)
                if self.rank == 0:
                    log_metrics(state.history)
            if due or last:
                self._places = self._gather_places(self.task.place.state_dict())
                report(self, metrics, True)
                saved_s = state.elapsed_s
        self.task.close()

    def share_done(self) -> float:
        """Share of the run that is behind: by steps, or by time where the config caps it."""
        by_steps = self.state.step / self.config.max_steps
        if self.config.max_minutes is None:
            return by_steps
        return max(by_steps, self.state.elapsed_s / (60 * self.config.max_minutes))

    def step(self, done: float) -> dict[str, float | torch.Tensor]:
        """Take one optimizer step; return the training metrics under ``train/``, on a GPU as tensors that may not be
        computed yet: to read one is to wait for the GPU.
        """
        config, step = self.config, self.state.step
        if not self.graphed:  # a graph draws on from where the device's generator was
            torch.manual_seed(step_seed(config.seed, step, self.rank))
        self.task.anneal(done)
        self.module.train()
        rate = learning_rate(config.optimizer, step, done)
        for group in self.optimizer.param_groups:
            if self.graphed:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        started, waited_s, parts = time.perf_counter(), 0.0, []
        for _ in range(config.accumulation):
            asked = time.perf_counter()
            parts.append(self.task.next_batch())
            waited_s += time.perf_counter() - asked
        totals: dict[str, Any] = self._update(parts)
        self._average(min(config.optimizer.ema_decay, (1 + step) / (10 + step)))
        return {f"train/{name}": value for name, value in totals.items()} | {
            "train/learning_rate": rate,
            # Share of the step spent waiting for data; over a few per cent, the network is starved.
            "data/wait_share": waited_s / (time.perf_counter() - started),
            "data/workers": float(self.num_workers),
        }

    def _take_step(self, parts: list[Any]) -> dict[str, Any]:
        """Take an optimizer step on the parts of a batch; return loss, gradient norm and the task's metrics."""
        config = self.config
        totals: dict[str, Any] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(parts, 1):
            with self._no_sync() if number < len(parts) else contextlib.nullcontext():
                with torch.autocast(
                    self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=not self.graphed
                ):
                    loss, metrics = self.module(batch)
                (loss / config.accumulation).backward()
            for name, value in {"loss": loss, **metrics}.items():
                part_of = value.detach() / config.accumulation
                totals[name] = totals[name] + part_of if name in totals else part_of
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), config.optimizer.max_grad_norm)
        totals["grad_norm"] = norm.full_tensor() if self.sharded else norm
        self._finite &= torch.isfinite(totals["loss"]) & torch.isfinite(totals["grad_norm"])
        if self.device.type == "cpu":
            totals = self._measured(totals)
        self.optimizer.step()
        return totals

    def _measured(self, metrics: dict[str, Any]) -> dict[str, float]:
        """Return the metrics as numbers. Raises NonFiniteLossError where a loss or a gradient since the last call was
        none: nothing is saved before this was looked at, so checkpoints hold sound weights.
        """
        numbers = {name: float(value) for name, value in metrics.items()}
        if not bool(self._finite):
            shown = {name.removeprefix("train/"): value for name, value in numbers.items()}
            raise NonFiniteLossError(
                f"step {self.state.step}: loss {shown['loss']}, gradient norm {shown['grad_norm']}; the weights are "
                "untouched since the last checkpoint. Lower optimizer.learning_rate, or look for broken clips"
            )
        return numbers

    @contextlib.contextmanager
    def _no_sync(self) -> Iterator[None]:
        """Let gradients add up on each worker; the last part of an accumulated batch shares them."""
        if self.sharded:
            self.module.set_requires_gradient_sync(False)
            yield
            self.module.set_requires_gradient_sync(True)
        elif self.num_workers > 1:
            with self.module.no_sync():
                yield
        else:
            yield

    def _gather_places(self, place: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the places of all ranks: packing moves each at its own pace."""
        if self.num_workers == 1:
            return [place]
        places: list[dict[str, Any]] = [{} for _ in range(self.num_workers)]
        torch.distributed.all_gather_object(places, place)
        return places

    def _agree(self, elapsed_s: float, saved_s: float) -> tuple[float, bool]:
        """Return rank 0's clock, and whether a checkpoint is due by it: all ranks must take the same branch."""
        if self.num_workers > 1:
            clock = torch.tensor([elapsed_s], dtype=torch.float64, device=self.device)
            torch.distributed.broadcast(clock, src=0)
            elapsed_s = float(clock)
        return elapsed_s, elapsed_s - saved_s >= self.config.checkpoint_every_s

    def snapshot(self) -> Snapshot | None:
        """Copy the state of training to rank 0's host memory; None elsewhere. Where weights are sharded every rank must
        call it.
        """
        weights = {"model": self.weights(self.task.model), "ema": self.weights(self.ema)}
        if self.sharded:
            optimizer = sharding.whole_optimizer(self.module, self.optimizer)
        else:
            optimizer = self.optimizer.state_dict()
        if self.rank:
            return None
        state = {
            "step": self.state.step,
            "elapsed_s": self.state.elapsed_s,
            "history": self.state.history,
            "places": self._places or [self.task.place.state_dict()],
        }
        return Snapshot(**to_host({"weights": weights, "optimizer": optimizer, "state": state}, self.device))

    def save(self, folder: Path) -> None:
        """Write the state of training into ``folder`` on rank 0. Where weights are sharded every rank must call it."""
        if (snapshot := self.snapshot()) is not None:
            snapshot.write(folder)

    def weights(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Return whole tensors of the network or of its average. Where weights are sharded every rank must call it."""
        if self.sharded:
            return sharding.whole_weights(model, self._names)
        return {key: value.contiguous() for key, value in unique_tensors(model).items()}

    def averaged(self) -> nn.Module:
        """Return the average as a whole network, to be released. Where weights are sharded every rank must call it."""
        if not self.sharded:
            return self.ema
        tensors = self.weights(self.ema)
        model = self._class(self.ema.config).to(self.device)
        if self.rank == 0:
            load_unique(model, tensors)
        return model.eval()

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote."""
        state = json.loads((folder / "state.json").read_text())
        optimizer = torch.load(folder / "optimizer.pt", weights_only=True, map_location=self.device)
        for name, model in (("model", self.task.model), ("ema", self.ema)):
            tensors = load_file(folder / f"{name}.safetensors")
            if self.sharded:
                sharding.load_whole_weights(model, tensors, self._tied)
            else:
                load_unique(model, tensors)
        if self.sharded:
            sharding.load_whole_optimizer(self.module, self.optimizer, optimizer)
        else:
            self.optimizer.load_state_dict(optimizer)
        self.state.step, self.state.elapsed_s = state["step"], state["elapsed_s"]
        self.state.history[:] = state["history"]
        self.task.place.resume(state["places"])
        self._average = Averaging(self.ema, self.task.model)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of all that is drawn in a step on one worker: the same on every machine, for NumPy promises so."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0]) >> 1


def in_bfloat16(precision: str, device: torch.device, model: nn.Module | None = None) -> bool:
    """Whether matrix products are to be in bfloat16; ``precision`` as in `LoopConfig`.

    On a CPU a ``model`` with convolutions along three axes is trained in float32: with AVX512-BF16 (AMD EPYC, torch
    2.13) their gradients for kernels of width 3 are wrong by as much as they are large, or infinite, where small media
    are convolved, while those along one and two axes, of 120 shapes, are off by 0.7 % at most. Raises ValueError where
    bfloat16 is asked for all the same.
    """
    if device.type == "cpu" and model is not None and any(isinstance(part, nn.Conv3d) for part in model.modules()):
        if precision == "bfloat16":
            raise ValueError(
                "precision bfloat16: on a CPU gradients of convolutions along three axes are wrong in it; give "
                "precision=auto or float32"
            )
        return False
    if precision == "auto":
        return device.type == "cuda" or (device.type == "cpu" and has_bfloat16_units())
    return precision == "bfloat16"


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Leave only the parameters whose names fit one of ``patterns`` to be trained; none given, all are."""
    if not patterns:
        return
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"train_only {pattern!r} fits no parameter; there are {', '.join(names[:6])}, ...")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


def make_optimizer(model: nn.Module, config: OptimizerConfig, *, capturable: bool = False) -> torch.optim.AdamW:
    """AdamW that decays matrices and filters but no vector; ``capturable``: by CUDA graphs, with its rate a tensor."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    rate: float | torch.Tensor = config.learning_rate
    if capturable:
        rate = torch.tensor(rate, device=parameters[0].device)
    return torch.optim.AdamW(groups, rate, (config.beta1, config.beta2), fused=True, capturable=capturable)


def learning_rate(config: OptimizerConfig, step: int, done: float) -> float:
    """Linear rise over the warm-up, then flat, then linear to zero over the last ``decay_share`` of the run."""
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fall = min(1.0, (1 - done) / config.decay_share) if config.decay_share else 1.0
    return config.learning_rate * min(rise, fall)


class Averaging:
    """Moves ``ema`` toward ``model``: weights and floating buffers by average, whole-number buffers by copy.

    Not `torch.optim.swa_utils.AveragedModel`: that averages buffers or copies them, all alike, keeps its own step count
    in the state, knows no warm-up, and would change the format of checkpoints.
    """

    def __init__(self, ema: nn.Module, model: nn.Module) -> None:
        """The tensors of both are looked up here, once: they must be changed in place afterwards."""
        pairs = [
            (sharding.local(mine), sharding.local(theirs))
            for mine, theirs in zip(ema.state_dict().values(), model.state_dict().values(), strict=True)
        ]
        self._averaged = [mine for mine, _ in pairs if mine.is_floating_point()]
        self._current = [theirs for mine, theirs in pairs if mine.is_floating_point()]
        self._copied = [(mine, theirs) for mine, theirs in pairs if not mine.is_floating_point()]

    @torch.no_grad()
    def __call__(self, decay: float) -> None:
        torch._foreach_lerp_(self._averaged, [theirs.to(mine.dtype) for mine, theirs in self._both()], 1 - decay)
        for mine, theirs in self._copied:
            mine.copy_(theirs)

    def _both(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return zip(self._averaged, self._current, strict=True)
