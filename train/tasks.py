"""What the loop trains: the discrete VAE, the transformer and the diffusion network, each with its batches, loss and
evaluation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import soxr
import torch
from torch import nn

from triforce.ingest.corpus import Corpus
from triforce.ingest.pixels import PIXEL_MODALITIES
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.layers import size_mask
from triforce.models.mel import MelConfig, log_mel
from triforce.models.samplers import SamplerConfig
from triforce.train.config import TrainConfig
from triforce.train.data import ClipStore, Place, ShuffledOrder, is_validation
from triforce.train.pixels import PixelCrops
from triforce.train.stream import Crop, CropStream

STATISTICS_CLIPS = 64
"""Clips that the medium's mean and spread are measured on: 64 are 10 minutes or so. Assumed."""
EVAL_CROP_S = 8.0
INT16_SCALE = 32768
"""As libsndfile scales 16-bit samples, so that training sees what tokenizing sees."""


AUDIBLE_NATS = 2.0
"""A frame whose loudest bin is less than this above the floor is silence, 17 dB over 16-bit rounding noise. Assumed."""
SILENCE_WEIGHT = 0.1
"""Of silent frames in the dVAE's loss: a fifth of a talk is pauses, and codes spent on them are lost to speech."""


JITTERED_SHARE = 0.5
"""Of crops, where `speed_jitter` is set: the others stay as they are, with the band and the noise that clips have."""


def is_audible(mel: torch.Tensor, config: MelConfig) -> torch.Tensor:
    """Frames of log-mels ``(..., num_mels, T)`` that are no silence, ``(..., 1, T)`` bool."""
    return mel.amax(-2, keepdim=True) > config.log_floor + AUDIBLE_NATS


def _resampled(samples: np.ndarray, speed: float) -> np.ndarray:
    """``(N,)`` int16 played ``speed`` times as fast. Through floats: soxr dithers integers, and that noise would lie
    above the mel's floor where a clip has none.
    """
    played = soxr.resample(samples.astype(np.float32), speed, 1.0, quality="HQ")
    return np.clip(np.rint(played), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


class ClipCrops:
    """Mel crops of a corpus's clips: for training by position, for evaluation the same ones each time."""

    unit = "nats"
    scale = 1.0

    def __init__(self, config: TrainConfig, mel_config: MelConfig, device: torch.device) -> None:
        self.config, self.mel_config, self.device = config, mel_config, device
        corpus = Corpus(config.corpus)
        share = config.validation_share
        rate, modality = mel_config.sample_rate_hz, config.modality
        self.store = ClipStore(
            corpus, rate, lambda clip_id: not is_validation(clip_id, share), config.cache_bytes, modality
        )
        self.validation = ClipStore(
            corpus, rate, lambda clip_id: is_validation(clip_id, share), config.cache_bytes // 8, modality
        )
        self.order = ShuffledOrder(self.store.group_sizes, config.seed)
        self.stream: CropStream | None = None

    def remake(self) -> Callable[[], ClipCrops]:
        """Makes the same reader in another process."""
        return functools.partial(ClipCrops, self.config, self.mel_config, torch.device("cpu"))

    def take(self, place: Place, count: int) -> list[Crop]:
        """The next training crops: from the stream, where one is set, else read here and now."""
        if self.stream is not None:
            return self.stream.take(place, count)
        return [self.crop(place.next()) for _ in range(count)]

    def crop(self, position: int) -> tuple[np.ndarray, int]:
        """Samples ``(N,)`` int16 of a training crop with its frames; a short clip is zero-padded to a crop's
        samples.
        """
        waveform = self.store.waveform(*self.order(position))
        hop, frames = self.mel_config.hop_length, self.config.crop_frames
        wanted = (frames - 1) * hop
        generator = np.random.default_rng([self.config.seed, position])
        if (jitter := self.config.speed_jitter) and generator.random() < JITTERED_SHARE:
            speed = 1 + jitter * generator.uniform(-1, 1)
            heard = math.ceil(wanted * speed) + 1
            start = int(generator.integers(max(0, len(waveform) - heard) + 1))
            waveform = _resampled(waveform[start : start + heard], speed)
        if len(waveform) > wanted:
            start = int(generator.integers(len(waveform) - wanted + 1))
            return waveform[start : start + wanted], frames
        return np.pad(waveform, (0, wanted - len(waveform))), self.mel_config.num_frames(len(waveform))

    def batch(self, place: Place, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mels ``(count, num_mels, crop_frames)`` and their true frames ``(count, 1)``."""
        crops = self.take(place, count)
        waveforms = torch.from_numpy(np.stack([samples for samples, _ in crops])).to(self.device).float() / INT16_SCALE
        sizes = torch.tensor([[int(frames)] for _, frames in crops], device=self.device)
        return log_mel(waveforms, self.mel_config), sizes

    def evaluation(self) -> list[torch.Tensor]:
        """Mels ``(num_mels, T)`` of the validation clips, or where there are none of training clips, at most 8 s
        each.
        """
        store = self.validation if len(self.validation) else self.store
        places = [(group, row) for group, size in enumerate(store.group_sizes) for row in range(size)][
            : self.config.eval_clips
        ]
        longest = int(EVAL_CROP_S * self.mel_config.sample_rate_hz)
        waveforms = [torch.from_numpy(store.waveform(*place)[:longest].copy()) for place in places]
        return [log_mel(waveform.to(self.device).float() / INT16_SCALE, self.mel_config) for waveform in waveforms]

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and spread of each mel bin, ``(num_mels,)``, over what can be heard of the order's first clips."""
        count = min(STATISTICS_CLIPS, len(self.store))
        crops = [self.store.waveform(*self.order(position)) for position in range(count)]
        frames = torch.cat(
            [log_mel(torch.from_numpy(crop).float() / INT16_SCALE, self.mel_config) for crop in crops], dim=1
        )
        audible = frames[:, is_audible(frames, self.mel_config)[0]]
        frames = audible if audible.shape[1] > 1 else frames
        return frames.mean(1).to(self.device), frames.std(1).to(self.device)

    @property
    def channels(self) -> int:
        return self.mel_config.num_mels

    def weight(self, mel: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``mask`` with silence counting little."""
        return mask * torch.where(is_audible(mel, self.mel_config), 1.0, SILENCE_WEIGHT)


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
        self, config: TrainConfig, place: Place, device: torch.device, dvae: DVAE, mel_config: MelConfig | None
    ) -> None:
        self.config, self.place, self.dvae = config, place, dvae
        self.crops = ClipCrops(config, mel_config, device) if mel_config else PixelCrops(config, device)
        medium = {"channels": dvae.config.channels, "num_dims": dvae.config.num_dims}
        self.model = Diffusion(DiffusionConfig.model_validate(medium | config.model)).to(device)
        self._evaluation = [(x, self._prior(x[None], true_size(x))[0]) for x in self.crops.evaluation()]
        residual = torch.cat([(x - prior).flatten(1) for x, prior in self._evaluation], dim=1)
        self.model.set_statistics(dvae.mean, dvae.std, residual.std(1))

    @torch.no_grad()
    def _prior(self, x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        if tuple(x.shape[2:]) == tuple(sizes.amax(0).tolist()):
            return self.dvae.decode(self.dvae.encode(x, sizes), sizes)
        return self.dvae(x, sizes).reconstruction

    def next_batch(self) -> Any:
        x, sizes = self.crops.batch(self.place, self.config.batch_per_worker // self.config.accumulation)
        return x, self._prior(x, sizes), sizes

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, prior, sizes = batch
        return self.model.loss(x, prior, sizes), {}

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
        for x, prior in self._evaluation[:16]:
            sizes = true_size(x)
            loss = float(model.loss(x[None], prior[None], sizes, generator))
            restored = model.sample(prior[None], sizes, SamplerConfig(num_steps=4))[0]
            mean = model.sample(prior[None], sizes, SamplerConfig(method="mean", num_steps=1))[0]
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
