"""Blocks of the diffusion network, whose features are scaled and shifted by the time."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from triforce.models.blocks.layers import CONV, ChannelNorm

TIME_FEATURES = 128
"""Sines and cosines that encode the time. Assumed."""
ROPE_BASE = 10_000.0
"""Base of the rotary angles (Su et al. 2021, arXiv 2104.09864)."""


class TimeBlock(nn.Module):
    """A gated dilated residual block, scaled and shifted by the time; it starts as the identity."""

    def __init__(self, num_dims: int, hidden: int, dilation: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        conv = CONV[num_dims]
        self.norm = ChannelNorm(hidden)
        self.modulate = nn.Linear(hidden, 2 * hidden)
        self.spread = conv(hidden, 2 * hidden, 3, padding=dilation, dilation=dilation)
        self.dropout = nn.Dropout(dropout)
        self.mix = conv(hidden, hidden, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: torch.Tensor, time: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        value, gate = self.spread(_modulated(self.norm(x), self.modulate(time)) * mask).chunk(2, dim=1)
        return x + self.mix(self.dropout(value * F.silu(gate)))


class AttentionBlock(nn.Module):
    """Self-attention over all positions that are not padding; each axis has rotary angles on its share of a head."""

    def __init__(self, num_dims: int, hidden: int, head_channels: int) -> None:
        super().__init__()
        conv = CONV[num_dims]
        self.head_channels, self.num_dims = head_channels, num_dims
        self.norm = ChannelNorm(hidden)
        self.modulate = nn.Linear(hidden, 2 * hidden)
        self.qkv = conv(hidden, 3 * hidden, 1)
        self.mix = conv(hidden, hidden, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: torch.Tensor, time: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, hidden, *size = x.shape
        qkv = self.qkv(_modulated(self.norm(x), self.modulate(time)) * mask).flatten(2)
        q, k, v = qkv.view(batch, 3, -1, self.head_channels, qkv.shape[-1]).permute(1, 0, 2, 4, 3)
        angles = self._angles(size, x.device)
        q, k = (_turn(F.rms_norm(part, (self.head_channels,)), angles) for part in (q, k))
        seen = mask.flatten(2)[:, None].bool()  # (B, 1, 1, N): no position attends to padding
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bool(seen.all()) else seen)
        return x + self.mix(attended.transpose(2, 3).reshape(batch, hidden, *size)) * mask

    def _angles(self, size: list[int], device: torch.device) -> torch.Tensor:
        """Return rotary angles ``(N, head_channels / 2)``, where each axis has its share of the pairs."""
        share = self.head_channels // self.num_dims // 2
        frequencies = ROPE_BASE ** (-torch.arange(share, device=device) / share)
        axes = torch.meshgrid(*(torch.arange(n, device=device) for n in size), indexing="ij")
        return torch.cat([axis.reshape(-1, 1) * frequencies for axis in axes], dim=-1)


def time_features(time: torch.Tensor) -> torch.Tensor:
    """Encode times ``(B,)`` from 0 to 1 as ``(B, TIME_FEATURES)`` sines and cosines of periods 2 pi to 2 pi / 1000."""
    half = TIME_FEATURES // 2
    frequencies = torch.exp(torch.linspace(0, math.log(1000.0), half, device=time.device))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _modulated(x: torch.Tensor, scale_shift: torch.Tensor) -> torch.Tensor:
    """Scale and shift ``x`` ``(B, C, *grid)`` by ``(B, 2 C)``."""
    scale, shift = scale_shift.view(*x.shape[:1], -1, *([1] * (x.ndim - 2))).chunk(2, dim=1)
    return x * (1 + scale) + shift


def _turn(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turn pairs of channels of ``(B, H, N, C)`` by angles ``(N, C / 2)`` (Su et al. 2021, arXiv 2104.09864)."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
