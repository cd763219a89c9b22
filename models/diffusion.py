"""The diffusion network: a flow that gives back what the discrete VAE's decoder lost.

It learns the direction that carries noise at time 0 to the truth at time 1, given the decoder's output and, where
asked for, the transformer's hidden states. What flows by default is the residual between truth and prior in units of
its spread, so the network's capacity goes into what is missing and an untrained network already returns the prior with
noise of the right size. One class for one, two and three dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.nn import functional as F

from triforce.models.blocks.layers import CONV, ChannelNorm, fold, sane_std, size_mask, unfold
from triforce.models.samplers import Direction, Path, SamplerConfig, integrate, over_windows

TIME_FEATURES = 128
ROPE_BASE = 10_000.0


class DiffusionConfig(BaseModel):
    """Shape of the network, and what it learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(100, ge=1, description="Channels of the medium: mel bins, or 3 for RGB.")
    num_dims: int = Field(1, ge=1, le=3, description="Axes of the medium besides the channels.")
    fold: int = Field(
        1,
        ge=1,
        le=8,
        description="Positions of each axis that are folded into channels, so that all work is done at a lower rate: "
        "several times as much context and width for the same time.",
    )
    hidden: int = Field(256, ge=16, le=4096, description="Channels inside.")
    num_blocks: int = Field(10, ge=1, le=128, description="Residual blocks.")
    dilation_cycle: tuple[int, ...] = Field((1, 2, 4, 8), description="Dilations of successive blocks.")
    attention_every: int = Field(
        0, ge=0, description="Self-attention over the whole window after every so many blocks; 0: none."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout inside blocks.")
    path: Literal["linear", "cosine"] = Field(
        "linear", description="`linear`: flow matching; `cosine`: diffusion by v-prediction."
    )
    flows: Literal["residual", "medium"] = Field(
        "residual", description="What flows: truth minus prior, or the truth itself, in units of its spread."
    )
    skip: bool = Field(
        False,
        description="Add to the network's answer what of the direction follows from the noisy input alone, as Karras "
        "et al. 2022 (arXiv 2206.00364, table 1) do: noise need not find its way through the network, and at time 0 "
        "it answers the truth itself.",
    )
    prior_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of training samples whose prior is hidden, for guidance (Ho and Salimans 2022).",
    )
    latent_channels: int = Field(0, ge=0, description="Width of the transformer's hidden states; 0: not given.")
    latent_dropout: float = Field(0.1, ge=0, le=1, description="Share of training samples without hidden states.")
    start_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of training samples at time 0, which the mean and every first step rest on.",
    )

    @model_validator(mode="after")
    def _check(self) -> DiffusionConfig:
        if not self.dilation_cycle or min(self.dilation_cycle) < 1:
            raise ValueError(f"dilation_cycle {self.dilation_cycle}: give one or more whole numbers from 1")
        if self.attention_every and self.hidden % self.head_channels:
            raise ValueError(f"hidden {self.hidden}: must be a multiple of {self.head_channels} for attention")
        return self

    @property
    def head_channels(self) -> int:
        """Of an attention head: an even number for each axis, so that its positions can turn pairs."""
        return 24 if self.num_dims == 3 else 32  # small heads serve small networks; assumed

    @property
    def context(self) -> int:
        """Positions to either side that the convolutions see, along each axis; attention sees all."""
        cycle = self.dilation_cycle
        return self.fold * (2 + sum(cycle[i % len(cycle)] for i in range(self.num_blocks)))

    @property
    def cell(self) -> tuple[int, ...]:
        """The positions along each axis that are folded into one."""
        return (self.fold,) * self.num_dims


class TimeBlock(nn.Module):
    """A dilated residual block whose features are scaled and shifted by the time and whose gate opens from zero."""

    def __init__(self, config: DiffusionConfig, dilation: int) -> None:
        super().__init__()
        conv, hidden = CONV[config.num_dims], config.hidden
        self.norm = ChannelNorm(hidden)
        self.modulate = nn.Linear(hidden, 2 * hidden)
        self.spread = conv(hidden, 2 * hidden, 3, padding=dilation, dilation=dilation)
        self.dropout = nn.Dropout(config.dropout)
        self.mix = conv(hidden, hidden, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: torch.Tensor, time: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        value, gate = self.spread(_modulated(self.norm(x), self.modulate(time)) * mask).chunk(2, dim=1)
        return x + self.mix(self.dropout(value * F.silu(gate)))


class AttentionBlock(nn.Module):
    """Self-attention over all true positions, each axis told by rotary angles on its share of a head."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        conv, hidden = CONV[config.num_dims], config.hidden
        self.head_channels, self.num_dims = config.head_channels, config.num_dims
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
        seen = mask.flatten(2)[:, None].bool()  # (B, 1, 1, N): nobody attends to padding
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bool(seen.all()) else seen)
        return x + self.mix(attended.transpose(2, 3).reshape(batch, hidden, *size)) * mask

    def _angles(self, size: list[int], device: torch.device) -> torch.Tensor:
        """``(N, head_channels / 2)``: each axis has its share of the pairs."""
        share = self.head_channels // self.num_dims // 2
        frequencies = ROPE_BASE ** (-torch.arange(share, device=device) / share)
        axes = torch.meshgrid(*(torch.arange(n, device=device) for n in size), indexing="ij")
        return torch.cat([axis.reshape(-1, 1) * frequencies for axis in axes], dim=-1)


class Diffusion(nn.Module):
    """``mean`` and ``std`` ``(channels,)`` normalise the medium, ``residual_std`` ``(channels,)`` is the spread of
    truth minus prior.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.path = Path(config.path)
        conv, folded = CONV[config.num_dims], math.prod(config.cell)
        for name, value in (("mean", 0.0), ("std", 1.0), ("residual_std", 1.0)):
            self.register_buffer(name, torch.full((config.channels,), value))
        # The prior's channels, one that says whether the prior is there, and what flows.
        self.stem = conv((2 * config.channels + 1) * folded, config.hidden, 3, padding=1)
        if config.latent_channels:
            self.latents = conv(config.latent_channels + 1, config.hidden, 1)
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.hidden), nn.SiLU()
        )
        cycle, every = config.dilation_cycle, config.attention_every
        self.blocks = nn.ModuleList()
        for i in range(config.num_blocks):
            self.blocks.append(TimeBlock(config, cycle[i % len(cycle)]))
            if every and (i + 1) % every == 0:
                self.blocks.append(AttentionBlock(config))
        self.norm = ChannelNorm(config.hidden)
        self.head = conv(config.hidden, config.channels * folded, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @torch.no_grad()
    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor, residual_std: torch.Tensor) -> None:
        """Each ``(channels,)``, in the units of the medium."""
        self.mean.copy_(mean)
        self.std.copy_(sane_std(std))
        self.residual_std.copy_(sane_std(residual_std))

    def _per_channel(self, value: torch.Tensor) -> torch.Tensor:
        return value.view(-1, *([1] * self.config.num_dims))

    def _normal(self, medium: torch.Tensor) -> torch.Tensor:
        return (medium - self._per_channel(self.mean)) / self._per_channel(self.std)

    def _flowing(self, medium: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        """The medium in the units that flow."""
        if self.config.flows == "residual":
            return (medium - prior) / self._per_channel(self.residual_std)
        return self._normal(medium)

    def _medium(self, x: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        """The inverse of `_flowing`."""
        if self.config.flows == "residual":
            return prior + x * self._per_channel(self.residual_std)
        return x * self._per_channel(self.std) + self._per_channel(self.mean)

    def direction(
        self,
        x: torch.Tensor,
        time: torch.Tensor,
        prior: torch.Tensor,
        mask: torch.Tensor,
        prior_shown: torch.Tensor,
        latents: torch.Tensor | None = None,
        latents_shown: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Direction ``(B, C, *size)`` of the path at ``x`` ``(B, C, *size)``, in the units that flow, and ``time``
        ``(B,)`` from 0 to 1.

        ``prior`` is in the units of the medium; where ``prior_shown`` ``(B,)`` is 0 the network does not see it.
        ``latents`` ``(B, latent_channels, *grid)`` lie on any coarser grid over the same extent.
        """
        size, cell = x.shape[2:], self.config.cell
        shown = self._flag(prior_shown, x)
        inputs = torch.cat([x, self._normal(prior) * shown, shown.expand(x.shape[0], 1, *size)], dim=1)
        h = self.stem(fold(self._filled(inputs * mask), cell))
        mask = fold(self._filled(mask), cell).amax(1, keepdim=True)
        if self.config.latent_channels:
            h = h + self._latent_features(x, latents, latents_shown)
        embedded = self.time(time_features(time).to(h.dtype))
        for block in self.blocks:
            h = block(h, embedded, mask)
        answer = unfold(self.head(F.silu(self.norm(h)) * mask), cell)[(..., *(slice(n) for n in size))]
        if not self.config.skip:
            return answer
        at = self.path.at(time.view(-1, 1, *([1] * self.config.num_dims)).to(x.dtype))
        return at.skip * x + at.scale * answer

    def _filled(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` with zeros up to whole cells."""
        return F.pad(x, [n for size in reversed(x.shape[2:]) for n in (0, -size % self.config.fold)])

    def _flag(self, shown: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return shown.to(x.dtype).view(-1, 1, *([1] * self.config.num_dims))

    def _latent_features(
        self, x: torch.Tensor, latents: torch.Tensor | None, shown: torch.Tensor | None
    ) -> torch.Tensor:
        """Features of the hidden states at the folded positions of ``x``, and of whether they are there."""
        if latents is None:
            latents, shown = x.new_zeros(x.shape[0], self.config.latent_channels, *x.shape[2:]), x.new_zeros(len(x))
        flag = self._flag(x.new_ones(len(x)) if shown is None else shown, x)
        first = (..., *(slice(None, None, n) for n in self.config.cell))  # a cell's states are those of its first
        features = spread(latents, x.shape[2:])[first].to(x.dtype) * flag
        return self.latents(torch.cat([features, flag.expand(len(x), 1, *features.shape[2:])], dim=1))

    def loss(
        self,
        truth: torch.Tensor,
        prior: torch.Tensor,
        sizes: torch.Tensor,
        generator: torch.Generator | None = None,
        *,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean squared error of the direction over the true positions, in the units that flow.

        ``truth`` and ``prior`` ``(B, C, *size)``, sizes ``(B, D)``. Noise, times and what is hidden come from
        ``generator``.
        """
        config = self.config
        batch, device = truth.shape[0], truth.device
        mask = size_mask(sizes, truth.shape[2:])
        target = self._flowing(truth, prior)
        noise = torch.randn(truth.shape, generator=generator, device=device, dtype=truth.dtype)
        # Times crowd the middle, where the direction is hardest (Esser et al. 2024, arXiv 2403.03206, section 3.1).
        time = torch.randn(batch, generator=generator, device=device).sigmoid()
        chance = torch.rand(3, batch, generator=generator, device=device)
        time = time.masked_fill(chance[1] < config.start_share, 0.0)
        t = time.view(-1, 1, *([1] * config.num_dims))
        at = self.path.at(t)
        predicted = self.direction(
            at.signal * target + at.noise * noise,
            time,
            prior,
            mask,
            chance[0] >= config.prior_dropout,
            latents,
            chance[2] >= config.latent_dropout,
        )
        error = (predicted - (at.signal_slope * target + at.noise_slope * noise)).pow(2).mean(1, keepdim=True)
        return (error * mask).sum() / mask.sum()

    @torch.inference_mode()
    def sample(
        self,
        prior: torch.Tensor,
        sizes: torch.Tensor | None = None,
        config: SamplerConfig | None = None,
        *,
        seed: int = 0,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Restore ``prior`` ``(B, C, *size)``, in the units of the medium; past a sample's true size the prior comes
        back. The same seed gives the same noise.
        """
        config = config or SamplerConfig()
        if sizes is None:
            sizes = torch.tensor([prior.shape[2:]] * prior.shape[0], device=prior.device)
        mask = size_mask(sizes, prior.shape[2:])
        if latents is not None:
            latents = spread(latents, prior.shape[2:])
        generator = torch.Generator(prior.device).manual_seed(seed)
        direction = self._windowed(prior, mask, config, latents)
        if config.method == "mean":
            x = self._mean(direction, prior, mask, config.num_steps, generator)
        else:
            noise = torch.randn(prior.shape, generator=generator, device=prior.device, dtype=prior.dtype)
            at = self.path.at(config.start_time)
            start = at.signal * self._flowing(prior, prior) + at.noise * config.temperature * noise
            x = integrate(direction, start * mask, config, self.path)
        return torch.where(mask > 0, self._medium(x, prior), prior)

    def _mean(
        self, direction: Direction, prior: torch.Tensor, mask: torch.Tensor, num_draws: int, generator: torch.Generator
    ) -> torch.Tensor:
        """What the result is expected to be: noise says nothing of the truth, so at time 0 that is where the network
        points. It is nearest the truth position by position, and blurred; draws differ by the network's error alone.
        """
        total = torch.zeros_like(prior)
        for _ in range(num_draws):
            noise = torch.randn(prior.shape, generator=generator, device=prior.device, dtype=prior.dtype) * mask
            total += self.path.truth(noise, direction(noise, 0.0), 0.0)
        return total / num_draws

    def _windowed(
        self, prior: torch.Tensor, mask: torch.Tensor, config: SamplerConfig, latents: torch.Tensor | None
    ) -> Direction:
        def field(span: slice) -> Direction:
            part = None if latents is None else latents[..., span]
            return self._guided(prior[..., span], mask[..., span], config, part)

        return over_windows(field, prior.shape[-1], config, self.config.fold)

    def _guided(
        self, prior: torch.Tensor, mask: torch.Tensor, config: SamplerConfig, latents: torch.Tensor | None = None
    ) -> Direction:
        batch, guidance = prior.shape[0], config.guidance
        shown = prior.new_ones(batch)

        def plain(x: torch.Tensor, time: float) -> torch.Tensor:
            return self.direction(x, prior.new_full((batch,), time), prior, mask, shown, latents)

        def guided(x: torch.Tensor, time: float) -> torch.Tensor:
            doubled = [torch.cat([value, value]) for value in (x, prior.new_full((batch,), time), prior, mask)]
            seen = None if latents is None else torch.cat([latents, latents])
            known = torch.cat([shown, 0 * shown])
            prior_shown = known if config.guidance_of == "all" else torch.ones_like(known)
            with_it, without = self.direction(*doubled, prior_shown, seen, known).chunk(2)
            return with_it + guidance * (with_it - without)

        changes = guidance and not (config.guidance_of == "latents" and latents is None)
        return guided if changes else plain


def time_features(time: torch.Tensor) -> torch.Tensor:
    """Times ``(B,)`` from 0 to 1 as sines and cosines ``(B, TIME_FEATURES)``, periods from 2 pi down to 2 pi / 1000."""
    half = TIME_FEATURES // 2
    frequencies = torch.exp(torch.linspace(0, math.log(1000.0), half, device=time.device))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def spread(latents: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """``(B, C, *grid)`` at every position ``(B, C, *size)`` of the medium: a state over all of its code."""
    for axis, length in enumerate(size, 2):
        factor = -(-length // latents.shape[axis])
        latents = latents.repeat_interleave(factor, dim=axis).narrow(axis, 0, length) if factor > 1 else latents
    return latents


def _modulated(x: torch.Tensor, scale_shift: torch.Tensor) -> torch.Tensor:
    """``x`` ``(B, C, *grid)`` scaled and shifted by ``(B, 2 C)``."""
    scale, shift = scale_shift.view(*x.shape[:1], -1, *([1] * (x.ndim - 2))).chunk(2, dim=1)
    return x * (1 + scale) + shift


def _turn(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotary positions: pairs of ``(B, H, N, C)`` turned by ``(N, C / 2)`` (Su et al. 2021, arXiv 2104.09864)."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
