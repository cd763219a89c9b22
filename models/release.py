"""A release: the three trained networks in a folder that loads without the corpus.

Layout below a release URI: ``dvae/``, ``gpt/``, ``diffusion/`` and, where one was fitted, ``vocoder/``, each with
``model.safetensors`` and ``config.json``; ``gpt/`` also holds the text ``tokenizer.json``. ``config.json`` is written
last. GPT and diffusion name the hash of the dVAE they were trained on, and a release whose hashes do not agree is
refused.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from triforce.models.audio.mel import MelConfig, log_mel
from triforce.models.audio.vocoder import GriffinLim, Vocoder, make_vocoder
from triforce.models.audio.vocos import NeuralVocoder
from triforce.models.diffusion import Diffusion
from triforce.models.dvae import DVAE
from triforce.models.gpt import GPT, hidden_states
from triforce.models.release_files import VOCODER, Stage, load_card, load_stage, load_tokenizer_of, require_dvae
from triforce.models.samplers import SamplerConfig
from triforce.models.sampling import Candidate, SamplingConfig, sample_segment
from triforce.models.text import TextTokenizer, clean_text
from triforce.models.vocabulary import Segment


@dataclass(frozen=True)
class Speech:
    """What `Release.speak` made."""

    waveform: np.ndarray
    """``(N,)`` float32 at the release's rate."""
    codes: np.ndarray
    """``(K,)`` int64, as the GPT drew them."""
    mel: np.ndarray
    """``(num_mels, T)``, as the vocoder got it."""
    text: str
    reached_end: bool
    """Whether the GPT ended by itself, not at the cap."""
    wall_s: float
    """Time it took."""


class Release:
    """The networks of a release, each loaded when it is first needed."""

    def __init__(self, uri: str, *, device: str | torch.device = "cpu", vocoder: Vocoder | str | None = None) -> None:
        self.uri = uri
        self.device = torch.device(device)
        self._vocoder = vocoder

    @classmethod
    def load(cls, uri: str, *, device: str | torch.device = "cpu", vocoder: Vocoder | str | None = None) -> Release:
        """Open the release at ``uri``; it needs a dVAE at least. ``vocoder`` is one, or a name for `make_vocoder`; by
        default the release's own, and Griffin-Lim where it has none.
        """
        release = cls(uri, device=device, vocoder=vocoder)
        release._dvae  # noqa: B018 - an unreadable release fails here, not at the first word
        return release

    def _load(self, stage: str) -> Stage | None:
        loaded = load_stage(self.uri, stage, self.device)
        if loaded is not None and stage != "dvae" and loaded.card["dvae_hash"] != self._dvae.hash:
            raise ValueError(
                f"{self.uri}: the {stage} was trained on dVAE {loaded.card['dvae_hash'][:12]}, "
                f"this release holds {self._dvae.hash[:12]}; "
                f"train the {stage} again or put the other dVAE back"
            )
        return loaded

    @cached_property
    def _dvae(self) -> Stage:
        return require_dvae(self.uri, self.device)

    @cached_property
    def _gpt(self) -> Stage | None:
        return self._load("gpt")

    @cached_property
    def _diffusion(self) -> Stage | None:
        loaded = self._load("diffusion")
        return self._same_gpt(loaded) if loaded else None

    def _same_gpt(self, diffusion: Stage) -> Stage:
        known = diffusion.card.get("gpt_hash")
        if diffusion.model.config.latent_channels and (self._gpt is None or self._gpt.hash != known):
            found = f"this release holds {self._gpt.hash[:12]}" if self._gpt else "this release holds none"
            raise ValueError(
                f"{self.uri}: the diffusion network listens to gpt {str(known)[:12]}, {found}; "
                "train the diffusion again or put the other gpt back"
            )
        return diffusion

    @property
    def dvae(self) -> DVAE:
        return self._dvae.model

    @property
    def gpt(self) -> GPT | None:
        return self._gpt.model if self._gpt else None

    @property
    def diffusion(self) -> Diffusion | None:
        return self._diffusion.model if self._diffusion else None

    @property
    def dvae_hash(self) -> str:
        return self._dvae.hash

    @cached_property
    def mel_config(self) -> MelConfig:
        return MelConfig.model_validate(self._dvae.card["mel"])

    @property
    def sample_rate_hz(self) -> int:
        return self.mel_config.sample_rate_hz

    @cached_property
    def vocoder(self) -> Vocoder:
        if isinstance(self._vocoder, str):
            return make_vocoder(self._vocoder, self.mel_config)
        if self._vocoder is not None:
            return self._vocoder
        own = load_stage(self.uri, VOCODER, self.device)
        if own is None:
            return GriffinLim(self.mel_config)
        if MelConfig.model_validate(own.card["mel"]) != self.mel_config:
            raise ValueError(
                f"{self.uri}: the vocoder was fitted to other mels than the dVAE's; fit it again with `triforce train "
                "vocoder`, or name another, as in --vocoder griffin-lim"
            )
        return NeuralVocoder(own.model)

    @cached_property
    def vocoder_hash(self) -> str:
        """What tells this vocoder from another: its hash in the release, or its name."""
        if self._vocoder is not None:
            return self._vocoder if isinstance(self._vocoder, str) else type(self._vocoder).__name__
        card = load_card(self.uri, VOCODER)
        return card["hash"] if card else "griffin-lim"

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        return load_tokenizer_of(self.uri)

    def info(self) -> dict[str, Any]:
        """Sizes, hashes and rates, for tables."""
        config = self.dvae.config
        rate = self.mel_config.frames_per_s / config.compression[0]
        stages = {"dvae": self._dvae, "gpt": self._gpt, "diffusion": self._diffusion}
        return {
            "codebook_size": config.num_codes,
            "codes_per_second": rate,
            "bits_per_second": rate * float(np.log2(config.num_codes)),
            "vocoder": self.vocoder_hash,
            "stages": {
                name: {
                    "hash": stage.hash,
                    "parameters": sum(p.numel() for p in stage.model.parameters()),
                    "card": stage.card,
                }
                for name, stage in stages.items()
                if stage
            },
        }

    def log_mel(self, waveform: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Samples ``(N,)`` float32 in -1 to 1 to the log-mel ``(num_mels, T)``."""
        return log_mel(torch.as_tensor(waveform, dtype=torch.float32, device=self.device), self.mel_config)

    def encode(self, waveform: np.ndarray | torch.Tensor) -> np.ndarray:
        """Samples ``(N,)`` to codes ``(K,)`` int64."""
        return self.dvae.encode(self.log_mel(waveform)[None])[0].cpu().numpy()

    def decode(self, codes: np.ndarray | torch.Tensor, num_frames: int | None = None) -> torch.Tensor:
        """Codes ``(K,)`` to the dVAE's mel ``(num_mels, T)``, by default of all the frames the codes span."""
        codes = torch.as_tensor(codes, device=self.device).long()[None]
        sizes = None if num_frames is None else torch.tensor([[num_frames]], device=self.device)
        return self.dvae.decode(codes, sizes)[0]

    def latents(self, text: str | None, codes: np.ndarray | torch.Tensor) -> torch.Tensor | None:
        """The transformer's hidden states ``(width, K)`` at codes ``(K,)`` that say ``text``, for `restore`; None where
        the diffusion network was not trained to listen to them, or text and codes are more than the transformer reads.
        """
        if self.diffusion is None or not self.diffusion.config.latent_channels or not text or self.gpt is None:
            return None
        prompt = [Segment("text", self.tokenizer.encode(clean_text(text)))]
        return hidden_states(self.gpt, prompt, Segment("speech", torch.as_tensor(codes).cpu().numpy()))

    def restore(
        self,
        mel: torch.Tensor,
        *,
        seed: int = 0,
        config: SamplerConfig | None = None,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The diffusion network's reading of a dVAE mel ``(num_mels, T)``, with `latents` where they are given; the mel
        itself where no diffusion is trained.
        """
        if self.diffusion is None:
            return mel
        states = None if latents is None else latents[None]
        return self.diffusion.sample(mel[None], config=config, seed=seed, latents=states)[0]

    def vocode(self, mel: torch.Tensor, *, seed: int = 0) -> np.ndarray:
        """Log-mel ``(num_mels, T)`` to samples ``((T - 1) * hop_length,)`` float32."""
        return self.vocoder(mel, seed=seed).cpu().numpy()

    def speak(
        self,
        text: str,
        *,
        voice: np.ndarray | None = None,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        sampler: SamplerConfig | None = None,
        speed: float = 1.0,
    ) -> Speech:
        """Read ``text`` aloud, in the voice of the samples ``voice`` where they are given and the GPT knows voice
        prompts. ``speed`` 2 takes half the time, at the same pitch.
        """
        started = time.monotonic()
        best = self.draw(text, voice=voice, seed=seed, sampling=sampling)[0]
        waveform, mel = self.render(best.codes, text=text, seed=seed, sampler=sampler, speed=speed)
        return Speech(waveform, best.codes, mel, text, best.reached_end, time.monotonic() - started)

    def draw(
        self,
        text: str,
        *,
        voice: np.ndarray | None = None,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
    ) -> list[Candidate]:
        """Codes for ``text`` from the GPT, ``sampling.num_candidates`` of them, the likeliest first."""
        if self.gpt is None:
            raise FileNotFoundError(f"{self.uri}: no gpt/config.json here; train one with `triforce train gpt`")
        cleaned = clean_text(text)
        if not cleaned:
            raise ValueError(f"text {text!r}: nothing to say; give at least one word")
        prompt = [Segment("text", self.tokenizer.encode(cleaned))]
        if voice is not None:
            prompt.insert(0, Segment("voice", self.encode(voice)))
        return sample_segment(self.gpt, prompt, "speech", sampling or SamplingConfig(), seed=seed)

    def render(
        self,
        codes: np.ndarray,
        *,
        text: str | None = None,
        seed: int = 0,
        sampler: SamplerConfig | None = None,
        speed: float = 1.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes ``(K,)``, and the text that they say where it is known, to samples ``(N,)`` float32 and the mel
        ``(num_mels, T)`` that the vocoder got.
        """
        if not 0.25 <= speed <= 4:
            raise ValueError(f"speed {speed}: from 0.25 to 4")
        if not codes.size:
            return np.zeros(0, np.float32), np.zeros((self.mel_config.num_mels, 0), np.float32)
        mel = self.restore(self.decode(codes), seed=seed, config=sampler, latents=self.latents(text, codes))
        if speed != 1:  # stretched between frames: pitch lies along the other axis
            frames = max(2, round(mel.shape[1] / speed))
            mel = nn.functional.interpolate(mel[None], frames, mode="linear", align_corners=True)[0]
        return self.vocode(mel, seed=seed), mel.cpu().numpy()

    @cached_property
    def characters(self) -> frozenset[str] | None:
        """What the texts of the GPT's training were written in; None where the release does not say."""
        found = (load_card(self.uri, "gpt") or {}).get("characters")
        return None if found is None else frozenset(found)
