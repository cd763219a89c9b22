"""Encoding: the dVAE over batches of media of similar size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from triforce.models.dvae import DVAE


def size_batches(sizes: Sequence[tuple[int, ...]], batch_positions: int) -> Iterator[list[int]]:
    """Yield batches of indices, largest size first, that stay within ``batch_positions`` when padded.

    A medium that is larger than that is a batch by itself.
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
    """Encode media ``(C, *size)`` float32 to codes ``(*grid,)`` uint16, in the same order; batches change no code."""
    sizes = [array.shape[1:] for array in media]
    codes: list[np.ndarray] = [np.empty(0, np.uint16)] * len(media)
    for batch in size_batches(sizes, batch_positions):
        own_sizes = torch.tensor([sizes[i] for i in batch])
        padded = torch.zeros(len(batch), media[0].shape[0], *own_sizes.amax(0).tolist())
        for row, i in enumerate(batch):
            padded[(row, slice(None), *map(slice, sizes[i]))] = torch.tensor(media[i])
        found = dvae.encode(padded.to(device), own_sizes.to(device)).cpu().numpy()
        for row, i in enumerate(batch):
            codes[i] = found[(row, *map(slice, dvae.config.grid(sizes[i])))].astype(np.uint16)
    return codes
