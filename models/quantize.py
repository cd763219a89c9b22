"""Quantizers by name: they turn vectors into codes (integers) and back, behind one interface.

``fsq`` rounds a few bounded coordinates to a grid (Mentzer et al. 2023, arXiv 2309.15505), so no codebook can collapse.
``ema-vq`` learns a codebook by moving averages (van den Oord et al. 2017), initialised by k-means on the first batch,
with dead codes restarted from the batch.
``sim-vq`` transforms a fixed random codebook by one learned matrix, so that all codes move at each step, used or not
(Zhu et al. 2024, arXiv 2411.02038). Both pass gradients by the rotation trick (Fifty et al. 2024, arXiv 2410.06424).
``sim-vq`` comes from vector-quantize-pytorch. ``gumbel`` draws a relaxed one-hot code (Jang et al. 2016).

Calling a quantizer gives quantized vectors, `lookup` the vectors ``(B, L, C)`` of codes, and `soft` what the decoder
would get without rounding: the difference in error is the price of discrete codes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from triforce.models.blocks.codebook import EMACodebook, rotate


class Quantized(NamedTuple):
    z_q: torch.Tensor
    """Quantized vectors ``(B, L, C)``; gradients pass straight through."""
    codes: torch.Tensor
    """Codes ``(B, L)`` int64."""
    loss: torch.Tensor
    """Scalar to add to the reconstruction loss."""


class Quantizer(nn.Module):
    """Base class of quantizers."""

    codebook_size: int

    def forward(self, z_e: torch.Tensor, mask: torch.Tensor) -> Quantized:
        """Quantize ``z_e`` ``(B, L, C)``; vectors where ``mask`` ``(B, L)`` is 0 affect neither loss nor codebook."""
        raise NotImplementedError

    def soft(self, z_e: torch.Tensor) -> torch.Tensor:
        """Return ``z_e`` as the decoder would get it without rounding to codes."""
        raise NotImplementedError

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the vectors ``(B, L, C)`` of codes ``(B, L)``."""
        raise NotImplementedError

    def anneal(self, progress: float) -> None:
        """Update schedules; called before each training step with the share of the run that is done, 0 to 1."""


class FSQQuantizer(Quantizer):
    """Finite scalar quantization: each coordinate is bounded and rounded to one of its ``levels``.

    The coordinates are computed in float32, whatever autocast says, for a code is decided between two levels.
    """

    levels: torch.Tensor
    half_width: torch.Tensor
    basis: torch.Tensor

    def __init__(self, channels: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.codebook_size = math.prod(levels)
        counts = torch.tensor(levels, dtype=torch.int32)
        self.register_buffer("levels", counts, persistent=False)
        self.register_buffer("half_width", counts // 2, persistent=False)
        self.register_buffer("basis", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]), False)
        # Releases name the tensors so, after the library that they were first trained with. It projects where it must.
        same = channels == len(levels)
        ways = {"project_in": (channels, len(levels)), "project_out": (len(levels), channels)}
        self.fsq = nn.ModuleDict({way: nn.Identity() if same else nn.Linear(*sizes) for way, sizes in ways.items()})

    def _bounded(self, z_e: torch.Tensor) -> torch.Tensor:
        """Return coordinates ``(B, L, D)`` float32, in which the levels are whole numbers (Mentzer et al. 2023,
        appendix A.1).
        """
        with torch.autocast(z_e.device.type, enabled=False):
            half = (self.levels - 1) * (1 + 1e-3) / 2
            offset = (self.levels % 2 == 0) * 0.5
            return torch.tanh(self.fsq["project_in"](z_e.float()) + torch.atanh(offset / half)) * half - offset

    def forward(self, z_e: torch.Tensor, mask: torch.Tensor) -> Quantized:
        bounded = self._bounded(z_e)
        rounded = bounded.detach().round()
        codes = ((rounded.long() + self.half_width) * self.basis).sum(-1)
        straight = bounded + (rounded - bounded.detach())
        z_q = self.fsq["project_out"](straight / self.half_width)
        return Quantized(z_q, codes, z_e.new_zeros(()))

    def soft(self, z_e: torch.Tensor) -> torch.Tensor:
        return self.fsq["project_out"](self._bounded(z_e) / self.half_width)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        level = codes[..., None] // self.basis % self.levels
        return self.fsq["project_out"]((level - self.half_width) / self.half_width)


class EMAVQQuantizer(Quantizer):
    """A codebook that follows the encoder by moving averages, in two phases that `anneal` switches between.

    While the encoder moves fast, moving averages lag behind, because most of many codes are drawn only once in dozens
    of steps. So at first every code that a step does not draw is replaced by a vector of the batch. Later the codes
    settle, and only dead ones are restarted.
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
        self.commitment, self.refresh_share = commitment, refresh_share
        self.project_in = nn.Linear(channels, codebook_dim)
        self.project_out = nn.Linear(codebook_dim, channels)
        # Releases name the tensors so, after the library that they were first trained with.
        self.vq = nn.ModuleDict({"_codebook": EMACodebook(codebook_size, codebook_dim, dead_share)})

    @property
    def codebook(self) -> EMACodebook:
        """The codes and their moving averages."""
        return self.vq["_codebook"]  # type: ignore[return-value]

    def anneal(self, progress: float) -> None:
        """Choose how codes are replaced: all that a step does not draw at first, later the dead ones."""
        self.codebook.refreshing = progress < self.refresh_share

    def forward(self, z_e: torch.Tensor, mask: torch.Tensor) -> Quantized:
        z_low = self.project_in(z_e)
        codes, chosen = self.codebook(z_low, mask)
        loss = z_low.new_zeros((), dtype=torch.float32)
        if self.training:
            distance = (z_low.float() - chosen).square().mean(-1)
            loss = self.commitment * (distance * mask).sum() / mask.sum().clamp_min(1)
            chosen = rotate(z_low.float(), chosen)
        return Quantized(self.project_out(chosen.to(z_low.dtype)), codes, loss)

    def soft(self, z_e: torch.Tensor) -> torch.Tensor:
        return self.project_out(self.project_in(z_e))

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        return self.project_out(self.codebook.embed[0][codes])


class SimVQQuantizer(Quantizer):
    """A fixed random codebook behind one learned matrix."""

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
        # The library's own loss includes padding; its two terms are the same.
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
    """A relaxed one-hot code: soft in training, hard in evaluation.

    `anneal` follows DALL-E (Ramesh et al. 2021, appendix A.2): the temperature falls from 1 to 1/16 and the weight of
    the KL divergence rises from 0, each along a cosine.
    """

    temperature: torch.Tensor

    def __init__(self, channels: int, codebook_size: int, kl_weight: float) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.kl_weight = kl_weight
        self.to_logits = nn.Linear(channels, codebook_size)
        self.codebook = nn.Embedding(codebook_size, channels)
        self.register_buffer("temperature", torch.ones(()))
        self.kl_share = 1.0

    def anneal(self, progress: float) -> None:
        """Anneal the temperature over the whole run, and raise the divergence's weight over the first tenth.

        DALL-E's weight rises over 5 000 of 3 000 000 steps.
        """

        def cosine_rise(share: float) -> float:
            return 0.5 - 0.5 * math.cos(math.pi * min(1.0, share))

        self.temperature.fill_(math.exp(math.log(1 / 16) * cosine_rise(progress)))
        self.kl_share = cosine_rise(10 * progress)

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
        """Return the mean of the codebook's vectors, weighted by their probability."""
        return self.to_logits(z_e).softmax(-1) @ self.codebook.weight

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        return self.codebook(codes)


def perplexity(counts: torch.Tensor | np.ndarray) -> float:
    """Return the number of equally likely codes that would be as unpredictable as codes counted ``(num_codes,)``.

    It is the exponential of the entropy of their frequencies, and 0 where nothing was counted.
    """
    counted = torch.as_tensor(counts).double()
    share = counted[counted > 0] / counted.sum()
    return float(torch.exp(-(share * share.log()).sum())) if share.numel() else 0.0
