"""The diffusion network: flow matching that gives back what the discrete VAE's decoder lost.

It learns the velocity that carries noise at time 0 to the truth at time 1 along straight lines (Lipman et al. 2023,
arXiv 2210.02747), given
the decoder's output. What flows is the residual between truth and prior in units of its spread, so the network's
capacity goes into what is missing and an untrained network already returns the prior with noise of the right size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.nn import functional as F

from triforce.models.layers import CONV, ChannelNorm, sane_std, size_mask

TIME_FEATURES = 128


class DiffusionConfig(BaseModel):
    """Shape of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(100, ge=1, description="Channels of the medium: mel bins, or 3 for RGB.")
    num_dims: int = Field(1, ge=1, le=3, description="Axes of the medium besides the channels.")
    hidden: int = Field(256, ge=16, le=4096, description="Channels inside.")
    num_blocks: int = Field(10, ge=1, le=128, description="Residual blocks.")
    dilation_cycle: tuple[int, ...] = Field((1, 2, 4, 8), description="Dilations of successive blocks.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout inside blocks.")
    prior_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of training samples whose prior is hidden, for guidance (Ho and Salimans 2022).",
    )

    @model_validator(mode="after")
    def _check(self) -> DiffusionConfig:
        if not self.dilation_cycle or min(self.dilation_cycle) < 1:
            raise ValueError(f"dilation_cycle {self.dilation_cycle}: give one or more whole numbers from 1")
        return self


class SamplerConfig(BaseModel):
    """How the flow is followed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field("euler", pattern="^(euler|heun)$", description="`heun` evaluates the network twice a step.")
    num_steps: int = Field(4, ge=1, le=1000, description="Steps from noise to result.")
    guidance: float = Field(
        0.0, ge=0, le=20, description="Push away from the network that knows no prior; 0 is the identity."
    )
    temperature: float = Field(
        0.25,
        ge=0,
        le=2,
        description="Spread of the starting noise; 0 begins at the prior itself, 1 is what training saw. "
        "Measured on the demo's "
        "network: 1 is as sharp as the original and loses words, 0.25 wins half of the sharpness and loses few.",
    )


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
        scale, shift = self.modulate(time).view(*time.shape[:1], -1, *([1] * (x.ndim - 2))).chunk(2, dim=1)
        value, gate = self.spread((self.norm(x) * (1 + scale) + shift) * mask).chunk(2, dim=1)
        return x + self.mix(self.dropout(value * F.silu(gate)))


class Diffusion(nn.Module):
    """``mean`` and ``std`` ``(channels,)`` normalise the medium, ``residual_std`` ``(channels,)`` is the spread of
    truth minus prior.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        conv = CONV[config.num_dims]
        for name, value in (("mean", 0.0), ("std", 1.0), ("residual_std", 1.0)):
            self.register_buffer(name, torch.full((config.channels,), value))
        # The prior's channels, one that says whether the prior is there, and what flows.
        self.stem = conv(2 * config.channels + 1, config.hidden, 3, padding=1)
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.hidden), nn.SiLU()
        )
        cycle = config.dilation_cycle
        self.blocks = nn.ModuleList(TimeBlock(config, cycle[i % len(cycle)]) for i in range(config.num_blocks))
        self.norm = ChannelNorm(config.hidden)
        self.head = conv(config.hidden, config.channels, 3, padding=1)
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

    def velocity(
        self, x: torch.Tensor, time: torch.Tensor, prior: torch.Tensor, mask: torch.Tensor, prior_shown: torch.Tensor
    ) -> torch.Tensor:
        """Velocity ``(B, C, *size)`` at ``x`` ``(B, C, *size)`` in residual units and ``time`` ``(B,)`` from 0 to 1.

        ``prior`` is in the units of the medium; where ``prior_shown`` ``(B,)`` is 0 the network does not see it.
        """
        shown = prior_shown.view(-1, 1, *([1] * self.config.num_dims))
        normal = (prior - self._per_channel(self.mean)) / self._per_channel(self.std)
        inputs = torch.cat([x, normal * shown, shown.expand(x.shape[0], 1, *x.shape[2:])], dim=1)
        h = self.stem(inputs * mask)
        embedded = self.time(time_features(time).to(h.dtype))
        for block in self.blocks:
            h = block(h, embedded, mask)
        return self.head(F.silu(self.norm(h)) * mask)

    def loss(
        self, truth: torch.Tensor, prior: torch.Tensor, sizes: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Mean squared error of the velocity over the true positions, in residual units.

        ``truth`` and ``prior`` ``(B, C, *size)``, sizes ``(B, D)``. Noise, times and hidden priors come from
        ``generator``.
        """
        mask = size_mask(sizes, truth.shape[2:])
        target = (truth - prior) / self._per_channel(self.residual_std)
        noise = torch.randn(truth.shape, generator=generator, device=truth.device, dtype=truth.dtype)
        # Times crowd the middle, where the velocity is hardest (Esser et al. 2024, arXiv 2403.03206, section 3.1).
        time = torch.randn(truth.shape[0], generator=generator, device=truth.device).sigmoid()
        shown = (torch.rand(truth.shape[0], generator=generator, device=truth.device) >= self.config.prior_dropout).to(
            truth.dtype
        )
        t = time.view(-1, 1, *([1] * self.config.num_dims))
        predicted = self.velocity((1 - t) * noise + t * target, time, prior, mask, shown)
        error = (predicted - (target - noise)).pow(2).mean(1, keepdim=True)
        return (error * mask).sum() / mask.sum()

    @torch.inference_mode()
    def sample(
        self,
        prior: torch.Tensor,
        sizes: torch.Tensor | None = None,
        config: SamplerConfig | None = None,
        *,
        seed: int = 0,
    ) -> torch.Tensor:
        """Restore ``prior`` ``(B, C, *size)``, in the units of the medium; past a sample's true size the prior comes
        back.
        """
        config = config or SamplerConfig()
        if sizes is None:
            sizes = torch.tensor([prior.shape[2:]] * prior.shape[0], device=prior.device)
        mask = size_mask(sizes, prior.shape[2:])
        generator = torch.Generator(prior.device).manual_seed(seed)
        noise = torch.randn(prior.shape, generator=generator, device=prior.device, dtype=prior.dtype)
        velocity = self._guided(prior, mask, config.guidance)
        x = integrate(velocity, noise * config.temperature * mask, config)
        return prior + x * self._per_channel(self.residual_std) * mask

    def _guided(
        self, prior: torch.Tensor, mask: torch.Tensor, guidance: float
    ) -> Callable[[torch.Tensor, float], torch.Tensor]:
        batch = prior.shape[0]
        shown = prior.new_ones(batch)

        def plain(x: torch.Tensor, time: float) -> torch.Tensor:
            return self.velocity(x, prior.new_full((batch,), time), prior, mask, shown)

        def guided(x: torch.Tensor, time: float) -> torch.Tensor:
            doubled = [torch.cat([value, value]) for value in (x, prior.new_full((batch,), time), prior, mask)]
            known, unknown = self.velocity(*doubled, torch.cat([shown, 0 * shown])).chunk(2)
            return known + guidance * (known - unknown)

        return guided if guidance else plain


def integrate(
    velocity: Callable[[torch.Tensor, float], torch.Tensor], x: torch.Tensor, config: SamplerConfig
) -> torch.Tensor:
    """Follow the flow from time 0 to 1 in equal steps."""
    step = 1 / config.num_steps
    for i in range(config.num_steps):
        slope = velocity(x, i * step)
        if config.method == "heun":
            slope = (slope + velocity(x + step * slope, (i + 1) * step)) / 2
        x = x + step * slope
    return x


def time_features(time: torch.Tensor) -> torch.Tensor:
    """Times ``(B,)`` from 0 to 1 as sines and cosines ``(B, TIME_FEATURES)``, periods from 2 pi down to 2 pi / 1000."""
    half = TIME_FEATURES // 2
    frequencies = torch.exp(torch.linspace(0, math.log(1000.0), half, device=time.device))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
