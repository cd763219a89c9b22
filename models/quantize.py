"""Quantizers by name: vectors to integers and back, behind one interface.

``fsq`` rounds a few bounded coordinates to a grid (Mentzer et al. 2023, arXiv 2309.15505) and has no codebook that
could collapse;
``ema-vq`` learns one by moving averages (van den Oord et al. 2017), seeded from data and with dead codes restarted.
``sim-vq`` maps a fixed random codebook by one learnt matrix, so that all codes follow the encoder at each step, used or
not (Zhu et al. 2024, arXiv 2411.02038), with gradients turned as the codes are (Fifty et al. 2024, arXiv 2410.06424).
These three come from vector-quantize-pytorch. ``gumbel`` draws a relaxed one-hot code (Jang et al. 2016).

Each gives vectors for vectors when called, ``lookup`` the vectors ``(B, L, C)`` of codes, and ``soft`` what the decoder
would get if nothing were rounded: the difference in error is the price of being discrete.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Quantized(NamedTuple):
    z_q: torch.Tensor
    """``(B, L, C)``, straight-through."""
    codes: torch.Tensor
    """``(B, L)`` int64."""
    loss: torch.Tensor
    """Scalar to add to the reconstruction loss."""


class Quantizer(nn.Module):
    """The interface; see the module."""

    codebook_size: int

    def forward(self, z_e: torch.Tensor, mask: torch.Tensor) -> Quantized:
        """``z_e`` ``(B, L, C)``; where ``mask`` ``(B, L)`` is 0, vectors count for nothing."""
        raise NotImplementedError

    def soft(self, z_e: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def anneal(self, progress: float) -> None:
        """Told before each step of training how much of the run is behind, 0 to 1."""


class FSQQuantizer(Quantizer):
    def __init__(self, channels: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        from vector_quantize_pytorch import FSQ  # takes a second, which processes that only read or write are spared

        self.codebook_size = math.prod(levels)
        self.fsq = FSQ(levels=list(levels), dim=channels)

    def forward(self, z_e: torch.Tensor, mask: torch.Tensor) -> Quantized:
        z_q, codes = self.fsq(z_e)
        return Quantized(z_q, codes.long(), z_e.new_zeros(()))

    def soft(self, z_e: torch.Tensor) -> torch.Tensor:
        """The library's bound without its rounding."""
        levels = self.fsq._levels
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = (levels % 2 == 0) * 0.5
        bounded = torch.tanh(self.fsq.project_in(z_e) + torch.atanh(offset / half)) * half - offset
        return self.fsq.project_out(bounded / (levels // 2))

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        return self.fsq.indices_to_codes(codes)


class EMAVQQuantizer(Quantizer):
    """Two phases, of which `anneal` tells. While the encoder moves fast, a codebook that follows by moving averages is
    always late, since most of many codes are drawn once in dozens of steps: at first every code that is not drawn in
    each step is taken anew from the batch. Then codes settle, and only dead ones are restarted.
    """

    def __init__(
        self,
        channels: int,
        codebook_size: int,
        codebook_dim: int,
        commitment: float,
        dead_share: float,
        refresh_share: float,
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.dead_share, self.refresh_share = dead_share, refresh_share
        # Projected here, not by the library: its own projection and a mask together fail (1.32.0).
        self.project_in = nn.Linear(channels, codebook_dim)
        self.project_out = nn.Linear(codebook_dim, channels)
        from vector_quantize_pytorch import VectorQuantize

        self.vq = VectorQuantize(
            dim=codebook_dim,
            codebook_size=codebook_size,
            decay=0.99,
            commitment_weight=commitment,
            kmeans_init=True,
            kmeans_iters=10,
            threshold_ema_dead_code=1.0,
        )

    def anneal(self, progress: float) -> None:
        """Set under which moving count a code is taken anew: once a step, then a share of even use, the same on every
        rank since the counts are.
        """
        codebook = self.vq._codebook
        even_use = float(codebook.cluster_size.mean())
        dead_below = 1.0 if progress < self.refresh_share else self.dead_share * even_use
        codebook.threshold_ema_dead_code = dead_below
        codebook.reset_cluster_size = 1.0 if progress < self.refresh_share else min(1.0, even_use)

    def forward(self, z_e: torch.Tensor, mask: torch.Tensor) -> Quantized:
        z_q, codes, loss = self.vq(self.project_in(z_e), mask=mask.bool())
        return Quantized(self.project_out(z_q), codes.long().clamp_min(0), loss.sum())

    def soft(self, z_e: torch.Tensor) -> torch.Tensor:
        return self.project_out(self.project_in(z_e))

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        return self.project_out(self.vq.get_output_from_indices(codes))


class SimVQQuantizer(Quantizer):
    def __init__(self, channels: int, codebook_size: int, codebook_dim: int, commitment: float) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.project_in = nn.Linear(channels, codebook_dim)
        self.project_out = nn.Linear(codebook_dim, channels)
        from vector_quantize_pytorch import SimVQ

        self.vq = SimVQ(dim=codebook_dim, codebook_size=codebook_size, input_to_quantize_commit_loss_weight=commitment)

    def forward(self, z_e: torch.Tensor, mask: torch.Tensor) -> Quantized:
        z_low = self.project_in(z_e)
        z_q, codes, _ = self.vq(z_low)
        # The library's own loss counts padding; its parts are the same.
        chosen = self.vq.indices_to_codes(codes)
        pull = (z_low.detach() - chosen).pow(2) + self.vq.input_to_quantize_commit_loss_weight * (
            z_low - chosen.detach()
        ).pow(2)
        loss = (pull.mean(-1) * mask).sum() / mask.sum().clamp_min(1)
        return Quantized(self.project_out(z_q), codes.long(), loss)

    def soft(self, z_e: torch.Tensor) -> torch.Tensor:
        return self.project_out(self.project_in(z_e))

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        return self.project_out(self.vq.indices_to_codes(codes))


class GumbelQuantizer(Quantizer):
    """Soft while training, hard in evaluation. `anneal` follows DALL-E (Ramesh et al. 2021, appendix A.2): temperature
    from 1 to 1/16 and the divergence's weight from 0 up, each along a cosine.
    """

    def __init__(self, channels: int, codebook_size: int, kl_weight: float) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.kl_weight = kl_weight
        self.to_logits = nn.Linear(channels, codebook_size)
        self.codebook = nn.Embedding(codebook_size, channels)
        self.register_buffer("temperature", torch.ones(()))
        self.kl_share = 1.0

    def anneal(self, progress: float) -> None:
        """Temperature over the whole run; DALL-E's weight rises over 5 000 of 3 000 000 steps, here over a tenth."""

        def risen(share: float) -> float:
            return 0.5 - 0.5 * math.cos(math.pi * min(1.0, share))

        self.temperature.fill_(math.exp(math.log(1 / 16) * risen(progress)))
        self.kl_share = risen(10 * progress)

    def forward(self, z_e: torch.Tensor, mask: torch.Tensor) -> Quantized:
        logits = self.to_logits(z_e)
        codes = logits.argmax(-1)
        if not self.training:
            return Quantized(self.lookup(codes), codes, z_e.new_zeros(()))
        soft = F.gumbel_softmax(logits, tau=float(self.temperature), dim=-1)
        log_probability = logits.log_softmax(-1)
        divergence = (log_probability.exp() * (log_probability + math.log(self.codebook_size))).sum(-1)
        kl = (divergence * mask).sum() / mask.sum().clamp_min(1)
        return Quantized(soft @ self.codebook.weight, codes, self.kl_weight * self.kl_share * kl)

    def soft(self, z_e: torch.Tensor) -> torch.Tensor:
        """The mean of the codes by their probability."""
        return self.to_logits(z_e).softmax(-1) @ self.codebook.weight

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        return self.codebook(codes)
