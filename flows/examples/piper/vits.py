"""The network of a piper voice in torch: VITS (Kim, Kong and Son 2021), inference alone, in batches.

A medium voice: text encoder, stochastic duration predictor, residual flow and HiFi-GAN decoder with its second kind of
residual block. The modules have the names of the exported graph, so its weights load by name. A row of a batch comes
out as it would alone: what is beyond its length is zero at every layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

SAMPLE_RATE_HZ = 22_050
HOP_LENGTH = 256
NUM_SYMBOLS = 256
WIDTH = 192
"""Channels of text, durations and latents in voices of quality "medium"."""

SLOPE = 0.1
GAP = 12
"""Frames of the decoder's reach to either side: 3 of its first convolution, 5.6 + 0.7 + 0.2 of its blocks, 1 of
upsampling, rounded up. Masked frames count as the zeros beyond a sentence's ends only if there are as many of them.
"""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of ``(B, C, T)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x.transpose(1, 2), self.gamma.shape, self.gamma, self.beta, 1e-5).transpose(1, 2)


class RelativeAttention(nn.Module):
    """Self-attention with learned embeddings of distances up to ``window`` (Shaw et al. 2018)."""

    def __init__(self, heads: int = 2, window: int = 4) -> None:
        super().__init__()
        self.heads, self.window, self.depth = heads, window, WIDTH // heads
        self.emb_rel_k = nn.Parameter(torch.zeros(1, 2 * window + 1, self.depth))
        self.emb_rel_v = nn.Parameter(torch.zeros(1, 2 * window + 1, self.depth))
        self.conv_q, self.conv_k, self.conv_v, self.conv_o = (nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(4))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Attend within ``x`` ``(B, C, T)``; ``mask`` is ``(B, 1, T)``."""
        batch, _, length = x.shape
        query, key, value = (
            conv(x).view(batch, self.heads, self.depth, length).transpose(2, 3)
            for conv in (self.conv_q, self.conv_k, self.conv_v)
        )
        query = query / math.sqrt(self.depth)
        places = torch.arange(length, device=x.device)
        distance = places[None, :] - places[:, None] + self.window
        near = (distance >= 0) & (distance <= 2 * self.window)
        index = distance.clamp(0, 2 * self.window).expand(batch, self.heads, -1, -1)
        by_distance = (query @ self.emb_rel_k[0].T).gather(3, index)
        scores = query @ key.transpose(2, 3) + by_distance.masked_fill(~near, 0)
        scores = scores.masked_fill((mask[:, :, :, None] * mask[:, :, None, :]) == 0, -1e4)
        weights = scores.softmax(-1)
        # weights of the distances, (B, H, T, 2 * window + 1): column i + r - window of row i
        columns = places[:, None] + torch.arange(2 * self.window + 1, device=x.device)
        padded = F.pad(weights, (self.window, self.window))
        relative = padded.gather(3, columns.expand(batch, self.heads, -1, -1))
        out = weights @ value + relative @ self.emb_rel_v[0]
        return self.conv_o(out.transpose(2, 3).reshape(batch, WIDTH, length))


class FeedForward(nn.Module):
    """Two convolutions with a ReLU between."""

    def __init__(self, hidden: int = 768) -> None:
        super().__init__()
        self.conv_1 = nn.Conv1d(WIDTH, hidden, 3, padding=1)
        self.conv_2 = nn.Conv1d(hidden, WIDTH, 3, padding=1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.conv_2(self.conv_1(x * mask).relu() * mask) * mask


class Encoder(nn.Module):
    """Transformer with its norms behind the sums."""

    def __init__(self, layers: int = 6) -> None:
        super().__init__()
        self.attn_layers = nn.ModuleList(RelativeAttention() for _ in range(layers))
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(WIDTH) for _ in range(layers))
        self.ffn_layers = nn.ModuleList(FeedForward() for _ in range(layers))
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(WIDTH) for _ in range(layers))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x * mask
        for attention, norm_1, feed_forward, norm_2 in zip(
            self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True
        ):
            x = norm_1(x + attention(x, mask))
            x = norm_2(x + feed_forward(x, mask))
        return x * mask


class TextEncoder(nn.Module):
    """Symbols to hidden states and to mean and log standard deviation of each symbol's latents."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(NUM_SYMBOLS, WIDTH)
        self.encoder = Encoder()
        self.proj = nn.Conv1d(WIDTH, 2 * WIDTH, 1)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.encoder((self.emb(ids) * math.sqrt(WIDTH)).transpose(1, 2), mask)
        mean, log_std = (self.proj(x) * mask).chunk(2, 1)
        return x, mean, log_std


class SeparableConvs(nn.Module):
    """Dilated depthwise and pointwise convolutions with residuals."""

    def __init__(self, layers: int = 3, kernel: int = 3) -> None:
        super().__init__()
        self.convs_sep = nn.ModuleList(
            nn.Conv1d(WIDTH, WIDTH, kernel, groups=WIDTH, dilation=kernel**i, padding=kernel**i * (kernel - 1) // 2)
            for i in range(layers)
        )
        self.convs_1x1 = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(layers))
        self.norms_1 = nn.ModuleList(ChannelNorm(WIDTH) for _ in range(layers))
        self.norms_2 = nn.ModuleList(ChannelNorm(WIDTH) for _ in range(layers))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for depthwise, pointwise, norm_1, norm_2 in zip(
            self.convs_sep, self.convs_1x1, self.norms_1, self.norms_2, strict=True
        ):
            y = F.gelu(norm_1(depthwise(x * mask)))
            x = x + F.gelu(norm_2(pointwise(y)))
        return x * mask


class SplineFlow(nn.Module):
    """One coupling of the duration predictor, inverted: a spline whose knots depend on the other half."""

    def __init__(self, bins: int = 10) -> None:
        super().__init__()
        self.bins = bins
        self.pre = nn.Conv1d(1, WIDTH, 1)
        self.convs = SeparableConvs()
        self.proj = nn.Conv1d(WIDTH, 3 * bins - 1, 1)

    def forward(self, z: torch.Tensor, mask: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return ``z`` ``(B, 2, T)`` one flow nearer to the data."""
        given, changed = z.chunk(2, 1)
        hidden = self.convs(self.pre(given) + condition, mask)
        knots = (self.proj(hidden) * mask).transpose(1, 2)
        widths, heights, slopes = knots.split([self.bins, self.bins, self.bins - 1], -1)
        scale = math.sqrt(WIDTH)
        changed = inverse_spline(changed[:, 0], widths / scale, heights / scale, slopes)[:, None]
        return torch.cat((given, changed), 1) * mask


def inverse_spline(
    y: torch.Tensor, widths: torch.Tensor, heights: torch.Tensor, slopes: torch.Tensor, bound: float = 5.0
) -> torch.Tensor:
    """Invert a monotonic rational quadratic spline (Durkan et al. 2019), the identity beyond ``bound``.

    ``y`` is ``(B, T)``; ``widths`` and ``heights`` ``(B, T, bins)`` and ``slopes`` ``(B, T, bins - 1)`` are what a
    network gives.
    """
    smallest = 1e-3
    x_knots, widths = _knots(widths, smallest, bound)
    y_knots, heights = _knots(heights, smallest, bound)
    slopes = F.pad(smallest + F.softplus(slopes), (1, 1), value=1.0)
    inside = (y >= -bound) & (y <= bound)
    clamped = y.clamp(-bound, bound)
    index = ((clamped[..., None] >= y_knots[..., :-1]).sum(-1, keepdim=True) - 1).clamp_min(0)

    def at(values: torch.Tensor) -> torch.Tensor:
        return values.gather(-1, index)[..., 0]

    width, height, left, below = at(widths), at(heights), at(x_knots[..., :-1]), at(y_knots[..., :-1])
    slope_left, slope_right, mean_slope = at(slopes[..., :-1]), at(slopes[..., 1:]), height / width
    rise = clamped - below
    bend = slope_left + slope_right - 2 * mean_slope
    a = rise * bend + height * (mean_slope - slope_left)
    b = height * slope_left - rise * bend
    c = -mean_slope * rise
    root = 2 * c / (-b - (b.square() - 4 * a * c).clamp_min(0).sqrt())
    return torch.where(inside, root * width + left, y)


def _knots(values: torch.Tensor, smallest: float, bound: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the knots from ``-bound`` to ``bound`` and the sizes between them."""
    bins = values.shape[-1]
    sizes = smallest + (1 - smallest * bins) * values.softmax(-1)
    inner = 2 * bound * sizes.cumsum(-1)[..., :-1] - bound
    ends = torch.full_like(inner[..., :1], bound)
    knots = torch.cat((-ends, inner, ends), -1)
    return knots, knots[..., 1:] - knots[..., :-1]


class Affine(nn.Module):
    """The last flow of the duration predictor: a shift and a scale for each of its two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(2, 1))
        self.scale = nn.Parameter(torch.ones(2, 1))


class DurationPredictor(nn.Module):
    """Hidden states and noise to the log duration of each symbol, in frames."""

    def __init__(self) -> None:
        super().__init__()
        self.pre, self.proj = nn.Conv1d(WIDTH, WIDTH, 1), nn.Conv1d(WIDTH, WIDTH, 1)
        self.convs = SeparableConvs()
        self.flows = nn.ModuleDict({"0": Affine(), "3": SplineFlow(), "5": SplineFlow(), "7": SplineFlow()})

    def forward(self, x: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return ``(B, T)`` from hidden states ``(B, C, T)`` and noise ``(B, 2, T)``."""
        condition = self.proj(self.convs(self.pre(x), mask)) * mask
        z = noise
        for name in ("7", "5", "3"):
            z = self.flows[name](z.flip(1), mask, condition)
        affine = self.flows["0"]
        return ((z.flip(1) - affine.m) * affine.scale * mask)[:, 0]


class WaveNet(nn.Module):
    """Gated convolutions with skip connections."""

    def __init__(self, layers: int = 4, kernel: int = 5) -> None:
        super().__init__()
        self.in_layers = nn.ModuleList(nn.Conv1d(WIDTH, 2 * WIDTH, kernel, padding=kernel // 2) for _ in range(layers))
        self.res_skip_layers = nn.ModuleList(
            nn.Conv1d(WIDTH, 2 * WIDTH if i < layers - 1 else WIDTH, 1) for i in range(layers)
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for number, (gates, out) in enumerate(zip(self.in_layers, self.res_skip_layers, strict=True), 1):
            signal, gate = gates(x).chunk(2, 1)
            result = out(signal.tanh() * gate.sigmoid())
            if number < len(self.in_layers):
                residual, result = result.chunk(2, 1)
                x = (x + residual) * mask
            total = total + result
        return total * mask


class Coupling(nn.Module):
    """One coupling of the flow between text's and sound's latents, inverted: a shift of one half."""

    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.Conv1d(WIDTH // 2, WIDTH, 1)
        self.enc = WaveNet()
        self.post = nn.Conv1d(WIDTH, WIDTH // 2, 1)

    def forward(self, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        given, changed = z.chunk(2, 1)
        shift = self.post(self.enc(self.pre(given) * mask, mask)) * mask
        return torch.cat((given, (changed - shift) * mask), 1)


class Flow(nn.Module):
    """The four couplings with their halves swapped between them."""

    def __init__(self) -> None:
        super().__init__()
        self.flows = nn.ModuleDict({name: Coupling() for name in "0246"})

    def forward(self, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for name in "6420":
            z = self.flows[name](z.flip(1), mask)
        return z


class ResidualBlock(nn.Module):
    """Two dilated convolutions, each added to its input: HiFi-GAN's second kind."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)
            for dilation in dilations
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = torch.addcmul(x, conv(F.leaky_relu(x, SLOPE)), mask)
        return x


class Upsampling(nn.ConvTranspose1d):
    """A transposed convolution whose kernel is two strides long; on a GPU as a product and two shifted sums, because
    cuDNN's took two thirds of the synthesis on an H100.
    """

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        width, stride, padding = int(self.kernel_size[0]), int(self.stride[0]), int(self.padding[0])
        if x.device.type == "cpu" or width != 2 * stride:
            return super().forward(x, output_size)
        batch, _, length = x.shape
        weight = self.weight.permute(1, 2, 0).flatten(0, 1).expand(batch, -1, -1)
        parts = torch.bmm(weight, x).view(batch, self.out_channels, width, length).transpose(2, 3)
        early, late = (part.reshape(batch, self.out_channels, -1) for part in parts.split(stride, dim=3))
        whole = F.pad(early, (0, stride)) + F.pad(late, (stride, 0))
        return whole[..., padding : whole.shape[-1] - padding] + self.bias[:, None]


class Decoder(nn.Module):
    """HiFi-GAN (Kong, Kim and Bae 2020): latents ``(B, C, T)`` to samples ``(B, T * HOP_LENGTH)``."""

    STRIDES = (8, 8, 4)
    BLOCKS = ((3, (1, 2)), (5, (2, 6)), (7, (3, 12)))
    """Kernel and dilations of each block; checked against the graph when weights are exported."""

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.conv_pre = nn.Conv1d(WIDTH, channels, 7, padding=3)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for stride in self.STRIDES:
            self.ups.append(Upsampling(channels, channels // 2, 2 * stride, stride=stride, padding=stride // 2))
            channels //= 2
            self.resblocks.extend(ResidualBlock(channels, kernel, dilations) for kernel, dilations in self.BLOCKS)
        self.conv_post = nn.Conv1d(channels, 1, 7, padding=3, bias=False)

    def forward(self, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Decode ``z``, which is 0 where the mask ``(B, 1, T)`` is; the samples are 0 there too."""
        x = self.conv_pre(z) * mask
        for number, (up, stride) in enumerate(zip(self.ups, self.STRIDES, strict=True)):
            mask = mask.repeat_interleave(stride, -1)
            x = up(F.leaky_relu(x, SLOPE)) * mask
            blocks = self.resblocks[number * len(self.BLOCKS) : (number + 1) * len(self.BLOCKS)]
            x = _mean(blocks, x, mask)
        return torch.tanh(self.conv_post(F.leaky_relu(x, 0.01)) * mask)[:, 0]


def _mean(blocks: nn.ModuleList, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total = blocks[0](x, mask)
    for block in blocks[1:]:
        total = total + block(x, mask)
    return total / len(blocks)


def length_mask(lengths: torch.Tensor, size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return ``(B, 1, size)``: 1 where a position is below its row's length."""
    return (torch.arange(size, device=lengths.device) < lengths[:, None]).to(dtype)[:, None]


@dataclass(frozen=True)
class Prosody:
    """What the text decides of a batch, before any sound; ``T`` are symbols."""

    mean: torch.Tensor
    """Means of the latents, ``(B, C, T)``."""
    log_std: torch.Tensor
    durations: torch.Tensor
    """Frames of each symbol, ``(B, T)`` int64; 0 beyond a row's length."""


class Vits(nn.Module):
    """A voice: symbols to durations, then to samples."""

    def __init__(self) -> None:
        super().__init__()
        self.enc_p, self.dp, self.flow, self.dec = TextEncoder(), DurationPredictor(), Flow(), Decoder()

    def prosody(
        self, ids: torch.Tensor, lengths: torch.Tensor, noise: torch.Tensor, length_scale: torch.Tensor
    ) -> Prosody:
        """Read symbols ``(B, T)`` int64 of ``lengths`` ``(B,)``.

        ``noise`` ``(B, 2, T)`` varies the durations: standard normal times piper's ``noise_w``. ``length_scale``
        ``(B,)`` stretches them.
        """
        mask = length_mask(lengths, ids.shape[1])
        x, mean, log_std = self.enc_p(ids, mask)
        log_durations = self.dp(x, mask, noise)
        durations = (log_durations.exp() * mask[:, 0] * length_scale[:, None]).ceil()
        return Prosody(mean, log_std, durations.long())

    def speak(self, latents: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return samples ``(B, T * HOP_LENGTH)`` in -1 to 1, 0 where the mask ``(B, 1, T)`` of frames is.

        ``latents`` ``(B, C, T)`` are drawn around what `prosody` says of each frame's symbol. Several sentences may
        share a row: with `GAP` masked frames between them, each comes out as it would alone.
        """
        z = self.flow(latents * mask, mask)
        dtype = self.dec.conv_pre.weight.dtype
        return self.dec(z.to(dtype), mask.to(dtype))
