"""A neural vocoder, Vocos (Siuzdak 2023, arXiv 2306.00814): ConvNeXt blocks at the mel's rate predict magnitudes and
phases, and an inverse STFT turns them into samples.

``triforce train vocoder`` fits a small one. The published 24 kHz weights load into the same class, whose parameters
have the same names. The ``vocos`` package is not used, because its pinned requirements conflict with this project's.
"""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional as F

from triforce.models.audio.mel import MelConfig

HUB_ID = "charactr/vocos-mel-24khz"
MAX_MAGNITUDE = 100.0
"""Clip of magnitudes, as in the published network; more is louder than any sound of full scale."""
PITCH_CHANNELS = 128
FIRST_LOG_BINS = 1.8
"""Where the prediction of the pitch begins: 140 Hz in bins of 23.4 Hz, between men's and women's voices."""


class VocosConfig(BaseModel):
    """Shape of the vocoder; small by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_mels: int = Field(100, ge=8, le=512, description="Mel bins of the input.")
    n_fft: int = Field(1024, ge=64, le=8192, description="FFT length, samples.")
    hop_length: int = Field(256, ge=16, le=4096, description="Samples from one frame to the next.")
    hidden: int = Field(256, ge=16, le=4096, description="Channels; the published network has 512.")
    inner: int = Field(768, ge=16, le=16_384, description="Channels inside a block; the published network has 1536.")
    num_blocks: int = Field(6, ge=1, le=64, description="Number of ConvNeXt blocks; the published network has 8.")
    harmonics: bool = Field(
        False,
        description="Predict the voice's pitch from the mel, and phases relative to those of its harmonics, or of "
        "noise where there is no voice; the published network has to find phases by itself.",
    )

    @property
    def reach(self) -> int:
        """Frames to either side that a frame's spectrum depends on; a pitch network sees no more."""
        return 3 * (1 + self.num_blocks)  # convolutions of width 7


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution of width 7, norm, two pointwise layers, scale (Liu et al. 2022, arXiv 2201.03545)."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(config.hidden, config.hidden, 7, padding=3, groups=config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=1e-6)
        self.pwconv1 = nn.Linear(config.hidden, config.inner)
        self.pwconv2 = nn.Linear(config.inner, config.hidden)
        self.gamma = nn.Parameter(torch.full((config.hidden,), 1 / config.num_blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.dwconv(x).transpose(1, 2))
        return x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(h)))).transpose(1, 2)


class _Backbone(nn.Module):
    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.embed = nn.Conv1d(config.num_mels, config.hidden, 7, padding=3)
        self.norm = nn.LayerNorm(config.hidden, eps=1e-6)
        self.convnext = nn.ModuleList(ConvNeXtBlock(config) for _ in range(config.num_blocks))
        self.final_layer_norm = nn.LayerNorm(config.hidden, eps=1e-6)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embed(mel).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            x = block(x)
        return self.final_layer_norm(x.transpose(1, 2))


class _Head(nn.Module):
    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.out = nn.Linear(config.hidden, config.n_fft + 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn features ``(B, T, hidden)`` into a complex STFT ``(B, T, n_fft // 2 + 1)``, in float32 also where the
        rest is bfloat16: that rounds phases to 1/64 rad, which is heard as noise.
        """
        with torch.autocast(x.device.type, enabled=False):
            magnitude, phase = self.out(x.float()).chunk(2, dim=-1)
            magnitude = magnitude.exp().clamp_max(MAX_MAGNITUDE)
            return torch.complex(magnitude * phase.cos(), magnitude * phase.sin())


class Pitch(NamedTuple):
    """What is known of the voice in each frame."""

    log_bins: torch.Tensor
    """``(B, T)``: logarithm of the fundamental frequency, in bins of the STFT."""
    voiced: torch.Tensor
    """``(B, T)``: logits of there being a voice."""


class _PitchNetwork(nn.Module):
    """Always in float32: a harmonic far up multiplies the fundamental's error by its number."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        widths = (config.num_mels, PITCH_CHANNELS, PITCH_CHANNELS, PITCH_CHANNELS)
        self.convs = nn.ModuleList(nn.Conv1d(a, b, 5, padding=2) for a, b in itertools.pairwise(widths))
        self.out = nn.Conv1d(PITCH_CHANNELS, 2, 1)

    def forward(self, mel: torch.Tensor) -> Pitch:
        with torch.autocast(mel.device.type, enabled=False):
            x = mel.float()
            for conv in self.convs:
                x = F.gelu(conv(x))
            log_bins, voiced = self.out(x).unbind(1)
            return Pitch(log_bins + FIRST_LOG_BINS, voiced)


def source_turns(pitch: Pitch, n_fft: int, hop_length: int, first: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Return the turns ``(B, T)`` float64 that the fundamental has made at each frame, modulo 1.

    ``first`` ``(B, 1)`` are those at the first frame. No gradient goes through them.
    """
    fundamental = pitch.log_bins.detach().exp()
    turns = 0.5 * (fundamental[:, 1:] + fundamental[:, :-1]).double() * (hop_length / n_fft)
    return (F.pad(turns.cumsum(1), (1, 0)) + first) % 1  # harmonics are whole multiples, so whole turns drop out


def source_phases(pitch: Pitch, turns: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return the phases ``(B, T, n_fft // 2 + 1)`` that the STFT of a source has: of the harmonic next to each bin
    where there is a voice, elsewhere those of ``noise`` ``(B, T, n_fft // 2 + 1)`` from 0 to 1.

    Harmonic-plus-noise sources for networks: Wang et al. 2019, arXiv 1904.12088; in an STFT: Li et al. 2023, arXiv
    2309.09493.
    """
    fundamental = pitch.log_bins.detach().exp()[..., None]
    bins = torch.arange(noise.shape[-1], device=turns.device, dtype=torch.float32)
    harmonic = (bins / fundamental).round().clamp_min(1) * turns.float()[..., None] + 0.5 * bins  # frames are centred
    return 2 * math.pi * (torch.where(pitch.voiced[..., None] > 0, harmonic, noise) % 1)


class Vocos(nn.Module):
    """The network; `NeuralVocoder` wraps it as a `Vocoder`."""

    window: torch.Tensor

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _Backbone(config)
        self.head = _Head(config)
        self.pitch = _PitchNetwork(config) if config.harmonics else None
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        for module in [*self.backbone.modules(), self.head.out]:
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, mel: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Turn log-mels ``(B, num_mels, T)`` into samples ``(B, (T - 1) * hop_length)``; noise is ``generator``'s."""
        return self.synthesize(mel, None if self.pitch is None else self.pitch(mel), generator)

    def synthesize(
        self, mel: torch.Tensor, pitch: Pitch | None, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """As `forward`, with the pitch that the network predicts already predicted."""
        spectrum = self.head(self.backbone(mel))
        if pitch is not None:
            noise = torch.rand(spectrum.shape, device=spectrum.device, generator=generator)
            turns = source_turns(pitch, self.config.n_fft, self.config.hop_length)
            phases = source_phases(pitch, turns, noise)
            spectrum = spectrum * torch.complex(phases.cos(), phases.sin())
        return inverse_stft(spectrum, self.window, self.config.hop_length)


def inverse_stft(spectrum: torch.Tensor, window: torch.Tensor, hop_length: int) -> torch.Tensor:
    """Turn a complex STFT of centred frames ``(B, T, n_fft // 2 + 1)`` into samples ``(B, (T - 1) * hop_length)``.

    The same as `torch.istft`, which reads the window's sum back from the device and so stops a GPU at each call.
    """
    n_fft, num_frames = len(window), spectrum.shape[1]
    frames = torch.fft.irfft(spectrum, n_fft) * window
    weight = window.square().expand(1, num_frames, n_fft)
    length = (num_frames - 1) * hop_length
    samples, weights = (_overlap_add(x, hop_length)[:, n_fft // 2 :][:, :length] for x in (frames, weight))
    return samples / weights


def _overlap_add(frames: torch.Tensor, hop_length: int) -> torch.Tensor:
    """Add up frames ``(B, T, n_fft)``, each a hop after the one before, to samples ``(B, N)``."""
    overlap = -(-frames.shape[-1] // hop_length)
    parts = F.pad(frames, (0, overlap * hop_length - frames.shape[-1])).unflatten(-1, (overlap, hop_length))
    shifted = [F.pad(parts[:, :, j], (0, 0, j, overlap - 1 - j)) for j in range(overlap)]
    return torch.stack(shifted).sum(0).flatten(1)


class NeuralVocoder:
    """A `Vocoder` by a Vocos network; ``seed`` is of the noise, which only networks with harmonics draw."""

    def __init__(self, model: Vocos) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def __call__(self, mel: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
        num_mels = self.model.config.num_mels
        if mel.ndim != 2 or mel.shape[0] != num_mels:
            raise ValueError(f"mel of shape {tuple(mel.shape)}: give ({num_mels}, T)")
        if mel.shape[1] < 2:
            return torch.zeros(0)
        device = self.model.window.device
        generator = torch.Generator(device).manual_seed(seed)
        return self.model(mel.float()[None].to(device), generator)[0].clamp(-1, 1)


def load_pretrained(place: str | os.PathLike, mel_config: MelConfig) -> Vocos:
    """Load the published network from a folder with its ``config.yaml`` and ``pytorch_model.bin``, or from a model hub.

    Raises ValueError where its features are not those of ``mel_config``, and FileNotFoundError where it is not found.
    """
    import yaml

    folder = Path(place) if os.path.isdir(place) else _fetch(os.fspath(place))
    about = yaml.safe_load((folder / "config.yaml").read_text())
    config = _config_of(about, folder)
    features = about["feature_extractor"]["init_args"]
    for name, here in (("sample_rate", mel_config.sample_rate_hz), ("n_mels", mel_config.num_mels)):
        if features[name] != here:
            raise ValueError(f"{folder}: made for {name} {features[name]}, this release has {here}; use another one")
    if (config.n_fft, config.hop_length) != (mel_config.n_fft, mel_config.hop_length):
        raise ValueError(
            f"{folder}: n_fft {config.n_fft} and hop {config.hop_length}, this release has {mel_config.n_fft} and "
            f"{mel_config.hop_length}; use another vocoder"
        )
    model = Vocos(config)
    weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    # Mel filters and windows, which are computed here.
    derived = ("feature_extractor.", "head.istft.")
    model.load_state_dict({name: value for name, value in weights.items() if not name.startswith(derived)})
    return model.eval().requires_grad_(False)


def _config_of(about: dict[str, Any], folder: Path) -> VocosConfig:
    backbone, head = about["backbone"]["init_args"], about["head"]["init_args"]
    if not about["backbone"]["class_path"].endswith("VocosBackbone") or head.get("padding", "same") != "center":
        raise ValueError(f"{folder}: not a Vocos for mels with centred frames, as {HUB_ID} is")
    return VocosConfig(
        num_mels=backbone["input_channels"],
        n_fft=head["n_fft"],
        hop_length=head["hop_length"],
        hidden=backbone["dim"],
        inner=backbone["intermediate_dim"],
        num_blocks=backbone["num_layers"],
    )


def _fetch(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError("Vocos from a model hub needs huggingface-hub: pip install 'triforce[vocos]'") from error
    try:
        return Path(snapshot_download(hub_id, allow_patterns=["config.yaml", "pytorch_model.bin"]))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"vocoder {hub_id!r}: no such folder, and no model hub gives it ({type(error).__name__}); download "
            f"config.yaml and pytorch_model.bin of {HUB_ID} into a folder and name that, or use griffin-lim"
        ) from error
