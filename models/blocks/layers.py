"""Convolutional layers in one, two and three dimensions that ignore padding.

Every layer takes and returns ``(B, C, *grid)``, with a mask ``(B, 1, *grid)`` that is 1 where a position belongs to the
sample. Features are masked before every convolution, so a sample's border sees zeros whether a batch padded it or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

WIDEST_PRODUCT = 4
"""Width up to which a convolution is one product: each shifted copy takes as much memory as the input."""


class Conv1d(nn.Conv1d):
    """A convolution over time; on a GPU a single product with shifted copies. For the dilated ones of a dVAE in exact
    float32, cuDNN 9 on an H100 was 300 times slower.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (width,), (dilation,), (stride,), padding = self.kernel_size, self.dilation, self.stride, int(self.padding[0])
        if x.device.type == "cpu" or width > WIDEST_PRODUCT or self.groups > 1:
            return super().forward(x)
        padded = F.pad(x, (padding, padding)) if padding else x
        last = padded.shape[-1] - dilation * (width - 1)
        shifted = [padded[..., k * dilation : k * dilation + last : stride] for k in range(width)]
        weight = self.weight.transpose(1, 2).flatten(1).expand(x.shape[0], -1, -1)
        made = torch.bmm(weight, torch.cat(shifted, dim=1))
        return made if self.bias is None else made + self.bias[:, None].to(made.dtype)


CONV = {1: Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def size_mask(sizes: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Return a mask ``(B, 1, *grid)`` float32 that is 1 inside each sample's size, given as ``(B, D)`` positions."""
    mask = torch.ones(sizes.shape[0], 1, *grid, device=sizes.device)
    for axis, length in enumerate(grid):
        inside = torch.arange(length, device=sizes.device) < sizes[:, axis, None]
        shape = [sizes.shape[0], 1] + [1] * len(grid)
        shape[2 + axis] = length
        mask = mask * inside.view(shape)
    return mask


def space_to_channels(x: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """Move the positions of each cell into channels: ``(B, C, *size)`` to ``(B, C * prod(factors), *size / factors)``.

    ``size`` must be a multiple of ``factors``, the positions of a cell along each axis.
    """
    channels, space, sizes = _cell_pattern(tuple(factors))
    return rearrange(x, f"{space} -> {channels}", **sizes)


def channels_to_space(x: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """Undo `space_to_channels`."""
    channels, space, sizes = _cell_pattern(tuple(factors))
    return rearrange(x, f"{channels} -> {space}", **sizes)


@lru_cache(maxsize=64)
def _cell_pattern(factors: tuple[int, ...]) -> tuple[str, str, dict[str, int]]:
    """Both sides for `einops.rearrange`, and the size of each axis inside a cell."""
    axes = range(len(factors))
    channels = f"b (c {' '.join(f'cell{i}' for i in axes)}) {' '.join(f'x{i}' for i in axes)}"
    space = f"b c {' '.join(f'(x{i} cell{i})' for i in axes)}"
    return channels, space, {f"cell{i}": factor for i, factor in enumerate(factors)}


def floor_std(std: torch.Tensor) -> torch.Tensor:
    """Raise standard deviations ``(C,)`` to at least a quarter of their mean.

    A channel that hardly varies, such as the bins above a recording's band, would otherwise be scaled up until its
    rounding noise weighs as much as speech.
    """
    return torch.maximum(std, 0.25 * std.mean()).clamp_min(1e-6)


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of each position; unlike group norm it does not depend on the sample's
    length.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.float().pow(2).mean(1, keepdim=True) + 1e-6).to(x.dtype)
        return x * scale * self.weight.view(-1, *([1] * (x.ndim - 2)))


class ResidualBlock(nn.Module):
    """Residual block: norm, GELU, dilated convolution of width 3, GELU, pointwise convolution.

    The last convolution starts at zero, so the block starts as the identity.
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
    """Halve the axes whose factor is 2, by a convolution of width 4 and stride 2 there and of width 3 elsewhere."""

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
