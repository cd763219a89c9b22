"""The front-end that all networks and vocoders share: waveform to log-mel."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn


class MelConfig(BaseModel):
    """Settings of the log-mel; by default those of the published Vocos 24 kHz vocoder: magnitude STFT, HTK mel scale
    without area norm, natural log.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_rate_hz: int = Field(24_000, ge=8_000, le=96_000, description="Sample rate of the waveform, Hz.")
    n_fft: int = Field(1024, ge=64, le=8192, description="FFT and Hann window length, samples.")
    hop_length: int = Field(256, ge=16, le=4096, description="Samples from one frame to the next.")
    num_mels: int = Field(100, ge=8, le=512, description="Mel bins.")
    f_min_hz: float = Field(0.0, ge=0, description="Lower edge of the lowest bin, Hz.")
    f_max_hz: float = Field(12_000.0, gt=0, description="Upper edge of the highest bin, Hz.")
    floor: float = Field(
        2e-3,
        gt=0,
        le=1e-1,
        description="Smallest mel magnitude: the rounding noise of 16 bits, which is 1.7e-3 in the widest bins. "
        "Below it the same recording differs by nats between formats, inaudibly. Vocos clips at 1e-7.",
    )

    @model_validator(mode="after")
    def _check(self) -> MelConfig:
        if self.f_max_hz > self.sample_rate_hz / 2:
            raise ValueError(f"f_max_hz {self.f_max_hz}: at most half of sample_rate_hz, {self.sample_rate_hz / 2}")
        if self.hop_length > self.n_fft // 2:
            raise ValueError(f"hop_length {self.hop_length}: at most n_fft / 2, {self.n_fft // 2}, or samples are lost")
        return self

    @property
    def frames_per_s(self) -> float:
        """Mel frames per second."""
        return self.sample_rate_hz / self.hop_length

    @property
    def log_floor(self) -> float:
        """Smallest value of a log-mel."""
        return math.log(self.floor)

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames of a waveform; frames are centred, so it is one more than the whole hops."""
        return 1 + num_samples // self.hop_length

    def num_samples(self, num_frames: int) -> int:
        """Return the number of samples that a vocoder makes of ``num_frames`` frames."""
        return (num_frames - 1) * self.hop_length


def hz_to_mel(frequency_hz: np.ndarray | float) -> np.ndarray | float:
    """Convert Hz to HTK's mel scale (O'Shaughnessy 1987)."""
    return 2595.0 * np.log10(1.0 + np.asarray(frequency_hz) / 700.0)


def mel_to_hz(mel: np.ndarray | float) -> np.ndarray | float:
    """Convert HTK's mel scale to Hz."""
    return 700.0 * (10.0 ** (np.asarray(mel) / 2595.0) - 1.0)


# Not made in inference mode: training could not use the cached tensor.
@lru_cache(maxsize=8)
@torch.inference_mode(False)
def mel_filterbank(config: MelConfig) -> torch.Tensor:
    """Return triangular filters of peak 1, ``(num_mels, n_fft // 2 + 1)`` float32."""
    edges = mel_to_hz(np.linspace(hz_to_mel(config.f_min_hz), hz_to_mel(config.f_max_hz), config.num_mels + 2))
    bins = np.linspace(0, config.sample_rate_hz / 2, config.n_fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.from_numpy(np.maximum(0, np.minimum(rising, falling)).astype(np.float32))


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def hann_window(n_fft: int) -> torch.Tensor:
    """Return the STFT's Hann window ``(n_fft,)`` float32."""
    return torch.hann_window(n_fft)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _constants(config: MelConfig, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Window and filters on a device, uploaded once."""
    return hann_window(config.n_fft).to(device), mel_filterbank(config).to(device)


def log_mel(waveform: torch.Tensor | np.ndarray, config: MelConfig) -> torch.Tensor:
    """Return natural-log mel magnitudes ``(..., num_mels, T)`` float32 of samples ``(..., N)`` in -1 to 1.

    ``T`` is ``1 + N // hop_length``.
    """
    waveform = torch.as_tensor(waveform, dtype=torch.float32)
    return _log_mel(waveform, config, *_constants(config, waveform.device))


class LogMel(nn.Module):
    """`log_mel` of float32 samples as a module, which torch.compile takes whole."""

    window: torch.Tensor
    filters: torch.Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", hann_window(config.n_fft).clone(), persistent=False)
        self.register_buffer("filters", mel_filterbank(config).clone(), persistent=False)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return _log_mel(waveform, self.config, self.window, self.filters)


def _log_mel(waveform: torch.Tensor, config: MelConfig, window: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Ends of the waveform are reflected."""
    num_frames = config.num_frames(waveform.shape[-1])
    if waveform.shape[-1] <= config.n_fft // 2:
        waveform = nn.functional.pad(waveform, (0, config.n_fft // 2 + 1 - waveform.shape[-1]))
    spectrum = torch.stft(waveform, config.n_fft, config.hop_length, window=window, center=True, return_complex=True)
    return (filters @ spectrum.abs()).clamp_min(config.floor).log()[..., :num_frames]
