"""Optimizer steps replayed as CUDA graphs: for networks so small that launching their kernels takes longer than running
them.

A captured step has the addresses of its inputs in it, so batches are copied into place. Steps whose batches differ in
shape, or in what is no tensor, are captured apart.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

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
        leaves, structure = pytree.tree_flatten(batch)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        kind = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves)
        if kind not in self._captured and not self.failed and self._seen[kind] >= WARM_UP:
            self._capture(kind, leaves, structure)
        if kind not in self._captured:
            self._seen[kind] += 1
            return self._called(batch)
        graph, places, metrics = self._captured[kind]
        torch._foreach_copy_(places, tensors)
        graph.replay()
        return metrics

    def _called(self, batch: Any) -> dict[str, torch.Tensor]:
        """Take the step on a stream of its own, as capturing asks of the steps before it."""
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            metrics = self._update(batch)
        torch.cuda.current_stream().wait_stream(self._side)
        return metrics

    def _capture(self, kind: tuple[Any, ...], leaves: list[Any], structure: Any) -> None:
        places = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        graph = torch.cuda.CUDAGraph()
        try:
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                metrics = self._update(pytree.tree_unflatten(places, structure))
        except RuntimeError as error:
            self.failed = True
            log.warning("no CUDA graph of a training step (%s): going on without", error)
            return
        self._captured[kind] = graph, [place for place in places if isinstance(place, torch.Tensor)], metrics
