"""Resampling by a ratio of whole numbers in torch, on the device that the samples are on."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

HALF_WIDTH = 64
"""Zero crossings of the sinc on each side."""

ROLLOFF = 0.96
"""Share of the lower Nyquist frequency at which the filter has fallen to a half."""

BETA = 9.0
"""Shape of the Kaiser window: side lobes below -90 dB."""


def resample(waveform: torch.Tensor, from_hz: int, to_hz: int) -> torch.Tensor:
    """Return samples ``(B, N)`` float32 at ``to_hz``, ``(B, ceil(N * to_hz / from_hz))``.

    Each of the phases that the ratio has is one windowed sinc (polyphase); beyond the ends the sound is 0. The product
    is a matrix product: keep ``torch.set_float32_matmul_precision`` at "highest", or it loses 13 of 24 bits on a GPU.
    """
    divisor = math.gcd(from_hz, to_hz)
    down, up = from_hz // divisor, to_hz // divisor
    filters, reach = _filters(down, up)
    num_out = -(-waveform.shape[-1] * up // down)
    num_strides = -(-num_out // up)
    padded = F.pad(waveform, (reach, num_strides * down + reach - waveform.shape[-1]))
    windows = padded.unfold(-1, down + 2 * reach, down)
    return (windows @ filters.to(waveform.device)).flatten(-2)[..., :num_out]


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _filters(down: int, up: int) -> tuple[torch.Tensor, int]:
    """Return ``(down + 2 * reach, up)`` float32, a filter for each phase, and the reach in input samples."""
    cutoff = ROLLOFF * min(1.0, up / down)
    reach = math.ceil(HALF_WIDTH / cutoff)
    taps = np.arange(-reach, down + reach)[:, None]
    distance = taps - np.arange(up) * down / up  # input samples from each tap to each output sample
    window = np.i0(BETA * np.sqrt(np.maximum(0, 1 - (distance * cutoff / HALF_WIDTH) ** 2))) / np.i0(BETA)
    window[np.abs(distance) * cutoff > HALF_WIDTH] = 0
    return torch.from_numpy((cutoff * np.sinc(cutoff * distance) * window).astype(np.float32)), reach
