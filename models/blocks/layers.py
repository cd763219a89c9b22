"""Convolutional parts in one, two and three dimensions that treat what lies past a sample's true size as if it were
not there.

Everything takes and gives ``(B, C, *grid)`` with a mask ``(B, 1, *grid)`` of ones where a position belongs to the
sample. Features are masked before every convolution, so a sample's border sees zeros whether a batch padded it or not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def size_mask(sizes: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Sizes ``(B, D)`` in positions to a mask ``(B, 1, *grid)`` float32."""
    mask = torch.ones(sizes.shape[0], 1, *grid, device=sizes.device)
    for axis, length in enumerate(grid):
        inside = torch.arange(length, device=sizes.device) < sizes[:, axis, None]
        shape = [sizes.shape[0], 1] + [1] * len(grid)
        shape[2 + axis] = length
        mask = mask * inside.view(shape)
    return mask


def fold(x: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """``(B, C, *size)`` to ``(B, C * prod(factors), *size / factors)``: the positions of a cell become channels."""
    dims = len(factors)
    cells = [n for size, f in zip(x.shape[2:], factors, strict=True) for n in (size // f, f)]
    order = [0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2)]
    x = x.reshape(*x.shape[:2], *cells).permute(order)
    return x.flatten(1, 1 + dims)


def unfold(x: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """The inverse of `fold`."""
    dims = len(factors)
    x = x.reshape(x.shape[0], -1, *factors, *x.shape[2:])
    order = [0, 1, *(axis for i in range(dims) for axis in (2 + dims + i, 2 + i))]
    x = x.permute(order)
    return x.reshape(*x.shape[:2], *(x.shape[2 + 2 * i] * x.shape[3 + 2 * i] for i in range(dims)))


def sane_std(std: torch.Tensor) -> torch.Tensor:
    """Spreads ``(C,)`` with the least raised to a quarter of the mean: a channel that hardly moves, as the bins above a
    recording's band, is not blown up until its rounding noise weighs as much as speech.
    """
    return torch.maximum(std, 0.25 * std.mean()).clamp_min(1e-6)


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of each position: unlike group norm it does not see the sample's
    length.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.float().pow(2).mean(1, keepdim=True) + 1e-6).to(x.dtype)
        return x * scale * self.weight.view(-1, *([1] * (x.ndim - 2)))


class ResidualBlock(nn.Module):
    """Norm, GELU, dilated convolution of width 3, GELU, pointwise convolution; the last starts at zero, so the block
    at identity.
    """

    def __init__(self, num_dims: int, channels: int, dilation: int = 1, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.spread = CONV[num_dims](channels, channels, 3, padding=dilation, dilation=dilation)
        self.dropout = nn.Dropout(dropout)
        self.mix = CONV[num_dims](channels, channels, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = F.gelu(self.norm(x)) * mask
        return x + self.mix(self.dropout(F.gelu(self.spread(h))))


class Downsample(nn.Module):
    """Halve the axes whose factor is 2: a convolution of width 4 and stride 2 there, of width 3 elsewhere."""

    def __init__(self, num_dims: int, channels_in: int, channels_out: int, factors: Sequence[int]) -> None:
        super().__init__()
        kernel = tuple(4 if factor == 2 else 3 for factor in factors)
        self.conv = CONV[num_dims](channels_in, channels_out, kernel, stride=tuple(factors), padding=1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.conv(x * mask)


class Upsample(nn.Module):
    """Double the axes whose factor is 2 by a transposed convolution, the mirror of `Downsample`."""

    def __init__(self, num_dims: int, channels_in: int, channels_out: int, factors: Sequence[int]) -> None:
        super().__init__()
        kernel = tuple(4 if factor == 2 else 3 for factor in factors)
        self.conv = CONV_TRANSPOSE[num_dims](channels_in, channels_out, kernel, stride=tuple(factors), padding=1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.conv(x * mask)
