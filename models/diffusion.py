"""The diffusion network: a flow that restores what the discrete VAE's decoder lost.

It learns the velocity that carries noise at time 0 to the data at time 1, conditioned on the decoder's output (the
prior) and, where asked for, on the codes, the pieces of text that are said in them and the GPT's latents. By default
its target is the residual between data and prior, in units of the residual's standard deviation: the network's capacity
goes into what is missing, and an untrained network already returns the prior with noise of the right size. One class
serves one, two and three dimensions. With `DiffusionConfig.upsample` the medium has more positions than the prior,
which is first interpolated to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.nn import functional as F

from triforce.models.blocks.conditions import TokenFeatures, normal_by_position, upsample_latents
from triforce.models.blocks.layers import (
    CONV,
    ChannelNorm,
    channels_to_space,
    floor_std,
    size_mask,
    space_to_channels,
)
from triforce.models.blocks.scale import upsample
from triforce.models.blocks.time_blocks import TIME_FEATURES, AttentionBlock, TimeBlock, time_features
from triforce.models.flow_samplers import Path, SamplerConfig, Velocity, integrate, over_windows


class DiffusionConfig(BaseModel):
    """Shape of the network, and its prediction target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(100, ge=1, description="Channels of the medium: mel bins, or 3 for RGB.")
    num_dims: int = Field(1, ge=1, le=3, description="Axes of the medium besides the channels.")
    fold: int = Field(
        1,
        ge=1,
        le=8,
        description="Positions of each axis that are moved into channels, so that all work is done at a lower rate: "
        "several times as much context and width for the same time.",
    )
    upsample: int = Field(
        1,
        ge=1,
        le=8,
        description="Positions of the medium for each of the prior along every axis: over 1 the prior, a decode at a "
        "coarser scale, is interpolated to the medium's grid (cubic) and the residual is taken from there. Decided by "
        "the dVAE's `shrink`.",
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
    target: Literal["residual", "medium"] = Field(
        "residual",
        validation_alias=AliasChoices("target", "flows"),  # `flows` in releases before it was renamed
        description="Prediction target: data minus prior, or the data itself, in units of its standard deviation.",
    )
    skip: bool = Field(
        False,
        description="Add to the network's output the part of the velocity that follows from the noisy input alone, as "
        "Karras et al. 2022 (arXiv 2206.00364, table 1) do: noise need not pass through the network, and at time 0 "
        "its output is the data itself.",
    )
    prior_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of training samples whose prior is hidden, for guidance (Ho and Salimans 2022).",
    )
    latent_channels: int = Field(0, ge=0, description="Width of the GPT's latents; 0: not conditioned on them.")
    latent_dropout: float = Field(
        0.1, ge=0, le=1, description="Share of training samples whose latents and pieces are hidden."
    )
    num_codes: int = Field(
        0, ge=0, description="Codes of the dVAE, to be told which code lies where; 0: not told, the prior alone says."
    )
    num_pieces: int = Field(
        0, ge=0, description="Pieces of text of the front end, to be told which is said at each code; 0: not told."
    )
    start_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of training samples at time 0, where `mean` and every first step evaluate the network.",
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
        """Channels of an attention head: an even number for each axis, since rotary positions turn pairs."""
        return 24 if self.num_dims == 3 else 32  # small heads serve small networks; assumed

    @property
    def context(self) -> int:
        """Positions to either side, along each axis, that the convolutions see; attention sees all."""
        cycle = self.dilation_cycle
        return self.fold * (2 + sum(cycle[i % len(cycle)] for i in range(self.num_blocks)))

    @property
    def token_sizes(self) -> tuple[int, ...]:
        """How many codes and how many pieces there are, of those that the network is told."""
        return tuple(size for size in (self.num_codes, self.num_pieces) if size)

    @property
    def reach(self) -> int:
        """Positions to either side, along each axis, that a restored position depends on in one evaluation, beyond its
        own cell; without attention.
        """
        return self.context + (self.fold if self.token_sizes else 0)  # two convolutions where the prior has the stem's

    @property
    def cell(self) -> tuple[int, ...]:
        """Positions along each axis that are moved into channels."""
        return (self.fold,) * self.num_dims


class Diffusion(nn.Module):
    """The diffusion network.

    ``mean`` and ``std`` ``(channels,)`` normalise the medium; ``residual_std`` ``(channels,)`` is the standard
    deviation of data minus prior.
    """

    mean: torch.Tensor
    std: torch.Tensor
    residual_std: torch.Tensor

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.path = Path(config.path)
        conv, cell = CONV[config.num_dims], math.prod(config.cell)
        for name, value in (("mean", 0.0), ("std", 1.0), ("residual_std", 1.0)):
            self.register_buffer(name, torch.full((config.channels,), value))
        # The noisy target, the prior, and a channel that says whether the prior is given.
        self.stem = conv((2 * config.channels + 1) * cell, config.hidden, 3, padding=1)
        if config.latent_channels:
            self.latents = conv(config.latent_channels + 1, config.hidden, 1)
        if config.token_sizes:
            self.tokens = TokenFeatures(config.num_dims, config.token_sizes, config.hidden)
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.hidden), nn.SiLU()
        )
        cycle, every = config.dilation_cycle, config.attention_every
        self.blocks = nn.ModuleList()
        for i in range(config.num_blocks):
            dilation = cycle[i % len(cycle)]
            self.blocks.append(TimeBlock(config.num_dims, config.hidden, dilation, dropout=config.dropout))
            if every and (i + 1) % every == 0:
                self.blocks.append(AttentionBlock(config.num_dims, config.hidden, config.head_channels))
        self.norm = ChannelNorm(config.hidden)
        self.head = conv(config.hidden, config.channels * cell, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @torch.no_grad()
    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor, residual_std: torch.Tensor) -> None:
        """Set the statistics, each ``(channels,)``, in the units of the medium; see `floor_std`."""
        self.mean.copy_(mean)
        self.std.copy_(floor_std(std))
        self.residual_std.copy_(floor_std(residual_std))

    def _per_channel(self, value: torch.Tensor) -> torch.Tensor:
        return value.view(-1, *([1] * self.config.num_dims))

    def _normal(self, medium: torch.Tensor) -> torch.Tensor:
        return (medium - self._per_channel(self.mean)) / self._per_channel(self.std)

    def _to_target(self, medium: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        """Return the prediction target of ``medium``, in its own units."""
        if self.config.target == "residual":
            return (medium - prior) / self._per_channel(self.residual_std)
        return self._normal(medium)

    def _from_target(self, x: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        """Invert `_to_target`."""
        if self.config.target == "residual":
            return prior + x * self._per_channel(self.residual_std)
        return x * self._per_channel(self.std) + self._per_channel(self.mean)

    def velocity(
        self,
        x: torch.Tensor,
        time: torch.Tensor,
        prior: torch.Tensor,
        mask: torch.Tensor,
        prior_shown: torch.Tensor,
        latents: torch.Tensor | None = None,
        latents_shown: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict the velocity ``(B, C, *size)`` at ``x`` ``(B, C, *size)`` and ``time`` ``(B,)`` from 0 to 1.

        ``x`` and the velocity are in the units of the target, ``prior``, of the same size, in those of the medium.
        Where ``prior_shown`` or ``latents_shown`` ``(B,)`` is 0, that condition is hidden from the network: the codes
        with the prior, the pieces with the latents. ``latents`` ``(B, latent_channels, *grid)`` and ``tokens``
        ``(B, R, *grid)``, a row for each of `DiffusionConfig.token_sizes` and -1 where none is known, may lie on any
        coarser grid over the same extent.
        """
        size, cell = x.shape[2:], self.config.cell
        shown = self._flag(prior_shown, x)
        inputs = torch.cat([x, self._normal(prior) * shown, shown.expand(x.shape[0], 1, *size)], dim=1)
        h = self.stem(space_to_channels(self._padded(inputs * mask), cell))
        mask = space_to_channels(self._padded(mask), cell).amax(1, keepdim=True)
        if self.config.latent_channels:
            h = h + self._latent_features(x, latents, latents_shown)
        if self.config.token_sizes:
            h = h + self._token_features(x, tokens, prior_shown, latents_shown)
        embedded = self.time(time_features(time).to(h.dtype))
        for block in self.blocks:
            h = block(h, embedded, mask)
        output = channels_to_space(self.head(F.silu(self.norm(h)) * mask), cell)[(..., *(slice(n) for n in size))]
        if not self.config.skip:
            return output
        at = self.path.at(time.view(-1, 1, *([1] * self.config.num_dims)).to(x.dtype))
        return at.skip * x + at.scale * output

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        """Pad ``x`` with zeros to whole cells."""
        return F.pad(x, [n for size in reversed(x.shape[2:]) for n in (0, -size % self.config.fold)])

    def _flag(self, shown: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return shown.to(x.dtype).view(-1, 1, *([1] * self.config.num_dims))

    def _latent_features(
        self, x: torch.Tensor, latents: torch.Tensor | None, shown: torch.Tensor | None
    ) -> torch.Tensor:
        """Return features of the latents at the cells of ``x``, and of whether they are given."""
        if latents is None:
            latents, shown = x.new_zeros(x.shape[0], self.config.latent_channels, *x.shape[2:]), x.new_zeros(len(x))
        flag = self._flag(x.new_ones(len(x)) if shown is None else shown, x)
        first = (..., *(slice(None, None, n) for n in self.config.cell))  # a cell has the latents of its first position
        features = upsample_latents(latents, x.shape[2:])[first].to(x.dtype) * flag
        return self.latents(torch.cat([features, flag.expand(len(x), 1, *features.shape[2:])], dim=1))

    def _token_features(
        self,
        x: torch.Tensor,
        tokens: torch.Tensor | None,
        prior_shown: torch.Tensor,
        latents_shown: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return features of codes and pieces at the cells of ``x``."""
        if tokens is None:
            tokens = torch.full((len(x), len(self.config.token_sizes), *x.shape[2:]), -1, device=x.device)
        text_shown = torch.ones_like(prior_shown) if latents_shown is None else latents_shown
        flags = [prior_shown] * bool(self.config.num_codes) + [text_shown] * bool(self.config.num_pieces)
        first = (..., *(slice(None, None, n) for n in self.config.cell))
        tokens = upsample_latents(tokens, x.shape[2:])[first]
        shown = torch.stack(flags, dim=1).view(len(x), -1, *([1] * self.config.num_dims)) > 0
        return self.tokens(tokens.where(shown, -1)).to(x.dtype)

    def loss(
        self,
        data: torch.Tensor,
        prior: torch.Tensor,
        sizes: torch.Tensor,
        generator: torch.Generator | None = None,
        *,
        latents: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the mean squared error of the velocity, as `losses` does."""
        return self.losses(data, prior, sizes, generator, latents=latents, tokens=tokens)[0]

    def losses(
        self,
        data: torch.Tensor,
        prior: torch.Tensor,
        sizes: torch.Tensor,
        generator: torch.Generator | None = None,
        *,
        latents: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
        num_means: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean squared error of the velocity over all positions that are not padding, and the expected data
        ``(num_means, C, *size)`` of the first samples, in the units of the medium: their time is 0.

        ``data`` ``(B, C, *size)`` and ``prior``, which has 1 / ``upsample`` of its positions along each axis, are in
        the units of the medium; ``sizes`` ``(B, D)`` are those of the data. Noise, times and the choice of hidden
        conditions come from ``generator``. ``latents`` and ``tokens`` as in `velocity`.
        """
        config = self.config
        batch, device = data.shape[0], data.device
        prior = self.upsampled(prior, sizes, data.shape[2:])
        mask = size_mask(sizes, data.shape[2:])
        target = self._to_target(data, prior)
        noise = torch.randn(data.shape, generator=generator, device=device, dtype=data.dtype)
        # Times crowd the middle, where the velocity is hardest (Esser et al. 2024, arXiv 2403.03206, section 3.1).
        time = torch.randn(batch, generator=generator, device=device).sigmoid()
        chance = torch.rand(3, batch, generator=generator, device=device)
        time = time.masked_fill(chance[1] < config.start_share, 0.0)
        if num_means:
            time = torch.cat([time.new_zeros(num_means), time[num_means:]])
        t = time.view(-1, 1, *([1] * config.num_dims))
        at = self.path.at(t)
        x = at.signal * target + at.noise * noise
        predicted = self.velocity(
            x,
            time,
            prior,
            mask,
            chance[0] >= config.prior_dropout,
            latents,
            chance[2] >= config.latent_dropout,
            tokens,
        )
        error = (predicted - (at.signal_slope * target + at.noise_slope * noise)).pow(2).mean(1, keepdim=True)
        means = self.path.data(x[:num_means], predicted[:num_means], 0.0)
        return (error * mask).sum() / mask.sum(), self._from_target(means, prior[:num_means])

    @torch.inference_mode()
    def sample(
        self,
        prior: torch.Tensor,
        sizes: torch.Tensor | None = None,
        config: SamplerConfig | None = None,
        *,
        seed: int = 0,
        latents: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Restore ``prior`` ``(B, C, *size)``, in the units of the medium; the same seed gives the same noise.

        The result has ``upsample`` times the prior's positions along each axis, or the largest of ``sizes`` ``(B, D)``:
        the samples' own sizes, in positions of the result. Past them the prior is returned. ``latents`` are
        ``(B, latent_channels, *grid)``, ``tokens`` ``(B, R, *grid)``.
        """
        config, factor = config or SamplerConfig(), self.config.upsample
        full = tuple(factor * n for n in prior.shape[2:])
        if sizes is None:
            sizes = torch.tensor([full] * prior.shape[0], device=prior.device)
        prior = self.upsampled(prior, sizes, full if factor == 1 else sizes.amax(0).tolist())
        mask = size_mask(sizes, prior.shape[2:])
        if latents is not None:
            latents = upsample_latents(latents, prior.shape[2:])
        if tokens is not None:
            tokens = upsample_latents(tokens, prior.shape[2:])
        generator = torch.Generator(prior.device).manual_seed(seed)
        velocity = self._windowed(prior, mask, config, latents, tokens)
        if config.method == "mean":
            x = self._mean(velocity, prior, mask, config.num_steps, generator)
        else:
            noise = torch.randn(prior.shape, generator=generator, device=prior.device, dtype=prior.dtype)
            at = self.path.at(config.start_time)
            start = at.signal * self._to_target(prior, prior) + at.noise * config.temperature * noise
            x = integrate(velocity, start * mask, config, self.path)
        return torch.where(mask > 0, self._from_target(x, prior), prior)

    def upsampled(self, prior: torch.Tensor, sizes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Return ``prior`` on the medium's grid of ``size``, where the samples have ``sizes`` ``(B, D)`` positions."""
        return upsample(prior, self.config.upsample, sizes, size)

    def _mean(
        self, velocity: Velocity, prior: torch.Tensor, mask: torch.Tensor, num_draws: int, generator: torch.Generator
    ) -> torch.Tensor:
        """Return the expected data: noise says nothing of it, so the network's prediction at time 0 is the mean.

        It is nearest the data position by position, and blurred; draws differ by the network's error alone.
        """
        total = torch.zeros_like(prior)
        for _ in range(num_draws):
            noise = normal_by_position(prior.shape, generator).to(prior.dtype) * mask
            total += self.path.data(noise, velocity(noise, 0.0), 0.0)
        return total / num_draws

    @torch.inference_mode()
    def part_of_mean(
        self, prior: torch.Tensor, noise: torch.Tensor, tokens: torch.Tensor | None, config: SamplerConfig
    ) -> torch.Tensor:
        """Return the expected data ``(1, C, T)`` of a part of a sound by one draw of ``noise`` ``(1, C, T)``, under the
        guidance of ``config``; ``prior`` is of the same size. But for `DiffusionConfig.reach` positions at its ends it
        is that of the whole.
        """
        mask = prior.new_ones(1, 1, prior.shape[-1])
        known = None if tokens is None else upsample_latents(tokens, prior.shape[2:])
        velocity = self.guided_velocity(prior, mask, config, tokens=known)
        return self._from_target(self.path.data(noise, velocity(noise, 0.0), 0.0), prior)

    def _windowed(
        self,
        prior: torch.Tensor,
        mask: torch.Tensor,
        config: SamplerConfig,
        latents: torch.Tensor | None,
        tokens: torch.Tensor | None,
    ) -> Velocity:
        def field(span: slice) -> Velocity:
            parts = (None if known is None else known[..., span] for known in (latents, tokens))
            return self.guided_velocity(prior[..., span], mask[..., span], config, *parts)

        return over_windows(field, prior.shape[-1], config, self.config.fold)

    def guided_velocity(
        self,
        prior: torch.Tensor,
        mask: torch.Tensor,
        config: SamplerConfig,
        latents: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
    ) -> Velocity:
        """Return the velocity under ``config.guidance``, for ``prior``, ``latents`` and ``tokens`` of the same size."""
        batch, guidance = prior.shape[0], config.guidance
        shown = prior.new_ones(batch)

        def plain(x: torch.Tensor, time: float) -> torch.Tensor:
            return self.velocity(x, prior.new_full((batch,), time), prior, mask, shown, latents, tokens=tokens)

        def guided(x: torch.Tensor, time: float) -> torch.Tensor:
            two_x, two_times, two_priors, two_masks = (
                torch.cat([value, value]) for value in (x, prior.new_full((batch,), time), prior, mask)
            )
            two_latents, two_tokens = (None if part is None else torch.cat([part, part]) for part in (latents, tokens))
            known = torch.cat([shown, 0 * shown])
            prior_shown = known if config.guidance_of == "all" else torch.ones_like(known)
            both = self.velocity(two_x, two_times, two_priors, two_masks, prior_shown, two_latents, known, two_tokens)
            given, hidden = both.chunk(2)
            return given + guidance * (given - hidden)

        of_text = latents is not None or (tokens is not None and self.config.num_pieces)
        changes = guidance and (config.guidance_of == "all" or of_text)
        return guided if changes else plain
