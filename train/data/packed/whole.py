"""A pack's clips whole, in batches of like lengths, on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from triforce.tokenize.encode import size_batches
from triforce.train.data.packed.pack import Pack


def whole_clips(
    pack: Pack, mels: torch.Tensor, batch_frames: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Yield the indices of some clips, their log-mels ``(B, num_mels, T)`` and their frames ``(B, 1)``, until each has
    come once. ``mels`` are the pack's bytes on the device; a batch has ``batch_frames`` at most, padding included.
    """
    lengths = np.diff(pack.bounds)
    for chosen in size_batches([(int(length),) for length in lengths], batch_frames):
        sizes = torch.from_numpy(lengths[chosen]).to(mels.device)[:, None]
        along = torch.arange(int(lengths[chosen].max()), device=mels.device)
        rows = torch.from_numpy(pack.bounds[chosen]).to(mels.device)[:, None] + torch.where(along < sizes, along, 0)
        yield chosen, pack.scale.from_bytes(mels[rows.flatten()].view(*rows.shape, -1)).transpose(1, 2), sizes
