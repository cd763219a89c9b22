"""The discrete VAE: a medium on a grid (mel frames, image, video) to a smaller grid of codes, and back with some loss.

One class serves one, two and three dimensions. A sample's codes depend on nothing but the sample: features are masked
to its own size before every convolution, and norms see one position at a time, so neither padding nor the other samples
of a batch change a code.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from triforce.models.blocks.layers import (
    CONV,
    ChannelNorm,
    Downsample,
    ResidualBlock,
    Upsample,
    channels_to_space,
    floor_std,
    size_mask,
    space_to_channels,
)
from triforce.models.quantize import EMAVQQuantizer, FSQQuantizer, GumbelQuantizer, Quantizer, SimVQQuantizer


class DVAEConfig(BaseModel):
    """Shape of a discrete VAE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(100, ge=1, description="Channels of the medium: mel bins, or 3 for RGB.")
    compression: tuple[int, ...] = Field(
        (4,), description="Positions per code along each axis; powers of two. Its length is 1, 2 or 3."
    )
    folded: bool = Field(
        False,
        description="Move the positions of each code into channels at once and do all work at the rate of the codes, "
        "instead of halving the rate step by step: several times as much context and depth for the same time.",
    )
    hidden: int = Field(256, ge=8, le=4096, description="Channels at the rate of the codes.")
    stem: int = Field(
        128, ge=8, le=4096, description="Channels at full rate; doubled with each halving, up to `hidden`."
    )
    num_blocks: int = Field(
        6, ge=1, le=64, description="Residual blocks at the rate of the codes, in the encoder and in the decoder."
    )
    num_outer_blocks: int = Field(1, ge=0, le=16, description="Residual blocks at each higher rate.")
    dilation_cycle: tuple[int, ...] = Field(
        (1, 2, 4), description="Dilations of successive blocks at the rate of the codes."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout inside residual blocks.")
    quantizer: Literal["fsq", "ema-vq", "sim-vq", "gumbel"] = Field("fsq", description="How vectors become integers.")
    fsq_levels: tuple[int, ...] = Field(
        (8, 8, 8, 4, 4), description="Grid of `fsq`; the product is the number of codes."
    )
    codebook_size: int = Field(8192, ge=2, le=65536, description="Codes of `ema-vq`, `sim-vq` and `gumbel`.")
    codebook_dim: int = Field(16, ge=1, le=1024, description="Dimension of `ema-vq`'s and `sim-vq`'s codebook vectors.")
    commitment: float = Field(0.25, ge=0, description="Weight of `ema-vq`'s and `sim-vq`'s commitment loss.")
    dead_share: float = Field(
        0.1, ge=0, lt=1, description="Share of even use below which `ema-vq` restarts a code from the batch."
    )
    refresh_share: float = Field(
        0.35, ge=0, le=1, description="Share of the run, at its start, in which `ema-vq` replaces rarely used codes."
    )
    kl_weight: float = Field(1e-3, ge=0, description="Weight of `gumbel`'s divergence from the uniform prior.")

    @model_validator(mode="after")
    def _check(self) -> DVAEConfig:
        if not 1 <= len(self.compression) <= 3:
            raise ValueError(f"compression {self.compression}: give one number for each of 1, 2 or 3 axes")
        for factor in self.compression:
            if factor < 1 or factor & (factor - 1):
                raise ValueError(f"compression {self.compression}: each must be a power of two")
        if self.quantizer == "fsq" and not 2 <= math.prod(self.fsq_levels) <= 65536:
            raise ValueError(
                f"fsq_levels {self.fsq_levels}: {math.prod(self.fsq_levels)} codes; codes are stored in 16 "
                f"bits, 65536 at most"
            )
        return self

    @property
    def num_dims(self) -> int:
        """Number of axes of the medium besides the channels."""
        return len(self.compression)

    @property
    def num_codes(self) -> int:
        """Number of codes in the codebook."""
        return math.prod(self.fsq_levels) if self.quantizer == "fsq" else self.codebook_size

    @property
    def downsampling(self) -> list[tuple[int, ...]]:
        """Factors along each axis of each step from full rate to the codes' rate: 1 or 2, or all at once if folded."""
        if self.folded:
            return [self.compression]
        exponents = [factor.bit_length() - 1 for factor in self.compression]
        return [tuple(2 if step < e else 1 for e in exponents) for step in range(max(exponents))]

    def grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the codes of a sample of ``size`` positions."""
        return tuple(-(-n // factor) for n, factor in zip(size, self.compression, strict=True))

    @property
    def _trunk_reach(self) -> int:
        """Codes to either side that the blocks at the codes' rate see, in the encoder and in the decoder."""
        cycle = self.dilation_cycle
        return sum(cycle[i % len(cycle)] for i in range(self.num_blocks))

    @property
    def encoder_reach(self) -> tuple[int, ...]:
        """Positions to either side, along each axis, that a code depends on beyond those that it stands for.

        A part of a long sample that is encoded with this much beside it gets the codes of the whole.
        """
        reach = []
        for axis, factor in enumerate(self.compression):
            scale, total = 1, 0 if self.folded else 1  # the stem's convolution of width 3
            for factors in [] if self.folded else self.downsampling:
                total += (self.num_outer_blocks + 1) * scale  # blocks of width 3, then the downsampling's overlap
                scale *= factors[axis]
            total += (self._trunk_reach + self.folded) * factor
            reach.append(total)
        return tuple(reach)

    @property
    def decoder_reach(self) -> tuple[int, ...]:
        """Codes to either side, along each axis, that a decoded position depends on beyond its own.

        A part of long codes that is decoded with this much beside it becomes what it becomes in the whole.
        """
        reach = []
        for axis, factor in enumerate(self.compression):
            scale, positions = 1, factor if self.folded else 1  # the head's convolution of width 3
            for factors in [] if self.folded else self.downsampling:
                positions += self.num_outer_blocks * scale  # blocks of width 3
                scale *= factors[axis]
                positions += scale  # the upsampling's overlap
            reach.append(self._trunk_reach + -(-positions // factor))
        return tuple(reach)


class DVAEOutput(NamedTuple):
    """Output of the network in training."""

    reconstruction: torch.Tensor
    """Reconstruction ``(B, C, *size)``, in the units of the input."""
    codes: torch.Tensor
    """Codes ``(B, *grid)`` int64; 0 past a sample's own grid."""
    codes_mask: torch.Tensor
    """Mask ``(B, 1, *grid)``; 1 where a code belongs to the sample."""
    quantizer_loss: torch.Tensor
    """Scalar to add to the reconstruction loss."""


class _Trunk(nn.Module):
    """Residual blocks at one rate."""

    def __init__(self, config: DVAEConfig, channels: int, num_blocks: int, *, inner: bool) -> None:
        super().__init__()
        cycle = config.dilation_cycle if inner else (1,)
        self.blocks = nn.ModuleList(
            ResidualBlock(config.num_dims, channels, cycle[i % len(cycle)], dropout=config.dropout)
            for i in range(num_blocks)
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return x


CODE_MODULES = ("stem", "encoder", "encoder_trunk", "encoder_norm", "quantizer")
"""Parts of the network that decide codes; beside them ``mean`` and ``std`` do."""


class DVAE(nn.Module):
    """The discrete VAE; ``mean`` and ``std`` ``(channels,)`` normalise the medium, and `set_statistics` sets them."""

    mean: torch.Tensor
    std: torch.Tensor
    quantizer: Quantizer
    codes_frozen: bool = False
    """Whether training leaves the codes as they are, by `freeze_codes`."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        self.config = config
        dims = config.num_dims
        halvings = [] if config.folded else list(enumerate(config.downsampling))
        widths = [*(min(config.hidden, config.stem << i) for i, _ in halvings), config.hidden]
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("std", torch.ones(config.channels))

        cell = math.prod(config.compression) if config.folded else 1
        self.stem = CONV[dims](config.channels * cell, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for i, factors in halvings:
            outer = _Trunk(config, widths[i], config.num_outer_blocks, inner=False)
            self.encoder.append(nn.ModuleList([outer, Downsample(dims, widths[i], widths[i + 1], factors)]))
        self.encoder_trunk = _Trunk(config, config.hidden, config.num_blocks, inner=True)
        self.encoder_norm = ChannelNorm(config.hidden)
        self.quantizer = _make_quantizer(config)
        self.decoder_trunk = _Trunk(config, config.hidden, config.num_blocks, inner=True)
        for i, factors in reversed(halvings):
            outer = _Trunk(config, widths[i], config.num_outer_blocks, inner=False)
            self.decoder.append(nn.ModuleList([Upsample(dims, widths[i + 1], widths[i], factors), outer]))
        self.head_norm = ChannelNorm(widths[0])
        self.head = CONV[dims](widths[0], config.channels * cell, 3, padding=1)

    @torch.no_grad()
    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Normalise by ``mean`` and ``std`` ``(channels,)``, in the units of the medium; see `floor_std`."""
        self.mean.copy_(mean)
        self.std.copy_(floor_std(std))

    def freeze_codes(self) -> None:
        """Leave encoder and quantizer as they are, in training too: the decoder learns alone, and codes stay valid.

        They then work as in evaluation, without dropout, and a codebook of moving averages no longer moves.
        """
        self.codes_frozen = True
        for name in CODE_MODULES:
            getattr(self, name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> DVAE:
        """Switch between training and evaluation; of a network with frozen codes, the decoder alone."""
        super().train(mode)
        if self.codes_frozen:
            for name in CODE_MODULES:
                getattr(self, name).eval()
        return self

    def code_tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights and buffers that decide codes, by name."""
        names = (*CODE_MODULES, "mean", "std")
        return {name: tensor for name, tensor in self.state_dict().items() if name.partition(".")[0] in names}

    def forward(self, x: torch.Tensor, sizes: torch.Tensor | None = None) -> DVAEOutput:
        """Encode and decode ``x`` ``(B, C, *size)``.

        ``sizes`` ``(B, D)`` are the samples' own sizes in positions; by default nothing is padding.
        """
        z_e, masks = self.encode_vectors(x, sizes)
        flat_mask = masks[-1].flatten(2).squeeze(1)
        quantized = self.quantizer(z_e.flatten(2).transpose(1, 2), flat_mask)
        z_q = quantized.z_q.transpose(1, 2).reshape(z_e.shape)
        grid = masks[-1].shape[2:]
        codes = quantized.codes.view(-1, *grid) * masks[-1].squeeze(1).long()
        reconstruction = self._decode(z_q, masks, tuple(x.shape[2:]))
        return DVAEOutput(reconstruction, codes, masks[-1], quantized.loss)

    @torch.no_grad()
    def encode(self, x: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
        """Return the codes ``(B, *grid)`` int64 of ``x`` ``(B, C, *size)``; 0 past a sample's own grid."""
        z_e, masks = self.encode_vectors(x, sizes)
        mask = masks[-1]
        codes = self.quantizer(z_e.flatten(2).transpose(1, 2), mask.flatten(2).squeeze(1)).codes
        return codes.view(-1, *mask.shape[2:]) * mask.squeeze(1).long()

    @torch.no_grad()
    def reconstruct_soft(self, x: torch.Tensor) -> torch.Tensor:
        """Pass ``x`` ``(B, C, *size)`` through encoder and decoder without rounding to codes between them."""
        z_e, masks = self.encode_vectors(x)
        z_soft = self.quantizer.soft(z_e.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(z_e.shape)
        return self._decode(z_soft, masks, tuple(x.shape[2:]))

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
        """Decode codes ``(B, *grid)`` to ``(B, C, *size)``.

        ``sizes`` ``(B, D)`` are the samples' own sizes in positions, by default all that the grid spans. Raises
        ValueError for a code outside the codebook, and for sizes that do not make this grid.
        """
        if codes.numel() and (codes.min() < 0 or codes.max() >= self.config.num_codes):
            raise ValueError(
                f"codes from {int(codes.min())} to {int(codes.max())}: this dVAE has 0 to {self.config.num_codes - 1}"
            )
        grid = codes.shape[1:]
        full = tuple(n * factor for n, factor in zip(grid, self.config.compression, strict=True))
        if sizes is None:
            sizes = torch.tensor([full] * codes.shape[0], device=codes.device)
        size = tuple(sizes.amax(0).tolist())
        if self.config.grid(size) != tuple(grid):
            raise ValueError(f"sizes up to {size} make a grid of {self.config.grid(size)}; the codes' is {tuple(grid)}")
        z_q = self.quantizer.lookup(codes.flatten(1)).transpose(1, 2)
        return self._decode(z_q.reshape(codes.shape[0], -1, *grid), self._masks(sizes, full), size)

    def _masks(self, sizes: torch.Tensor, padded: tuple[int, ...]) -> list[torch.Tensor]:
        """Return a mask for each rate, from full rate down to the codes' rate."""
        masks = [size_mask(sizes, padded)]
        for factors in self.config.downsampling:
            sizes = torch.stack([-(-sizes[:, axis] // factor) for axis, factor in enumerate(factors)], dim=1)
            padded = tuple(n // f for n, f in zip(padded, factors, strict=True))
            masks.append(size_mask(sizes, padded))
        return masks

    def encode_vectors(
        self, x: torch.Tensor, sizes: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the vectors ``(B, hidden, *grid)`` that the quantizer rounds, and the mask of each rate."""
        config = self.config
        if x.ndim != 2 + config.num_dims or x.shape[1] != config.channels:
            raise ValueError(f"input of shape {tuple(x.shape)}: give (B, {config.channels}) and {config.num_dims} axes")
        size = tuple(x.shape[2:])
        padding = [n for s, f in zip(reversed(size), reversed(config.compression), strict=True) for n in (0, -s % f)]
        if sizes is None:
            sizes = torch.stack([torch.full(x.shape[:1], n, device=x.device) for n in size], dim=1)
        per_channel = (-1, *([1] * config.num_dims))
        h = (x - self.mean.view(per_channel)) / self.std.view(per_channel)
        h = nn.functional.pad(h, padding)
        masks = self._masks(sizes, tuple(h.shape[2:]))
        h = h * masks[0]
        h = self.stem(space_to_channels(h, config.compression) if config.folded else h)
        for (outer, down), mask in zip(self.encoder, masks, strict=False):
            h = down(outer(h, mask), mask)
        return self.encoder_norm(self.encoder_trunk(h, masks[-1])), masks

    def _decode(self, z_q: torch.Tensor, masks: list[torch.Tensor], size: tuple[int, ...]) -> torch.Tensor:
        h = self.decoder_trunk(z_q * masks[-1], masks[-1])
        for (up, outer), mask, below in zip(self.decoder, masks[-2::-1], masks[::-1], strict=False):
            h = outer(up(h, below), mask)
        folded = self.config.folded
        h = self.head(nn.functional.gelu(self.head_norm(h)) * masks[-1 if folded else 0])
        h = channels_to_space(h, self.config.compression) if folded else h
        per_channel = (-1, *([1] * self.config.num_dims))
        h = h * self.std.view(per_channel) + self.mean.view(per_channel)
        return h[(..., *(slice(n) for n in size))]


def _make_quantizer(config: DVAEConfig) -> Quantizer:
    if config.quantizer == "fsq":
        return FSQQuantizer(config.hidden, config.fsq_levels)
    if config.quantizer == "ema-vq":
        return EMAVQQuantizer(
            config.hidden,
            config.codebook_size,
            config.codebook_dim,
            config.commitment,
            config.dead_share,
            config.refresh_share,
        )
    if config.quantizer == "sim-vq":
        return SimVQQuantizer(config.hidden, config.codebook_size, config.codebook_dim, config.commitment)
    return GumbelQuantizer(config.hidden, config.codebook_size, config.kl_weight)
