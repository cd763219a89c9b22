"""Train the diffusion network on clips and on what a frozen dVAE makes of them.

Where the dVAE sees the medium at a coarser scale, the network learns to bring it back to the clips' own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from triforce.models.audio.mel import MelConfig
from triforce.models.blocks.scale import area_average
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.dvae import DVAE
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.gpt import GPT
from triforce.models.reading.front_end import FrontEnd, require_phonemes
from triforce.models.reading.phonemes import PhonemeTokenizer
from triforce.models.release_files import load_stage, load_tokenizer_of, require_dvae
from triforce.train.config import DiffusionTrainConfig
from triforce.train.data.base import Crops
from triforce.train.data.crops import ClipCrops, make_crops
from triforce.train.data.order import Place
from triforce.train.data.packed.crops import PackedCrops
from triforce.train.data.packed.priors import PackedPriors
from triforce.train.data.restoration import PiecesAtCodes, Restoration, Tokens
from triforce.train.data.whole_clips import WholeClips
from triforce.train.evaluate.metrics import sharpness
from triforce.train.tasks.crop_task import CropTask, samples
from triforce.train.tasks.inputs import corpus_hash, require_gpt_card
from triforce.train.teachers.config import taught_at, teacher_hashes, teacher_of


class DiffusionTask(CropTask):
    """Learns to turn the dVAE's decode of a clip into the clip."""

    model: Diffusion

    def __init__(
        self,
        config: DiffusionTrainConfig,
        place: Place,
        device: torch.device,
        dvae: DVAE,
        mel_config: MelConfig | None = None,
        gpt: tuple[GPT, FrontEnd] | None = None,
        shrink: int = 1,
        reader: PhonemeTokenizer | None = None,
    ) -> None:
        """``mel_config`` is the dVAE's, None for pixels; ``gpt`` is whose latents to condition on, None: no latents;
        ``shrink`` are the positions along each axis that are one for the dVAE; ``reader`` makes the pieces of text that
        the network is told, None: it is told none.
        """
        self.config, self.place, self.dvae, self.shrink = config, place, dvae, shrink
        known = {"channels": dvae.config.channels, "num_dims": dvae.config.num_dims, "upsample": shrink}
        self.whole: WholeClips | PackedPriors | None = None
        mel = mel_config or MelConfig()
        self.crops = make_crops(config, mel, device)
        pieces = PiecesAtCodes(reader, mel.frames_per_s / dvae.config.compression[0]) if reader else None
        tokens = Tokens(config.codes, pieces)
        if gpt is not None or tokens or config.whole_clips:
            self.whole = _whole(config, self.crops, dvae, gpt, tokens)
        if gpt is not None:
            known["latent_channels"] = gpt[0].config.width
        known["num_codes"] = dvae.config.num_codes if config.codes else 0
        known["num_pieces"] = reader.size if reader else 0
        self.model = Diffusion(DiffusionConfig.model_validate(known | config.model_settings)).to(device)
        if self.model.config.upsample != shrink:
            raise ValueError(
                f"model.upsample {self.model.config.upsample}: the dVAE in {config.release} sees 1 / {shrink} of the "
                "positions along each axis; leave upsample out"
            )
        self.teacher = teacher.to(device) if (teacher := teacher_of(config, mel)) else None
        self.evaluation = self._evaluation_clips()
        residual = torch.cat(
            [(clip.medium - self._upsampled(clip.prior, clip.medium)).flatten(1) for clip in self.evaluation], dim=1
        )
        self.model.set_statistics(dvae.mean, dvae.std, residual.std(1))

    @classmethod
    def make(cls, config: DiffusionTrainConfig, place: Place, device: torch.device) -> DiffusionTask:
        dvae = require_dvae(config.release, device)
        mel, gpt, shrink = dvae.card.get("mel"), None, dvae.card.get("shrink", 1)
        reader = require_phonemes(load_tokenizer_of(config.release)) if config.pieces else None
        if config.latents:
            stage = load_stage(config.release, "gpt", device)
            assert stage is not None, "input_hashes looked"
            gpt = (stage.model, load_tokenizer_of(config.release))
        mel_config = MelConfig.model_validate(mel) if mel else None
        return cls(config, place, device, dvae.model, mel_config, gpt, shrink, reader)

    @classmethod
    def input_hashes(cls, config: DiffusionTrainConfig) -> dict[str, str]:
        dvae = require_dvae(config.release)
        coded = dvae.card.get("modality", "speech")
        if coded != config.modality:
            raise ValueError(
                f"modality {config.modality!r}: the dVAE in {config.release} codes {coded}; give modality={coded}"
            )
        hashes = {"dvae": dvae.hash, "corpus": corpus_hash(config.corpus)} | teacher_hashes(config)
        if config.latents or config.pieces:  # the front end of the pieces lies with the GPT
            gpt = require_gpt_card(config.release)
            hashes |= {"gpt": gpt["hash"]} if config.latents else {}
        return hashes

    def card(self, inputs: dict[str, str]) -> dict[str, Any]:
        """The networks that this one needs beside it, and how it is sampled."""
        sampler = self.config.sampler
        asked = {} if sampler is None else {"sampler": sampler.model_dump(mode="json", exclude_unset=True)}
        return {"dvae_hash": inputs["dvae"]} | ({"gpt_hash": inputs["gpt"]} if self.config.latents else {}) | asked

    def _evaluation_clips(self) -> list[Restoration]:
        """Clips of the validation set."""
        if isinstance(self.whole, PackedPriors):
            return self.whole.evaluation()
        if self.whole is not None and (self.config.latents or self.whole.tokens):
            return self.whole.evaluation()
        clips = self.crops.evaluation()
        return [Restoration(x, self._prior(x[None], true_size(x))[0], true_size(x)[0]) for x in clips]

    @torch.no_grad()
    def _prior(self, x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """Return the decode of clips ``x``, at the dVAE's scale."""
        x, sizes = area_average(x, sizes, self.shrink)
        if tuple(x.shape[2:]) == tuple(sizes.amax(0).tolist()):
            return self.dvae.decode(self.dvae.encode(x, sizes), sizes)
        return self.dvae(x, sizes).reconstruction

    def _upsampled(self, prior: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the prior ``(C, *size)`` of a clip ``x`` on the clip's grid."""
        return self.model.upsampled(prior[None], true_size(x), x.shape[1:])[0]

    def next_batch(self) -> Any:
        """Return crops, and whether the teacher sees them: by the place alone, so a resumed run agrees."""
        count = self.config.part_size
        taught = taught_at(self.config, count * self.config.accumulation, self.place.taken)
        if self.whole is not None:
            return self.whole.batch(self.place, count), taught
        x, sizes = self.crops.batch(self.place, count)
        return Restoration(x, self._prior(x, sizes), sizes), taught

    def example(self, count: int, size: tuple[int, ...]) -> Any:
        config, device = self.model.config, self.model.mean.device
        x, sizes = samples(count, config.channels, size, device)
        prior = area_average(x, sizes, self.shrink)[0]
        grid = self.dvae.config.grid(tuple(prior.shape[2:]))
        latents = torch.zeros(count, config.latent_channels, *grid, device=device) if config.latent_channels else None
        rows = len(config.token_sizes)
        tokens = torch.zeros(count, rows, *grid, dtype=torch.int64, device=device) if rows else None
        return Restoration(x, prior, sizes, latents, tokens), self.teacher is not None

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch, taught = batch
        count = max(1, round(self.model.config.start_share * len(batch.medium))) if taught else 0
        x, prior, sizes = batch.medium, batch.prior, batch.sizes
        known = {"latents": batch.latents, "tokens": batch.tokens}
        loss, means = self.model.losses(x, prior, sizes, **known, num_means=count)
        if self.teacher is None or not taught:
            return loss, {}
        heard = self.teacher(means, x[:count], sizes[:count])
        return loss + self.config.teacher_weight * heard, {"teacher": heard}

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The loss with fixed noise and times, L1 and sharpness of samples beside those of the prior, and L1 of the
        mean.
        """
        device = self.evaluation[0].medium.device
        generator = torch.Generator(device).manual_seed(0)
        model = model.train(False)
        rows, heard = [], []
        for clip in self.evaluation[:16]:
            x, prior, sizes = clip.medium, clip.prior, clip.sizes[None]
            named = {"latents": clip.latents, "tokens": clip.tokens}
            told = {name: None if value is None else value[None] for name, value in named.items()}
            loss = float(model.loss(x[None], prior[None], sizes, generator, **told))
            restored = model.sample(prior[None], sizes, SamplerConfig(num_steps=4), **told)[0]
            mean = model.sample(prior[None], sizes, SamplerConfig(method="mean", num_steps=1), **told)[0]
            prior = self._upsampled(prior, x)
            errors = [float((guess - x).abs().mean()) * self.crops.scale for guess in (restored, mean, prior)]
            if self.teacher is not None:
                heard.append(float(self.teacher(mean[None], x[None], sizes)))
            rows.append([loss, *errors, *(sharpness(guess.float().cpu().numpy()) for guess in (restored, prior, x))])
        unit = self.crops.unit
        names = ["loss", f"l1_{unit}", f"l1_mean_{unit}", f"l1_prior_{unit}"]
        names += ["sharpness", "sharpness_prior", "sharpness_truth"]
        found = dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))
        return found | ({"teacher": sum(heard) / len(heard)} if heard else {})


def _whole(
    config: DiffusionTrainConfig, crops: Crops, dvae: DVAE, gpt: tuple[GPT, FrontEnd] | None, tokens: Tokens
) -> WholeClips | PackedPriors:
    """Return what encodes clips whole."""
    if isinstance(crops, ClipCrops):
        return WholeClips(crops, dvae, gpt, tokens)
    assert isinstance(crops, PackedCrops), "the config is of sound"
    if gpt is not None:
        raise ValueError(
            f"latents with the pack {config.corpus}: they are made of a corpus; name that, or leave it out"
        )
    return PackedPriors(crops, dvae, tokens)


def true_size(x: torch.Tensor) -> torch.Tensor:
    """The size ``(1, D)`` of one sample ``x`` ``(C, *size)`` without padding."""
    return torch.tensor([x.shape[1:]], device=x.device)
