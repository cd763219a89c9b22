"""What a diffusion network is told beside a decode: integers and latents on the grid of the codes, and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from triforce.models.blocks.layers import CONV


class Told(Protocol):
    """How many codes and pieces of text there are, of which a network is told; 0: it is not told of them."""

    @property
    def num_codes(self) -> int: ...

    @property
    def num_pieces(self) -> int: ...


class TokenFeatures(nn.Module):
    """What integers say that lie on the grid of the codes, each with its neighbours: codes, and pieces of text."""

    def __init__(self, num_dims: int, sizes: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size + 1, hidden) for size in sizes)
        self.near = nn.ModuleList(CONV[num_dims](hidden, hidden, 3, padding=1) for _ in range(2))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return features ``(B, hidden, *grid)`` of ``tokens`` ``(B, R, *grid)``, -1 where one is not given."""
        h = sum(embed(row + 1) for embed, row in zip(self.embeddings, tokens.unbind(1), strict=True)).movedim(-1, 1)
        for conv in self.near:
            h = h + conv(F.silu(h))
        return h


def told(config: Told, codes: np.ndarray | torch.Tensor, spoken: np.ndarray | None) -> list[torch.Tensor]:
    """Return the rows ``(*grid)`` int64 that a network is told of codes and of the pieces of text that are said in
    them, -1 where they are not known: none, one or two.
    """
    codes = torch.as_tensor(codes).long()
    pieces = torch.full_like(codes, -1) if spoken is None else torch.as_tensor(spoken).long()
    return [codes] * bool(config.num_codes) + [pieces] * bool(config.num_pieces)


def normal_by_position(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Draw standard normal noise ``(B, C, *size)`` position by position: a longer one begins with a shorter one."""
    batch, channels, *size = shape
    flat = torch.rand(batch, *size, channels, generator=generator, device=generator.device)
    return torch.special.ndtri(flat.clamp(1e-6, 1 - 1e-6)).movedim(-1, 1)


def upsample_latents(latents: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Repeat latents or tokens ``(B, C, *grid)`` to every position ``(B, C, *size)`` that their code spans."""
    for axis, length in enumerate(size, 2):
        factor = -(-length // latents.shape[axis])
        latents = latents.repeat_interleave(factor, dim=axis).narrow(axis, 0, length) if factor > 1 else latents
    return latents
