"""Vocoders: log-mel to waveform, behind one interface.

Griffin-Lim is built in: it has no weights, and Whisper recognises its speech as well as the original.
"""

from __future__ import annotations

from typing import Protocol

import torch

from triforce.models.audio.mel import MelConfig, hann_window, mel_filterbank


class Vocoder(Protocol):
    """A callable that turns a log-mel into sound."""

    def __call__(self, mel: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
        """Turn a natural-log mel ``(num_mels, T)`` into samples ``((T - 1) * hop_length,)`` float32 in -1 to 1."""
        ...


def make_vocoder(name: str, mel_config: MelConfig) -> Vocoder:
    """Make ``griffin-lim``, or ``vocos``, the published network from a model hub, or that of a folder or hub id."""
    if name == "griffin-lim":
        return GriffinLim(mel_config)
    from triforce.models.audio.vocos import HUB_ID, NeuralVocoder, load_pretrained

    return NeuralVocoder(load_pretrained(HUB_ID if name == "vocos" else name, mel_config))


class GriffinLim:
    """Fast Griffin-Lim: alternating projections with momentum (Perraudin, Balazs and Sondergaard 2013)."""

    def __init__(self, config: MelConfig, *, num_iterations: int = 32, momentum: float = 0.99) -> None:
        if num_iterations < 1:
            raise ValueError(f"num_iterations {num_iterations}: at least 1")
        self.config = config
        self.num_iterations = num_iterations
        self.momentum = momentum

    def __call__(self, mel: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
        if mel.ndim != 2 or mel.shape[0] != self.config.num_mels:
            raise ValueError(f"mel of shape {tuple(mel.shape)}: give ({self.config.num_mels}, T)")
        if mel.shape[1] < 2:
            return torch.zeros(0)
        num_samples = self.config.num_samples(mel.shape[1])
        fewest = self.config.n_fft // 2 // self.config.hop_length + 2  # the STFT reflects half a window at each end
        if mel.shape[1] < fewest:
            mel = torch.cat([mel, mel[:, -1:].expand(-1, fewest - mel.shape[1])], dim=1)
        target = invert_mel(mel.float(), self.config)
        generator = torch.Generator().manual_seed(seed)
        angle = torch.rand(target.shape, generator=generator).to(target) * (2 * torch.pi)
        phase = torch.polar(torch.ones_like(target), angle)
        previous = torch.zeros_like(phase)
        for _ in range(self.num_iterations):
            rebuilt = self._stft(self._istft(target * phase))
            phase = torch.sgn(rebuilt + self.momentum / (1 + self.momentum) * (rebuilt - previous))
            previous = rebuilt
        return self._istft(target * phase)[:num_samples].clamp(-1, 1)

    def _stft(self, waveform: torch.Tensor) -> torch.Tensor:
        config = self.config
        window = hann_window(config.n_fft).to(waveform)
        return torch.stft(waveform, config.n_fft, config.hop_length, window=window, center=True, return_complex=True)

    def _istft(self, spectrum: torch.Tensor) -> torch.Tensor:
        config = self.config
        length = config.num_samples(spectrum.shape[-1])
        window = hann_window(config.n_fft).to(spectrum.real)
        return torch.istft(spectrum, config.n_fft, config.hop_length, window=window, length=length)


def invert_mel(mel: torch.Tensor, config: MelConfig, *, num_iterations: int = 40) -> torch.Tensor:
    """Return non-negative STFT magnitudes ``(n_fft // 2 + 1, T)`` whose mel is nearest ``mel`` in least squares.

    Multiplicative updates (Lee and Seung 2001) keep magnitudes positive; they start from the filters' transpose.
    """
    basis = mel_filterbank(config).to(mel)
    target = mel.exp()
    estimate = (basis.T @ target).clamp_min(config.floor)
    numerator = basis.T @ target
    for _ in range(num_iterations):
        estimate = estimate * numerator / (basis.T @ (basis @ estimate)).clamp_min(1e-12)
    return estimate
