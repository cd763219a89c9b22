"""What the loop trains: the discrete VAE, the transformer and the diffusion network, each with its batches, loss and
evaluation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from triforce.ingest.pixels import PIXEL_MODALITIES
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.gpt import GPT
from triforce.models.layers import size_mask
from triforce.models.mel import MelConfig
from triforce.models.samplers import SamplerConfig
from triforce.models.text import TextTokenizer
from triforce.train.config import TrainConfig
from triforce.train.crops import ClipCrops
from triforce.train.data import Place
from triforce.train.pixels import PixelCrops
from triforce.train.spoken import SpokenClips


class DVAETask:
    def __init__(
        self, config: TrainConfig, place: Place, device: torch.device, mel_config: MelConfig | None = None
    ) -> None:
        self.config, self.place = config, place
        self.mel_config = None if config.modality in PIXEL_MODALITIES else mel_config or MelConfig()
        self.crops = ClipCrops(config, self.mel_config, device) if self.mel_config else PixelCrops(config, device)
        self.model = DVAE(DVAEConfig.model_validate({"channels": self.crops.channels} | config.model)).to(device)
        self.model.set_statistics(*self.crops.statistics())
        self._evaluation = self.crops.evaluation()

    def next_batch(self) -> Any:
        return self.crops.batch(self.place, self.config.batch_per_worker // self.config.accumulation)

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, sizes = batch
        output = self.model(x, sizes)
        weight = self.crops.weight(x, size_mask(sizes, x.shape[2:]))
        error = (output.reconstruction - x).abs()
        total = weight.sum() * x.shape[1]
        # Each channel in units of its spread, so that quiet bins count as much as loud ones.
        scaled = (error / self.model.std.view(-1, *[1] * (x.ndim - 2)) * weight).sum() / total
        return scaled + output.quantizer_loss, {
            f"l1_{self.crops.unit}": self.crops.scale * (error * weight).sum() / total,
            "quantizer": output.quantizer_loss,
        }

    def anneal(self, progress: float) -> None:
        self.model.quantizer.anneal(progress)

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """L1 from the codes alone, and from vectors that are not rounded to codes; how much of the codebook is in
        use.
        """
        hard = soft = 0.0
        num_positions, num_codes = 0, 0
        counts = torch.zeros(model.config.num_codes)
        for x in self._evaluation:
            codes = model.encode(x[None])
            decoded = model.decode(codes, torch.tensor([x.shape[1:]], device=x.device))[0]
            hard += float((decoded - x).abs().mean(0).sum())
            soft += float((model.reconstruct_soft(x[None])[0] - x).abs().mean(0).sum())
            num_positions += x[0].numel()
            num_codes += codes.numel()
            counts += torch.bincount(codes.flatten().cpu(), minlength=len(counts))
        scale, unit, entropy_bits = self.crops.scale, self.crops.unit, math.log2(perplexity(counts))
        rates: dict[str, float] = {"codes_per_position": num_codes / num_positions}
        if self.mel_config is not None:
            per_second = self.mel_config.frames_per_s / float(model.config.compression[0])
            rates = {
                "codes_per_s": per_second,
                "bits_per_s": per_second * math.log2(model.config.num_codes),
                "entropy_bits_per_s": per_second * entropy_bits,
            }
        return {
            f"l1_{unit}": scale * hard / num_positions,
            f"l1_soft_{unit}": scale * soft / num_positions,
            "perplexity": perplexity(counts),
            "live_share": float((counts > 0).float().mean()),
            **rates,
        }


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


def perplexity(counts: torch.Tensor) -> float:
    """Of codes counted ``(num_codes,)``: the number of equally likely codes that would be as unpredictable."""
    share = counts[counts > 0].double() / counts.sum()
    return float(torch.exp(-(share * share.log()).sum()))


def sharpness(x: torch.Tensor) -> float:
    """Variance of the Laplacian of a mel ``(num_mels, T)`` or of an image's or film's planes ``(3, *size)``: blur
    lowers it.
    """
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], device=x.device, dtype=x.dtype)
    planes = x.reshape(-1, 1, *x.shape[-2:])
    return float(nn.functional.conv2d(planes, kernel[None, None]).var())
