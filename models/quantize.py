"""Quantizers by name: vectors to integers and back, behind one interface.

``fsq`` rounds a few bounded coordinates to a grid (Mentzer et al. 2023, arXiv 2309.15505) and has no codebook that
could collapse;
``ema-vq`` learns one by moving averages (van den Oord et al. 2017), seeded from data and with dead codes restarted.
Both come from
vector-quantize-pytorch. ``gumbel`` draws a relaxed one-hot code (Jang et al. 2016), as DALL-E's dVAE did.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from vector_quantize_pytorch import FSQ, VectorQuantize


class Quantized(NamedTuple):
    z_q: torch.Tensor
    """``(B, L, C)``, straight-through."""
    codes: torch.Tensor
    """``(B, L)`` int64."""
    loss: torch.Tensor
    """Scalar to add to the reconstruction loss."""


class FSQQuantizer(nn.Module):
    def __init__(self, channels: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.codebook_size = math.prod(levels)
        self.fsq = FSQ(levels=list(levels), dim=channels)

    def forward(self, z_e: torch.Tensor, mask: torch.Tensor) -> Quantized:
        z_q, codes = self.fsq(z_e)
        return Quantized(z_q, codes.long(), z_e.new_zeros(()))

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        return self.fsq.indices_to_codes(codes)


class EMAVQQuantizer(nn.Module):
    def __init__(
        self, channels: int, codebook_size: int, codebook_dim: int, commitment: float, dead_below: float
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        # Projected here, not by the library: its own projection and a mask together fail (1.32.0).
        self.project_in = nn.Linear(channels, codebook_dim)
        self.project_out = nn.Linear(codebook_dim, channels)
        self.vq = VectorQuantize(
            dim=codebook_dim,
            codebook_size=codebook_size,
            decay=0.99,
            commitment_weight=commitment,
            kmeans_init=True,
            kmeans_iters=10,
            threshold_ema_dead_code=dead_below,
        )

    def forward(self, z_e: torch.Tensor, mask: torch.Tensor) -> Quantized:
        z_q, codes, loss = self.vq(self.project_in(z_e), mask=mask.bool())
        return Quantized(self.project_out(z_q), codes.long().clamp_min(0), loss.sum())

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        return self.project_out(self.vq.get_output_from_indices(codes))


class GumbelQuantizer(nn.Module):
    """Soft while training, hard in evaluation. The trainer anneals ``temperature`` (DALL-E: 1 to 1/16) and the KL
    weight.
    """

    def __init__(self, channels: int, codebook_size: int, kl_weight: float) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.kl_weight = kl_weight
        self.to_logits = nn.Linear(channels, codebook_size)
        self.codebook = nn.Embedding(codebook_size, channels)
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, z_e: torch.Tensor, mask: torch.Tensor) -> Quantized:
        logits = self.to_logits(z_e)
        codes = logits.argmax(-1)
        if not self.training:
            return Quantized(self.lookup(codes), codes, z_e.new_zeros(()))
        soft = F.gumbel_softmax(logits, tau=float(self.temperature), dim=-1)
        log_probability = logits.log_softmax(-1)
        divergence = (log_probability.exp() * (log_probability + math.log(self.codebook_size))).sum(-1)
        kl = (divergence * mask).sum() / mask.sum().clamp_min(1)
        return Quantized(soft @ self.codebook.weight, codes, self.kl_weight * kl)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        return self.codebook(codes)
