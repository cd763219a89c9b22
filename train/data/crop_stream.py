"""Training crops by Ray Data: read, decoded and cut by actors ahead of the training step, in the order that the seed
fixes.

Each worker of Ray Train streams its own dataset, whose rows are the worker's next batches by number: from its place to
the end of the run. Nothing is copied, nothing is read before the first step but the columns without media, and a
resumed run begins its dataset at the place it had come to. `get_dataset_shard` would not do: its one executor deals
blocks out to workers as they ask, and it knows no place to resume from. Who reads a crop changes nothing about it, so
the worker reads the first batches itself while the actors start.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import numpy as np

from triforce.train.data.config import SoundCropConfig
from triforce.train.data.order import Place

Crop = tuple[np.ndarray, Any]
"""A crop as it is stored, and its true size."""

BATCHES_PER_BLOCK = 16
"""Batches that one actor makes in a row, so that several actors do not all decode the same clips. Assumed."""
AHEAD_BYTES = 256 << 20
"""Bytes of crops that wait in Ray's object store for a worker."""
PREFETCH_BATCHES = 4
OWN_BATCHES = 32
"""Batches that the worker reads itself while the actors start, which takes them 5 to 10 s. Measured on CPU."""


class StreamedCrops(Protocol):
    """Crops that other processes can read as well."""

    stream: CropStream | None
    """Where crops are taken from while there is one."""

    def crop(self, position: int) -> Crop:
        """The crop at a position of the endless order."""
        ...

    def remake(self) -> Callable[[], StreamedCrops]:
        """Return what makes the same crops in another process."""
        ...


class CropStream:
    """Takes one worker's crops from Ray Data's actors in place of reading them."""

    def __init__(
        self,
        crops: StreamedCrops,
        make: Callable[[], StreamedCrops],
        count: int,
        num_batches: int,
        *,
        readers: int,
        cpus: float,
    ) -> None:
        """``make`` makes ``crops`` again in each of ``readers`` actors, which reserve ``cpus`` cores each; a batch has
        ``count`` crops, the run ``num_batches``.
        """
        self._crops, self._make, self._count, self._num_batches = crops, make, count, num_batches
        self._readers, self._cpus = readers, cpus
        self._thread = ThreadPoolExecutor(1, "crops")
        self._due = self._streamed_from = -1
        self._batches: Generator[dict[str, np.ndarray], None, None] = (batch for batch in ())
        self._coming: Future[dict[str, np.ndarray] | None] | None = None

    def take(self, place: Place, count: int) -> list[Crop]:
        """Return the next ``count`` crops from ``place``, which moves on."""
        if count != self._count:
            raise ValueError(f"{count} crops asked for, the stream makes batches of {self._count}")
        if place.taken != self._due:  # the first step, or the first after a resume
            self._restart(place)
        streamed = place.taken >= self._streamed_from
        positions = [place.next() for _ in range(count)]
        self._due = place.taken
        if not streamed:
            return [self._crops.crop(position) for position in positions]
        batch = self._coming.result()
        self._coming = self._thread.submit(next, self._batches, None)
        if batch is None or batch["first"][0] != positions[0]:
            raise RuntimeError(f"crops from position {batch and batch['first'][0]} came, {positions[0]} was due")
        return list(zip(batch["crops"][0], batch["sizes"][0], strict=True))

    def close(self) -> None:
        """End the actors; what they have read ahead is dropped."""
        self._stop()
        self._thread.shutdown()

    def _stop(self) -> None:
        if self._coming is not None:
            wait([self._coming])  # a generator at work cannot be closed
            self._coming = None
        self._batches.close()

    def _restart(self, place: Place) -> None:
        self._stop()
        start = Place(place.rank, place.num_workers)
        start.taken = self._streamed_from = place.taken + OWN_BATCHES * self._count
        if start.taken // self._count < self._num_batches:
            self._batches = self._start(start)
            self._coming = self._thread.submit(next, self._batches, None)

    def _start(self, place: Place) -> Generator[dict[str, np.ndarray], None, None]:
        import ray
        from ray.data import ActorPoolStrategy, ExecutionResources
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        left = self._num_batches - place.taken // self._count
        dataset = ray.data.range(left, override_num_blocks=-(-left // BATCHES_PER_BLOCK)).map_batches(
            _Reader,
            batch_size=1,
            fn_constructor_args=(self._make, self._count, place.taken, place.rank, place.num_workers),
            compute=ActorPoolStrategy(size=self._readers),
            num_cpus=self._cpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True),
        )
        context = dataset.context
        context.enable_progress_bars = False
        context.target_max_block_size = 1  # each batch is passed on as soon as it is made
        context.execution_options.preserve_order = True
        context.execution_options.resource_limits = ExecutionResources(object_store_memory=AHEAD_BYTES)
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        yield from dataset.iter_batches(batch_size=1, prefetch_batches=PREFETCH_BATCHES, batch_format="numpy")


@contextlib.contextmanager
def streaming(crops: StreamedCrops | None, config: SoundCropConfig, count: int, num_batches: int) -> Iterator[None]:
    """Let as many actors of Ray Data as the config has readers read for ``crops`` while the block runs. Without any,
    and for crops that cannot be streamed, the worker reads for itself. ``count`` and ``num_batches`` as in
    `CropStream`.
    """
    if crops is None or not config.readers_per_worker:
        yield
        return
    readers, cpus = config.readers_per_worker, config.cpus_per_reader
    stream = crops.stream = CropStream(crops, crops.remake(), count, num_batches, readers=readers, cpus=cpus)
    try:
        yield
    finally:
        stream.close()
        crops.stream = None


class _Reader:
    """A Ray Data actor: numbers of batches to their crops."""

    def __init__(
        self, make: Callable[[], StreamedCrops], count: int, first_taken: int, rank: int, num_workers: int
    ) -> None:
        self._crops, self._count, self._first_taken = make(), count, first_taken
        self._rank, self._num_workers = rank, num_workers

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        place = Place(self._rank, self._num_workers)
        place.taken = self._first_taken + int(batch["id"][0]) * self._count
        positions = [place.next() for _ in range(self._count)]
        crops = [self._crops.crop(position) for position in positions]
        return {
            "first": np.array(positions[:1]),
            "crops": np.stack([crop for crop, _ in crops])[None],
            "sizes": np.array([size for _, size in crops])[None],
        }
