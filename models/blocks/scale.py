"""Media at a coarser scale: averages over cells of positions, and cubic interpolation back to the full grid.

All take ``(B, C, *size)`` and the samples' own ``sizes`` ``(B, D)``, and no sample sees the padding behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch.nn import functional as F

from triforce.models.blocks.layers import size_mask, space_to_channels


def coarse_size(size: Sequence[int], factor: int) -> tuple[int, ...]:
    """Return the size of a medium of ``size`` at ``1 / factor`` of its scale; a last part of a cell counts."""
    return tuple(-(-n // factor) for n in size)


def area_average(x: torch.Tensor, sizes: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Average ``factor`` positions along each axis to one; return the result and its ``sizes``.

    A cell at a sample's border is the average of the positions that the sample has there.
    """
    if factor == 1:
        return x, sizes
    padding = [n for size in reversed(x.shape[2:]) for n in (0, -size % factor)]
    padded, factors = F.pad(x, padding), (factor,) * (x.ndim - 2)
    mask = size_mask(sizes, padded.shape[2:]).to(x.dtype)
    batch, channels, cells = x.shape[0], x.shape[1], factor ** (x.ndim - 2)
    total = space_to_channels(padded * mask, factors)
    summed = total.view(batch, channels, cells, *total.shape[2:]).sum(2)
    counted = space_to_channels(mask, factors).sum(1, keepdim=True)
    return summed / counted.clamp_min(1), -(-sizes // factor)


def upsample(x: torch.Tensor, factor: int, sizes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Interpolate coarse media to the grid of ``size`` positions, where each sample has its own of ``sizes``.

    Cubic along each axis (Keys 1981, a = -0.75, as in torch), with positions at the middles of cells as in
    `area_average`. Past a sample's own size the result is 0. Raises ValueError where ``x`` is not the coarse grid of
    the largest of ``sizes``.
    """
    if factor == 1:
        return x
    largest = cast(list[int], sizes.amax(0).tolist())
    if coarse_size(largest, factor) != tuple(x.shape[2:]):
        raise ValueError(
            f"a prior of {tuple(x.shape[2:])} positions does not make {tuple(largest)}: with {factor} for each along "
            f"every axis it has to have {coarse_size(largest, factor)}"
        )
    if bool((sizes == sizes[0]).all()):
        return _placed(_cubic(x, factor), largest, size)
    rows = []
    for one, own in zip(x, cast(list[list[int]], sizes.tolist()), strict=True):
        part = one[(slice(None), *map(slice, coarse_size(own, factor)))]
        rows.append(_placed(_cubic(part[None], factor), own, size))
    return torch.cat(rows)


def _cubic(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Interpolate axis by axis; at a scale of 1 the other axis of torch's bicubic passes values on as they are."""
    for axis in range(2, x.ndim):
        rows = x.movedim(axis, -1)
        flat = rows.reshape(1, 1, -1, rows.shape[-1])
        fine = F.interpolate(flat, scale_factor=[1.0, float(factor)], mode="bicubic", align_corners=False)
        x = fine.view(*rows.shape[:-1], -1).movedim(-1, axis)
    return x


def _placed(x: torch.Tensor, own: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Cut to the sample's ``own`` size and pad with zeros to ``size``."""
    padding = [n for have, want in zip(reversed(own), reversed(size), strict=True) for n in (0, want - have)]
    return F.pad(x[(..., *map(slice, own))], padding)
