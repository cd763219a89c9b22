"""Train the diffusion network on clips and on what a frozen dVAE makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from triforce.models.audio.mel import MelConfig
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.dvae import DVAE
from triforce.models.gpt import GPT
from triforce.models.samplers import SamplerConfig
from triforce.models.text import TextTokenizer
from triforce.train.config import TrainConfig
from triforce.train.data.crops import ClipCrops
from triforce.train.data.latents import SpokenClips
from triforce.train.data.order import Place
from triforce.train.data.pixels import PixelCrops


class DiffusionTask:
    """Trains on clips and on what a frozen dVAE makes of them, run on the fly. ``mel_config`` is None for pixels."""

    def __init__(
        self,
        config: TrainConfig,
        place: Place,
        device: torch.device,
        dvae: DVAE,
        mel_config: MelConfig | None,
        reader: tuple[GPT, TextTokenizer] | None = None,
    ) -> None:
        """``reader``: the transformer whose hidden states the network is to listen to, where it is."""
        self.config, self.place, self.dvae = config, place, dvae
        self.crops = ClipCrops(config, mel_config, device) if mel_config else PixelCrops(config, device)
        medium = {"channels": dvae.config.channels, "num_dims": dvae.config.num_dims}
        self.spoken: SpokenClips | None = None
        if reader is not None:
            assert isinstance(self.crops, ClipCrops), "TrainConfig sees to it that only speech has latents"
            self.spoken = SpokenClips(self.crops, dvae, *reader)
            medium["latent_channels"] = reader[0].config.width
        self.model = Diffusion(DiffusionConfig.model_validate(medium | config.model)).to(device)
        self._evaluation: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []
        if self.spoken is not None:
            self._evaluation += self.spoken.evaluation()
        else:
            self._evaluation += [(x, self._prior(x[None], true_size(x))[0], None) for x in self.crops.evaluation()]
        residual = torch.cat([(x - prior).flatten(1) for x, prior, _ in self._evaluation], dim=1)
        self.model.set_statistics(dvae.mean, dvae.std, residual.std(1))

    @torch.no_grad()
    def _prior(self, x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        if tuple(x.shape[2:]) == tuple(sizes.amax(0).tolist()):
            return self.dvae.decode(self.dvae.encode(x, sizes), sizes)
        return self.dvae(x, sizes).reconstruction

    def next_batch(self) -> Any:
        count = self.config.batch_per_worker // self.config.accumulation
        if self.spoken is not None:
            return self.spoken.batch(self.place, count)
        x, sizes = self.crops.batch(self.place, count)
        return x, self._prior(x, sizes), sizes, None

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, prior, sizes, latents = batch
        return self.model.loss(x, prior, sizes, latents=latents), {}

    def anneal(self, progress: float) -> None:
        pass

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The loss with fixed noise and times, L1 and sharpness of samples beside those of the prior, and L1 of the
        mean.
        """
        device = self._evaluation[0][0].device
        generator = torch.Generator(device).manual_seed(0)
        model = model.train(False)
        rows = []
        for x, prior, states in self._evaluation[:16]:
            sizes, latents = true_size(x), None if states is None else states[None]
            loss = float(model.loss(x[None], prior[None], sizes, generator, latents=latents))
            restored = model.sample(prior[None], sizes, SamplerConfig(num_steps=4), latents=latents)[0]
            mean = model.sample(prior[None], sizes, SamplerConfig(method="mean", num_steps=1), latents=latents)[0]
            errors = [float((guess - x).abs().mean()) * self.crops.scale for guess in (restored, mean, prior)]
            rows.append([loss, *errors, *(sharpness(guess) for guess in (restored, prior, x))])
        unit = self.crops.unit
        names = ["loss", f"l1_{unit}", f"l1_mean_{unit}", f"l1_prior_{unit}"]
        names += ["sharpness", "sharpness_prior", "sharpness_truth"]
        return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


def true_size(x: torch.Tensor) -> torch.Tensor:
    """``(1, D)``: all of the one sample ``x`` ``(C, *size)``."""
    return torch.tensor([x.shape[1:]], device=x.device)


def sharpness(x: torch.Tensor) -> float:
    """Variance of the Laplacian of a mel ``(num_mels, T)`` or of an image's or film's planes ``(3, *size)``: blur
    lowers it.
    """
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], device=x.device, dtype=x.dtype)
    planes = x.reshape(-1, 1, *x.shape[-2:])
    return float(nn.functional.conv2d(planes, kernel[None, None]).var())
