"""Train the vocoder on a corpus: spectrograms of its output against those of the clips and, where asked for, against
discriminators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from triforce.models.audio.mel import LogMel, MelConfig, log_mel
from triforce.models.audio.vocos import Vocos, VocosConfig
from triforce.models.diffusion import Diffusion
from triforce.models.dvae import DVAE
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.reading.front_end import require_phonemes
from triforce.models.release_files import TrainedNetwork, load_card, load_stage, load_tokenizer_of, require_dvae
from triforce.train.config import VocoderTrainConfig
from triforce.train.data.base import SoundBatch, SoundCrops
from triforce.train.data.crops import ClipCrops
from triforce.train.data.order import Place
from triforce.train.data.packed.pack import is_pack
from triforce.train.data.packed.priors import PackRestorer
from triforce.train.data.packed.sound import PackedSound
from triforce.train.data.restoration import PiecesAtCodes, Tokens
from triforce.train.tasks.crop_task import CropTask, samples
from triforce.train.tasks.inputs import corpus_hash, refuse_own_release
from triforce.train.tasks.vocoder_losses import (
    RESOLUTIONS,
    PeriodDiscriminator,
    PitchLoss,
    SpectrogramDiscriminator,
    StftLoss,
    adversarial_losses,
)


class _Networks(nn.Module):
    """The networks that are trained together: the vocoder and its discriminators."""

    def __init__(self, vocoder: Vocos, discriminators: list[nn.Module]) -> None:
        super().__init__()
        self.vocoder = vocoder
        self.discriminators = nn.ModuleList(discriminators)


class VocoderTask(CropTask):
    """Learns to turn mels of a corpus's clips back into sound."""

    model: _Networks
    crops: SoundCrops

    def __init__(
        self,
        config: VocoderTrainConfig,
        place: Place,
        device: torch.device,
        mel_config: MelConfig | None = None,
        dvae: DVAE | None = None,
        crops: SoundCrops | None = None,
        base: Vocos | None = None,
    ) -> None:
        """``mel_config`` is that of the mels to invert, and of ``crops`` where they are given; ``dvae`` decodes the
        share of them that the config asks for, unless the crops know their decodes. ``base`` is a network to go on
        with.
        """
        self.config, self.place, self.dvae = config, place, dvae
        self.mel_config = mel = mel_config or MelConfig()
        self.crops = crops or ClipCrops(config, mel, device)
        self.weights: dict[str, float] = dict.fromkeys(("mel", "stft", "pitch", "discriminator"), 1.0)
        self.weights |= {"adversarial": 0.0} | dict(config.loss_weights)
        self.weights.setdefault("features", self.weights["adversarial"])
        self.num_decoded = max(1, round(config.decoded_share * config.part_size)) if config.decoded_share else 0
        shape = {"num_mels": mel.num_mels, "n_fft": mel.n_fft, "hop_length": mel.hop_length} | config.model_settings
        vocoder = Vocos(VocosConfig.model_validate(shape)) if base is None else base
        discriminators: list[nn.Module] = []
        if self.weights["adversarial"] > 0:
            discriminators = [SpectrogramDiscriminator(*resolution) for resolution in RESOLUTIONS]
            discriminators += [PeriodDiscriminator(period) for period in config.periods]
        self.model = _Networks(vocoder, discriminators).to(device)
        self.log_mel, self.stft_loss = LogMel(mel).to(device), StftLoss().to(device)
        self.pitch_loss = PitchLoss(mel.sample_rate_hz, mel.n_fft, mel.hop_length).to(device)
        self.evaluation = self.crops.evaluation()

    @classmethod
    def make(cls, config: VocoderTrainConfig, place: Place, device: torch.device) -> VocoderTask:
        """The mel features are those of the release's dVAE, where it has one."""
        card = load_card(config.release, "dvae")
        mel = MelConfig.model_validate(card["mel"]) if card else None
        dvae = require_dvae(config.release, device).model if config.decoded_share else None
        restorer = _restorer(config, dvae, mel, device) if config.restored and dvae and mel else None
        sounds = PackedSound(config, device, dvae, restorer) if is_pack(config.corpus) else None
        return cls(config, place, device, mel, dvae, sounds, _base(config, mel))

    @classmethod
    def input_hashes(cls, config: VocoderTrainConfig) -> dict[str, str]:
        dvae = {"dvae": require_dvae(config.release).hash} if config.decoded_share else {}
        base = {"init_from": _require_vocoder(config.init_from, config.release).hash} if config.init_from else {}
        diffusion = {"diffusion": _require_diffusion(config).hash} if config.restored else {}
        return {"corpus": corpus_hash(config.corpus)} | dvae | diffusion | base

    def card(self, inputs: dict[str, str]) -> dict[str, Any]:
        return {"modality": self.config.modality} | self.crops.card()

    def released(self, model: nn.Module) -> nn.Module:
        """The vocoder without its discriminators."""
        return model.vocoder

    def next_batch(self) -> Any:
        """Samples and the mels to make them from, of which the first `num_decoded` are the dVAE's decodes."""
        sounds = self.crops.sounds(self.place, self.config.part_size)
        if not self.num_decoded:
            return sounds.waveform, sounds.mel
        return sounds.waveform, torch.cat([self._decoded(sounds), sounds.mel[self.num_decoded :]])

    @torch.no_grad()
    def _decoded(self, sounds: SoundBatch) -> torch.Tensor:
        if sounds.decoded is not None:
            return sounds.decoded[: self.num_decoded]
        assert self.dvae is not None, "given, or the crops know their decodes"
        return self.dvae(sounds.mel[: self.num_decoded]).reconstruction

    def example(self, count: int, size: tuple[int, ...]) -> Any:
        mel, _ = samples(count, self.mel_config.num_mels, size, self.model.vocoder.window.device)
        return mel.new_zeros(count, (size[0] - 1) * self.mel_config.hop_length), mel

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Losses of all samples: padding of short clips is silence like any other, so nothing is masked."""
        waveform, mel = batch
        vocoder = self.model.vocoder
        pitch = None if vocoder.pitch is None else vocoder.pitch(mel)
        made = vocoder.synthesize(mel, pitch)
        with torch.autocast(made.device.type, enabled=False):
            parts = {
                "mel": (self.log_mel(made) - self.log_mel(waveform)).abs().mean(),
                "stft": self.stft_loss(made, waveform),
            }
            if pitch is not None:
                parts["pitch"] = self.pitch_loss(pitch, waveform)
        if self.model.discriminators:
            parts |= adversarial_losses(self.model.discriminators, made, waveform)
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum(), parts

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """L1 in nats between a sound's mel and the mel of what is made of it; ``decoded``: of the dVAE's decode."""
        errors = []
        generator = torch.Generator(self.evaluation[0].device).manual_seed(0)
        for mel in self.evaluation:
            shown = {"l1_nats": mel}
            if self.dvae is not None:
                shown["l1_decoded_nats"] = self.dvae(mel[None]).reconstruction[0]
            row = {}
            for name, one in shown.items():
                again = log_mel(model.vocoder(one[None], generator)[0], self.mel_config)
                row[name] = (again - mel[:, : again.shape[1]]).abs().mean()
            errors.append(row)
        return {name: float(torch.stack([row[name] for row in errors]).mean()) for name in errors[0]}


def _require_diffusion(config: VocoderTrainConfig, device: torch.device | None = None) -> TrainedNetwork[Diffusion]:
    """Return the release's diffusion network; raises ValueError where the mels that are made cannot be restored."""
    if not is_pack(config.corpus):
        raise ValueError(f"restored=true: for packs, and {config.corpus} is none; pack it (triforce train export)")
    found = load_stage(config.release, "diffusion", device)
    if found is None:
        raise FileNotFoundError(f"restored=true: no diffusion network in {config.release}; train one, or leave it out")
    if found.model.config.latent_channels:
        raise ValueError(f"restored=true: the diffusion network in {config.release} is told latents of a GPT")
    return found


def _restorer(config: VocoderTrainConfig, dvae: DVAE, mel: MelConfig, device: torch.device) -> PackRestorer:
    """Return what restores as the release does: as its card says, told codes and pieces of text."""
    diffusion = _require_diffusion(config, device)
    shape, pieces = diffusion.model.config, None
    if shape.num_pieces:
        reader = require_phonemes(load_tokenizer_of(config.release))
        pieces = PiecesAtCodes(reader, mel.frames_per_s / dvae.config.compression[0])
    sampler = SamplerConfig.model_validate(diffusion.card.get("sampler", {}))
    return PackRestorer(diffusion.model, sampler, Tokens(bool(shape.num_codes), pieces))


def _require_vocoder(init_from: str, release: str) -> TrainedNetwork[Vocos]:
    """Return the vocoder of the release that training begins at."""
    refuse_own_release(init_from, release)
    base = load_stage(init_from, "vocoder")
    if base is None:
        raise FileNotFoundError(
            f"init_from {init_from}: no vocoder/config.json there; leave it out, or train one there"
        )
    return base


def _base(config: VocoderTrainConfig, mel: MelConfig | None) -> Vocos | None:
    """Return the network that `init_from` holds, to be trained on. Raises ValueError where it is of other mels, or
    where a shape is asked for that is not its own.
    """
    if config.init_from is None:
        return None
    base = _require_vocoder(config.init_from, config.release)
    found, wanted = MelConfig.model_validate(base.card["mel"]), mel or MelConfig()
    if found != wanted:
        raise ValueError(f"init_from {config.init_from}: its vocoder inverts mels of {found}, these are of {wanted}")
    for name, value in config.model_settings.items():
        if (own := getattr(base.model.config, name)) != value:
            raise ValueError(
                f"model.{name} {value}: the vocoder of init_from {config.init_from} has {own}; give the same"
            )
    return base.model.train().requires_grad_(True)
