"""Train the discrete VAE on crops of a corpus's clips."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from triforce.models.audio.mel import MelConfig
from triforce.models.blocks.layers import size_mask
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.quantize import perplexity
from triforce.train.config import DVAETrainConfig
from triforce.train.data.crops import make_crops
from triforce.train.data.order import Place
from triforce.train.tasks.crop_task import CropTask
from triforce.train.tasks.inputs import corpus_hash


class DVAETask(CropTask):
    """Learns to restore crops of sound, images or video from their codes."""

    def __init__(
        self, config: DVAETrainConfig, place: Place, device: torch.device, mel_config: MelConfig | None = None
    ) -> None:
        self.config, self.place = config, place
        self.crops = make_crops(config, mel_config or MelConfig(), device)
        shape = DVAEConfig.model_validate({"channels": self.crops.channels} | config.model_settings)
        self.model = DVAE(shape).to(device)
        self.model.set_statistics(*self.crops.statistics())
        self.evaluation = self.crops.evaluation()

    @classmethod
    def make(cls, config: DVAETrainConfig, place: Place, device: torch.device) -> DVAETask:
        return cls(config, place, device)

    @classmethod
    def input_hashes(cls, config: DVAETrainConfig) -> dict[str, str]:
        return {"corpus": corpus_hash(config.corpus)}

    def card(self, inputs: dict[str, str]) -> dict[str, Any]:
        return {"modality": self.config.modality} | self.crops.card()

    def next_batch(self) -> Any:
        return self.crops.batch(self.place, self.config.part_size)

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, sizes = batch
        output = self.model(x, sizes)
        weight = self.crops.weight(x, size_mask(sizes, x.shape[2:]))
        error = (output.reconstruction - x).abs()
        total = weight.sum() * x.shape[1]
        # Each channel in units of its standard deviation, so that quiet bins count as much as loud ones.
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
        for x in self.evaluation:
            codes = model.encode(x[None])
            decoded = model.decode(codes, torch.tensor([x.shape[1:]], device=x.device))[0]
            hard += float((decoded - x).abs().mean(0).sum())
            soft += float((model.reconstruct_soft(x[None])[0] - x).abs().mean(0).sum())
            num_positions += x[0].numel()
            num_codes += codes.numel()
            counts += torch.bincount(codes.flatten().cpu(), minlength=len(counts))
        scale, unit, entropy_bits = self.crops.scale, self.crops.unit, math.log2(perplexity(counts))
        rates: dict[str, float] = {"codes_per_position": num_codes / num_positions}
        if self.crops.frames_per_s is not None:
            per_second = self.crops.frames_per_s / float(model.config.compression[0])
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
