"""Train the discrete VAE on crops of a corpus's clips, with a teacher beside the error in nats where one is asked for.

With `init_from` training goes on from a release's dVAE. If `train_only` then names no parameter of the encoder or the
quantizer, the codes stay what they were, and with them all shards and GPTs: the decoder learns alone.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from triforce.models.audio.mel import MelConfig
from triforce.models.blocks.layers import size_mask
from triforce.models.blocks.scale import area_average
from triforce.models.dvae import CODE_MODULES, DVAE, DVAEConfig
from triforce.models.quantize import perplexity
from triforce.models.release_files import TrainedNetwork, require_dvae
from triforce.train.config import DVAETrainConfig
from triforce.train.data.crops import make_crops
from triforce.train.data.order import Place
from triforce.train.tasks.channel import jitter_channel
from triforce.train.tasks.crop_task import CropTask, samples
from triforce.train.tasks.inputs import corpus_hash, refuse_own_release
from triforce.train.teachers.config import taught_at, teacher_hashes, teacher_of

TRAINING_ONLY = ("dropout", "commitment", "dead_share", "refresh_share", "kl_weight")
"""Settings of the network that may change where training goes on: they shape nothing."""
TAUGHT_CLIPS = 16
"""Clips in an evaluation that the teacher hears, at most."""


class DVAETask(CropTask):
    """Learns to restore crops of sound, images or video from their codes."""

    def __init__(
        self,
        config: DVAETrainConfig,
        place: Place,
        device: torch.device,
        mel_config: MelConfig | None = None,
        base: TrainedNetwork[DVAE] | None = None,
    ) -> None:
        """``base`` is where training begins; None: from nothing."""
        self.config, self.place, self.base = config, place, base
        self.crops = make_crops(config, mel_config or MelConfig(), device)
        self.model = self._model().to(device)
        mel = MelConfig.model_validate(self.crops.card().get("mel", {}))
        self.log_floor = mel.log_floor
        self.teacher = teacher.to(device) if (teacher := teacher_of(config, mel)) else None
        self.evaluation = [
            area_average(x[None], torch.tensor([x.shape[1:]], device=device), config.shrink)[0][0]
            for x in self.crops.evaluation()
        ]

    @classmethod
    def make(cls, config: DVAETrainConfig, place: Place, device: torch.device) -> DVAETask:
        if config.init_from is None:
            return cls(config, place, device)
        base = require_dvae(config.init_from)
        mel = base.card.get("mel")
        return cls(config, place, device, MelConfig.model_validate(mel) if mel else None, base)

    @classmethod
    def input_hashes(cls, config: DVAETrainConfig) -> dict[str, str]:
        hashes = {"corpus": corpus_hash(config.corpus)}
        if config.init_from is not None:
            hashes["init_from"] = _base_hash(config)
        return hashes | teacher_hashes(config)

    def _model(self) -> DVAE:
        """The network, drawn at random, or what `init_from` holds, with its codes frozen if nothing may change them."""
        settings, base = self.config.model_settings, self.base
        if base is None:
            model = DVAE(DVAEConfig.model_validate({"channels": self.crops.channels} | settings))
            model.set_statistics(*self.crops.statistics())
        else:
            # The codebook has settled: unless asked to, it is not drawn anew.
            changed = {"refresh_share": 0.0} | {name: settings[name] for name in TRAINING_ONLY if name in settings}
            model = DVAE(base.model.config.model_copy(update=changed))
            model.load_state_dict(base.model.state_dict())
        if self.config.train_only and not _names_codes(model, self.config.train_only):
            if base is None:
                raise ValueError(
                    f"train_only {self.config.train_only}: encoder and quantizer would stay as they are drawn at "
                    "random; give init_from, the release whose codes are to stay"
                )
            model.freeze_codes()
        return model

    def card(self, inputs: dict[str, str]) -> dict[str, Any]:
        """The front-end, the scale, and of a network with frozen codes the dVAE that they are of."""
        scale = {"shrink": self.config.shrink} if self.config.shrink > 1 else {}
        of_codes = {"codes_hash": self.base.codes_hash} if self.base and self.model.codes_frozen else {}
        return {"modality": self.config.modality} | self.crops.card() | scale | of_codes

    def released(self, model: nn.Module) -> nn.Module:
        if self.base is not None and self.model.codes_frozen:
            before, after = self.base.model.code_tensors(), model.code_tensors()
            moved = [name for name, tensor in before.items() if not torch.equal(tensor, after[name].cpu())]
            assert not moved, f"codes are frozen, but {moved} moved"
        return model

    def next_batch(self) -> Any:
        """Return crops, their sizes, and whether the teacher sees them: by the place alone, so a resumed run agrees."""
        count = self.config.part_size
        taught = taught_at(self.config, count * self.config.accumulation, self.place.taken)
        x, sizes = area_average(*self.crops.batch(self.place, count), self.config.shrink)
        if self.config.channel_jitter:
            x = jitter_channel(x, self.config.channel_jitter, self.log_floor)
        return x, sizes, taught

    def example(self, count: int, size: tuple[int, ...]) -> Any:
        x, sizes = samples(count, self.crops.channels, size, self.model.mean.device)
        return *area_average(x, sizes, self.config.shrink), self.teacher is not None

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, sizes, taught = batch
        output = self.model(x, sizes)
        weight = self.crops.weight(x, size_mask(sizes, x.shape[2:]))
        error = (output.reconstruction - x).abs()
        total = weight.sum() * x.shape[1]
        # Each channel in units of its standard deviation, so that quiet bins count as much as loud ones.
        scaled = (error / self.model.std.view(-1, *[1] * (x.ndim - 2)) * weight).sum() / total
        loss = scaled + output.quantizer_loss
        metrics = {
            f"l1_{self.crops.unit}": self.crops.scale * (error * weight).sum() / total,
            "quantizer": output.quantizer_loss,
        }
        if taught:
            metrics["teacher"] = self.teacher(output.reconstruction, x, sizes)
            loss = loss + self.config.teacher_weight * metrics["teacher"]
        return loss, metrics

    def anneal(self, progress: float) -> None:
        self.model.quantizer.anneal(progress)

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """L1 from the codes alone, and from vectors that are not rounded to codes; how much of the codebook is in
        use; the teacher's loss.
        """
        hard = soft = 0.0
        heard: list[float] = []
        num_positions, num_codes = 0, 0
        counts = torch.zeros(model.config.num_codes)
        for x in self.evaluation:
            codes = model.encode(x[None])
            decoded = model.decode(codes, torch.tensor([x.shape[1:]], device=x.device))[0]
            hard += float((decoded - x).abs().mean(0).sum())
            if self.teacher is not None and len(heard) < TAUGHT_CLIPS:
                size = torch.tensor([[x.shape[-1]]], device=x.device)
                heard.append(float(self.teacher(decoded[None], x[None], size)))
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
            **({"teacher": sum(heard) / len(heard)} if heard else {}),
        }


def _names_codes(model: nn.Module, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns fits a parameter that decides codes."""
    names = [name for name, _ in model.named_parameters() if name.partition(".")[0] in CODE_MODULES]
    return any(fnmatch.filter(names, pattern) for pattern in patterns)


def _base_hash(config: DVAETrainConfig) -> str:
    """Hash of the dVAE that training begins at. Raises ValueError where it codes another modality, or the run would
    replace it: run again, it would begin at its own result.
    """
    assert config.init_from is not None
    refuse_own_release(config.init_from, config.release)
    base = require_dvae(config.init_from)
    coded = base.card.get("modality", "speech")
    if coded != config.modality:
        raise ValueError(f"init_from {config.init_from}: its dVAE codes {coded}, this is of {config.modality}")
    if base.card.get("shrink", 1) != config.shrink:
        raise ValueError(
            f"shrink {config.shrink}: the dVAE in {config.init_from} sees 1 / {base.card.get('shrink', 1)}; give that"
        )
    return base.hash
