"""Train the vocoder on a corpus: spectrograms of its output against those of the clips at several resolutions and,
where asked for, against discriminators that look at spectrograms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from triforce.ingest.media.samples import FULL_SCALE
from triforce.models.audio.mel import MelConfig, log_mel
from triforce.models.audio.vocos import Vocos, VocosConfig
from triforce.models.release_files import load_card
from triforce.train.config import VocoderTrainConfig
from triforce.train.data.crops import ClipCrops
from triforce.train.data.order import Place
from triforce.train.tasks.crop_task import CropTask
from triforce.train.tasks.inputs import corpus_hash

RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))
"""FFT length and hop of the losses, samples: short ones see onsets, long ones pitch (Yamamoto et al. 2020)."""
LOG_FLOOR = 1e-3
"""Magnitude under which the losses hear silence: near the rounding noise of 16 bits."""
SLOPE = 0.1


class SpectrogramDiscriminator(nn.Module):
    """2-D convolutions over log magnitudes at one resolution (Jang et al. 2021, arXiv 2106.07889)."""

    def __init__(self, n_fft: int, hop_length: int, channels: int = 16) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        strides = [(1, 1), (2, 1), (2, 1), (2, 2)]
        widths = [1, *[channels] * len(strides)]
        self.convs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], (5, 3), stride=stride, padding=(2, 1))
            for i, stride in enumerate(strides)
        )
        self.out = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, waveform: torch.Tensor) -> list[torch.Tensor]:
        """Features of each layer for ``(B, N)`` samples; the last are scores, near 1 for what seems real."""
        x = log_magnitude(waveform, self.n_fft, self.hop_length)[:, None]
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        return [*features, self.out(x)]


class _Networks(nn.Module):
    """The networks that are trained together: the vocoder and its discriminators."""

    def __init__(self, vocoder: Vocos, discriminators: list[SpectrogramDiscriminator]) -> None:
        super().__init__()
        self.vocoder = vocoder
        self.discriminators = nn.ModuleList(discriminators)


class VocoderTask(CropTask):
    """Learns to turn mels of a corpus's clips back into sound."""

    model: _Networks

    def __init__(
        self, config: VocoderTrainConfig, place: Place, device: torch.device, mel_config: MelConfig | None = None
    ) -> None:
        self.config, self.place = config, place
        self.mel_config = mel = mel_config or MelConfig()
        self.crops = ClipCrops(config, mel, device)
        self.weights = {"mel": 1.0, "stft": 1.0, "adversarial": 0.0} | config.loss_weights
        shape = {"num_mels": mel.num_mels, "n_fft": mel.n_fft, "hop_length": mel.hop_length} | config.model_settings
        vocoder = Vocos(VocosConfig.model_validate(shape))
        adversarial = self.weights["adversarial"] > 0
        discriminators = [SpectrogramDiscriminator(*resolution) for resolution in RESOLUTIONS if adversarial]
        self.model = _Networks(vocoder, discriminators).to(device)
        self.evaluation = self.crops.evaluation()

    @classmethod
    def make(cls, config: VocoderTrainConfig, place: Place, device: torch.device) -> VocoderTask:
        """The mel features are those of the release's dVAE, where it has one."""
        card = load_card(config.release, "dvae")
        return cls(config, place, device, MelConfig.model_validate(card["mel"]) if card else None)

    @classmethod
    def input_hashes(cls, config: VocoderTrainConfig) -> dict[str, str]:
        return {"corpus": corpus_hash(config.corpus)}

    def card(self, inputs: dict[str, str]) -> dict[str, Any]:
        return {"modality": self.config.modality} | self.crops.card()

    def released(self, model: nn.Module) -> nn.Module:
        """The vocoder without its discriminators."""
        return model.vocoder

    def next_batch(self) -> Any:
        crops = self.crops.take(self.place, self.config.part_size)
        samples = [torch.from_numpy(np.array(samples)) for samples, _ in crops]
        device = self.model.vocoder.window.device
        return torch.stack(samples).to(device).float() / FULL_SCALE

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Spectrogram losses of all samples: padding of short clips is silence like any other, so nothing is masked."""
        waveform = batch
        mel = log_mel(waveform, self.mel_config)
        made = self.model.vocoder(mel)
        waveform = waveform[:, : made.shape[1]]
        again = log_mel(made, self.mel_config)
        parts = {
            "mel": (again - mel[..., : again.shape[-1]]).abs().mean(),
            "stft": stft_loss(made, waveform),
        }
        if self.model.discriminators:
            parts |= adversarial_losses(self.model.discriminators, made, waveform)
        weights = self.weights | {"discriminator": 1.0, "features": self.weights["adversarial"]}
        return torch.stack([weights[name] * part for name, part in parts.items()]).sum(), parts

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """L1 in nats between the input mel and the mel of the output sound."""
        errors = []
        for mel in self.evaluation:
            again = log_mel(model.vocoder(mel[None])[0], self.mel_config)
            errors.append(float((again[:, : mel.shape[1]] - mel[:, : again.shape[1]]).abs().mean()))
        return {"l1_nats": sum(errors) / len(errors)}


def adversarial_losses(
    discriminators: nn.ModuleList, made: torch.Tensor, real: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Least-squares losses (Mao et al. 2017) of the discriminators and of the vocoder, in one backward pass.

    The vocoder's gradient goes through frozen copies of the discriminators, theirs stops at the sound, so one optimizer
    step lowers the loss of each. ``features`` is the distance between the layers' outputs (Kumar et al. 2019).
    """
    losses = {name: made.new_zeros(()) for name in ("discriminator", "adversarial", "features")}
    for discriminator in discriminators:
        seen_real, seen_made = discriminator(real), discriminator(made.detach())
        losses["discriminator"] += (seen_real[-1] - 1).pow(2).mean() + seen_made[-1].pow(2).mean()
        frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        judged = functional_call(discriminator, frozen, (made,))
        losses["adversarial"] += (judged[-1] - 1).pow(2).mean()
        pairs = zip(judged[:-1], seen_real[:-1], strict=True)
        losses["features"] += sum((a - b.detach()).abs().mean() for a, b in pairs) / len(judged[:-1])
    return {name: loss / len(discriminators) for name, loss in losses.items()}


def stft_loss(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Mean over `RESOLUTIONS` of the log magnitudes' L1 and the spectral convergence, of samples ``(B, N)``."""
    total = made.new_zeros(())
    for n_fft, hop_length in RESOLUTIONS:
        a, b = (log_magnitude(waveform, n_fft, hop_length) for waveform in (made, real))
        convergence = (a.exp() - b.exp()).norm() / b.exp().norm().clamp_min(1e-3)
        total = total + (a - b).abs().mean() + convergence
    return total / len(RESOLUTIONS)


def log_magnitude(waveform: torch.Tensor, n_fft: int, hop_length: int) -> torch.Tensor:
    """``(B, N)`` to ``(B, n_fft // 2 + 1, T)``; the floor is added in squares, where the gradient has no pole."""
    window = torch.hann_window(n_fft, device=waveform.device)
    spectrum = torch.view_as_real(torch.stft(waveform, n_fft, hop_length, window=window, return_complex=True))
    return 0.5 * (spectrum.pow(2).sum(-1) + LOG_FLOOR**2).log()
