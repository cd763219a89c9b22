"""Optimizer steps replayed as CUDA graphs: for networks so small that launching their kernels takes longer than running
them.

A captured step has the addresses of its inputs in it, so batches are copied into place. Steps whose batches differ in
shape, or in what is no tensor, are captured apart.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

log = logging.getLogger(__name__)

WARM_UP = 4
"""Steps of a kind that are taken as they are before one is captured: libraries set themselves up in the first."""

Update = Callable[[Any], dict[str, torch.Tensor]]
"""Takes a step on a batch and returns its metrics; must not wait for the device."""


class GraphedUpdate:
    """Calls ``update`` the first times, then replays it. Where capturing fails, it goes on calling."""

    def __init__(self, update: Update) -> None:
        self._update = update
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._captured: dict[tuple[Any, ...], tuple[torch.cuda.CUDAGraph, list[torch.Tensor], dict[str, Any]]] = {}
        self._side = torch.cuda.Stream()
        self.failed = False

    def __call__(self, batch: Any) -> dict[str, torch.Tensor]:
        """Take a step. The metrics are overwritten by the next."""
        leaves = list(_leaves(batch))
        kind = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves)
        if kind not in self._captured and not self.failed and self._seen[kind] >= WARM_UP:
            self._capture(kind, batch)
        if kind not in self._captured:
            self._seen[kind] += 1
            return self._called(batch)
        graph, places, metrics = self._captured[kind]
        for place, leaf in zip(places, (leaf for leaf in leaves if isinstance(leaf, torch.Tensor)), strict=True):
            place.copy_(leaf)
        graph.replay()
        return metrics

    def _called(self, batch: Any) -> dict[str, torch.Tensor]:
        """Take the step on a stream of its own, as capturing asks of the steps before it."""
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            metrics = self._update(batch)
        torch.cuda.current_stream().wait_stream(self._side)
        return metrics

    def _capture(self, kind: tuple[Any, ...], batch: Any) -> None:
        places = _copied(batch)
        graph = torch.cuda.CUDAGraph()
        try:
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                metrics = self._update(places)
        except RuntimeError as error:
            self.failed = True
            log.warning("no CUDA graph of a training step (%s): going on without", error)
            return
        tensors = [leaf for leaf in _leaves(places) if isinstance(leaf, torch.Tensor)]
        self._captured[kind] = graph, tensors, metrics


def _leaves(batch: Any) -> Iterator[Any]:
    """What a batch of nested lists and tuples holds, in order."""
    if isinstance(batch, list | tuple):
        for part in batch:
            yield from _leaves(part)
    else:
        yield batch


def _copied(batch: Any) -> Any:
    """The same batch with copies of its tensors."""
    if isinstance(batch, torch.Tensor):
        return batch.clone()
    if isinstance(batch, list | tuple):
        make = getattr(type(batch), "_make", type(batch))  # a named tuple takes its fields one by one
        return make(_copied(part) for part in batch)
    return batch
