"""The computing half of tokenizing: the dVAE over batches of like size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from triforce.models.dvae import DVAE


def size_batches(sizes: Sequence[tuple[int, ...]], batch_positions: int) -> Iterator[list[int]]:
    """Indices grouped by size, largest first, so that padded batches stay within ``batch_positions``; a larger one
    goes alone.
    """
    order = sorted(range(len(sizes)), key=lambda i: (tuple(-n for n in sizes[i]), i))
    batch: list[int] = []
    padded = np.zeros(0)
    for index in order:
        grown = np.maximum(padded, sizes[index]) if batch else np.array(sizes[index])
        if batch and int(grown.prod()) * (len(batch) + 1) > batch_positions:
            yield batch
            batch, grown = [], np.array(sizes[index])
        batch.append(index)
        padded = grown
    if batch:
        yield batch


@torch.inference_mode()
def encode_media(
    dvae: DVAE, media: Sequence[np.ndarray], batch_positions: int, device: torch.device
) -> list[np.ndarray]:
    """Media ``(C, *size)`` float32 to codes ``(*grid,)`` uint16, in the same order, whatever the batches are."""
    sizes = [array.shape[1:] for array in media]
    codes: list[np.ndarray] = [np.empty(0, np.uint16)] * len(media)
    for batch in size_batches(sizes, batch_positions):
        true_sizes = torch.tensor([sizes[i] for i in batch])
        padded = torch.zeros(len(batch), media[0].shape[0], *true_sizes.amax(0).tolist())
        for row, i in enumerate(batch):
            padded[(row, slice(None), *map(slice, sizes[i]))] = torch.tensor(media[i])
        found = dvae.encode(padded.to(device), true_sizes.to(device)).cpu().numpy()
        for row, i in enumerate(batch):
            codes[i] = found[(row, *map(slice, dvae.config.grid(sizes[i])))].astype(np.uint16)
    return codes
