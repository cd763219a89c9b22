"""A release: the trained networks in a folder, which encode, decode and speak without the corpus.

`triforce.models.release_files` defines the files. A release whose hashes do not agree is refused: GPT and diffusion
name the dVAE that they were trained on, and a diffusion network that is conditioned on latents names its GPT.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from triforce.models.audio.mel import MelConfig, log_mel
from triforce.models.audio.streaming import CodeStream
from triforce.models.audio.vocoder import GriffinLim, Vocoder, make_vocoder
from triforce.models.audio.vocos import NeuralVocoder
from triforce.models.blocks.conditions import told
from triforce.models.blocks.scale import upsample
from triforce.models.decoding import compiler
from triforce.models.decoding.network import DecodeNetwork, PackedNetwork, compiled_library, for_sampling
from triforce.models.decoding.precision import Compiled, Precision
from triforce.models.decoding.products import resolve
from triforce.models.diffusion import Diffusion
from triforce.models.dvae import DVAE
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.gpt import GPT, gpt_latents
from triforce.models.gpt_sampling import Candidate, SamplingConfig, sample_segment
from triforce.models.reading.front_end import FrontEnd, keeps_words, require_phonemes
from triforce.models.reading.pool import ReadingPool
from triforce.models.reading.sampling import read_aloud
from triforce.models.release_files import (
    TrainedNetwork,
    load_card,
    load_stage,
    load_tokenizer_of,
    require_dvae,
)
from triforce.models.text import clean_text
from triforce.models.vocabulary import Segment
from triforce.models.voice.bundled import VOICE


@dataclass(frozen=True)
class Speech:
    """Result of `Release.speak`."""

    waveform: np.ndarray
    """Samples ``(N,)`` float32 at the release's sample rate."""
    codes: np.ndarray
    """Codes ``(K,)`` int64 that the GPT drew."""
    mel: np.ndarray
    """Log-mel ``(num_mels, T)`` that the vocoder got."""
    text: str
    """Text that was read."""
    reached_end: bool
    """Whether the GPT ended by itself and not at the maximal number of codes."""
    wall_s: float
    """Time it took, s."""


class Release:
    """The networks of a release, each loaded when it is first needed."""

    def __init__(
        self,
        uri: str,
        *,
        device: str | torch.device = "cpu",
        vocoder: Vocoder | str | None = None,
        precision: Precision = "auto",
        compiled: Compiled = "auto",
    ) -> None:
        self.uri = uri
        self.precision, self.compiled = precision, compiled
        self.device = torch.device(device)
        if compiled == "yes":
            compiled_library(precision, compiled)
        elif resolve(precision) == "int8" and compiled == "auto" and self.device.type == "cpu":
            compiler.begin()  # while files are read
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device {device}: this machine has no GPU that torch can use; give device=cpu")
        self._vocoder = vocoder

    @classmethod
    def load(
        cls,
        uri: str = VOICE,
        *,
        device: str | torch.device = "cpu",
        vocoder: Vocoder | str | None = None,
        precision: Precision = "auto",
        compiled: Compiled = "auto",
    ) -> Release:
        """Open the release at ``uri``, by default the voice that comes along; it needs at least a dVAE.

        ``vocoder`` is a vocoder or a name for `make_vocoder`; by default the release's own, or Griffin-Lim if it has
        none. ``precision`` is that of the GPT's weights when it draws on a CPU (`decoding.products`), and ``compiled``
        whether its step is compiled there (`decoding.compiler`).
        """
        release = cls(uri, device=device, vocoder=vocoder, precision=precision, compiled=compiled)
        release._dvae  # noqa: B018 - an unreadable release fails here, not at first use
        return release

    def _check_dvae(self, stage: str, card: dict[str, Any], held: str) -> None:
        if card["dvae_hash"] != held:
            raise ValueError(
                f"{self.uri}: the {stage} was trained on dVAE {card['dvae_hash'][:12]}, "
                f"this release holds {held[:12]}; "
                f"train the {stage} again or put the other dVAE back"
            )

    @cached_property
    def _dvae(self) -> TrainedNetwork[DVAE]:
        return require_dvae(self.uri, self.device)

    @cached_property
    def _gpt(self) -> TrainedNetwork[GPT] | None:
        loaded = load_stage(self.uri, "gpt", self.device)
        if loaded is not None:
            self._check_dvae("gpt", loaded.card, self._dvae.codes_hash)
        return loaded

    @cached_property
    def _diffusion(self) -> TrainedNetwork[Diffusion] | None:
        loaded = load_stage(self.uri, "diffusion", self.device)
        if loaded is not None:
            self._check_dvae("diffusion", loaded.card, self._dvae.hash)
            self._check_gpt(loaded)
        return loaded

    def _check_gpt(self, diffusion: TrainedNetwork[Diffusion]) -> None:
        known = diffusion.card.get("gpt_hash")
        if diffusion.model.config.latent_channels and (self._gpt is None or self._gpt.hash != known):
            found = f"this release holds {self._gpt.hash[:12]}" if self._gpt else "this release holds none"
            raise ValueError(
                f"{self.uri}: the diffusion network is conditioned on latents of gpt {str(known)[:12]}, {found}; "
                "train the diffusion again or put the other gpt back"
            )

    @cached_property
    def decoder(self) -> DecodeNetwork | None:
        """The GPT's network for drawing tokens, packed once; None where the GPT is not trained yet."""
        return for_sampling(self._gpt.model, self.precision, self.compiled) if self._gpt else None

    @property
    def drawn_in(self) -> str:
        """What the GPT's weights are when it draws, as in ``int8``: another rounding draws other codes."""
        network = self.decoder
        if not isinstance(network, PackedNetwork):
            return f"{self.device.type} float32"
        return f"{network.precision} compiled" if network.compiled else network.precision

    @property
    def dvae(self) -> DVAE:
        """The discrete VAE."""
        return self._dvae.model

    @property
    def gpt(self) -> GPT | None:
        """The GPT; None where it is not trained yet."""
        return self._gpt.model if self._gpt else None

    @property
    def diffusion(self) -> Diffusion | None:
        """The diffusion network; None where it is not trained yet."""
        return self._diffusion.model if self._diffusion else None

    @property
    def dvae_hash(self) -> str:
        """Hash of the dVAE, which the diffusion network names."""
        return self._dvae.hash

    @property
    def codes_hash(self) -> str:
        """Hash of the dVAE whose codes these are, which token shards and the GPT name."""
        return self._dvae.codes_hash

    @cached_property
    def mel_config(self) -> MelConfig:
        """Mel front-end that the dVAE was trained on."""
        return MelConfig.model_validate(self._dvae.card["mel"])

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of the speech."""
        return self.mel_config.sample_rate_hz

    @cached_property
    def vocoder(self) -> Vocoder:
        """The vocoder that was asked for, else the release's own, else Griffin-Lim."""
        if isinstance(self._vocoder, str):
            made = make_vocoder(self._vocoder, self.mel_config)
            if isinstance(made, NeuralVocoder):
                made.model.to(self.device)
            return made
        if self._vocoder is not None:
            return self._vocoder
        own = load_stage(self.uri, "vocoder", self.device)
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
        """Identity of the vocoder: its hash in the release, or its name."""
        if self._vocoder is not None:
            return self._vocoder if isinstance(self._vocoder, str) else type(self._vocoder).__name__
        card = load_card(self.uri, "vocoder")
        return card["hash"] if card else "griffin-lim"

    @cached_property
    def tokenizer(self) -> FrontEnd:
        """Text front end of the GPT."""
        return load_tokenizer_of(self.uri)

    def info(self) -> dict[str, Any]:
        """Return sizes, hashes and rates, for tables."""
        config = self.dvae.config
        rate = self.mel_config.frames_per_s / config.compression[0]
        networks = {"dvae": self._dvae, "gpt": self._gpt, "diffusion": self._diffusion}
        return {
            "codebook_size": config.num_codes,
            "codes_per_second": rate,
            "bits_per_second": rate * float(np.log2(config.num_codes)),
            "vocoder": self.vocoder_hash,
            "stages": {
                name: {
                    "hash": network.hash,
                    "parameters": sum(p.numel() for p in network.model.parameters()),
                    "card": network.card,
                }
                for name, network in networks.items()
                if network
            },
        }

    def log_mel(self, waveform: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return the log-mel ``(num_mels, T)`` of samples ``(N,)`` float32 in -1 to 1."""
        return log_mel(torch.as_tensor(waveform, dtype=torch.float32, device=self.device), self.mel_config)

    def encode(self, waveform: np.ndarray | torch.Tensor) -> np.ndarray:
        """Encode samples ``(N,)`` to codes ``(K,)`` int64."""
        return self.dvae.encode(self.log_mel(waveform)[None])[0].cpu().numpy()

    def decode(self, codes: np.ndarray | torch.Tensor, num_frames: int | None = None) -> torch.Tensor:
        """Decode codes ``(K,)`` to the dVAE's mel ``(num_mels, T)``, by default all frames that the codes span."""
        codes = torch.as_tensor(codes, device=self.device).long()[None]
        sizes = None if num_frames is None else torch.tensor([[num_frames]], device=self.device)
        return self.dvae.decode(codes, sizes)[0]

    def latents(self, text: str | None, codes: np.ndarray | torch.Tensor) -> torch.Tensor | None:
        """Return the GPT's latents ``(width, K)`` of codes ``(K,)`` that say ``text``, for `restore`.

        Returns None where the diffusion network is not conditioned on latents, or text and codes are longer than the
        GPT reads.
        """
        if self.diffusion is None or not self.diffusion.config.latent_channels or not text or self.gpt is None:
            return None
        prompt = [Segment("text", self.tokenizer.encode(clean_text(text)))]
        return gpt_latents(self.gpt, prompt, Segment("speech", torch.as_tensor(codes).cpu().numpy()))

    def tokens(self, codes: np.ndarray | torch.Tensor, spoken: np.ndarray | None = None) -> torch.Tensor | None:
        """Return what the diffusion network is told of codes ``(*grid)`` and of the pieces of text ``(*grid)`` that are
        said in them, -1 where none is known: ``(R, *grid)`` for `restore`. None where it is told of neither.
        """
        if self.diffusion is None or not self.diffusion.config.token_sizes:
            return None
        return torch.stack(told(self.diffusion.config, codes, spoken)).to(self.device)

    def told(
        self, codes: np.ndarray | torch.Tensor, text: str | None = None, spoken: np.ndarray | None = None
    ) -> dict[str, torch.Tensor | None]:
        """Return all that the diffusion network is told of codes ``(K,)`` beside their decode, for `restore`: `latents`
        of the ``text`` that they say, and `tokens`.
        """
        return {"latents": self.latents(text, codes), "tokens": self.tokens(codes, spoken)}

    def restore(
        self,
        mel: torch.Tensor,
        *,
        seed: int = 0,
        config: SamplerConfig | None = None,
        latents: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
        size: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Restore a decode ``(C, *size)``, for speech a mel ``(num_mels, T)``, by the diffusion network, conditioned on
        `latents` and `tokens` where they are given.

        Where the dVAE sees a coarser scale, the result has the medium's own: ``size`` positions, by default `shrink`
        times the decode's. Where no diffusion network is trained it is the decode, interpolated to that scale.
        """
        full = tuple(self.shrink * n for n in mel.shape[1:]) if size is None else tuple(size)
        sizes = torch.tensor([full], device=mel.device)
        if self.diffusion is None:
            return upsample(mel[None], self.shrink, sizes, full)[0]
        config = self.sampler_of(config)
        known = {"latents": latents, "tokens": tokens}
        batched = {name: None if value is None else value[None] for name, value in known.items()}
        return self.diffusion.sample(mel[None], sizes, config, seed=seed, **batched)[0]

    @property
    def shrink(self) -> int:
        """Positions of the medium along each axis that are one for the dVAE."""
        return self._dvae.card.get("shrink", 1)

    def vocode(self, mel: torch.Tensor, *, seed: int = 0) -> np.ndarray:
        """Turn a log-mel ``(num_mels, T)`` into samples ``((T - 1) * hop_length,)`` float32."""
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
        """Read ``text`` aloud.

        ``voice`` are samples ``(N,)`` of the voice to speak in, for a GPT trained with voice prompts. ``speed`` 2 takes
        half the time, at the same pitch.
        """
        started = time.monotonic()
        best = self.draw(text, voice=voice, seed=seed, sampling=sampling)[0]
        waveform, mel = self.render(best.codes, text=text, spoken=best.spoken, seed=seed, sampler=sampler, speed=speed)
        return Speech(waveform, best.codes, mel, text, best.reached_end, time.monotonic() - started)

    def draw(
        self,
        text: str,
        *,
        voice: np.ndarray | None = None,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
    ) -> list[Candidate]:
        """Draw ``sampling.num_candidates`` sequences of codes for ``text`` from the GPT, the most likely first.

        Raises FileNotFoundError where the release has no GPT, and ValueError for a text without words.
        """
        if self.decoder is None:
            raise FileNotFoundError(f"{self.uri}: no gpt/config.json here; train one with `triforce train gpt`")
        if self.reads:
            return self.draw_all([text], voice=voice, seeds=[seed], sampling=sampling)[0]
        prompt = [Segment("text", self._pieces(text))]
        if voice is not None:
            prompt.insert(0, Segment("voice", self.encode(voice)))
        return sample_segment(self.decoder, prompt, "speech", self.sampling_of(sampling), seed=seed)

    def draw_all(
        self,
        texts: Sequence[str],
        *,
        voice: np.ndarray | None = None,
        seeds: Sequence[int] | None = None,
        sampling: SamplingConfig | None = None,
        half: bool = False,
        graph: bool = False,
        num_rows: int | None = None,
    ) -> list[list[Candidate]]:
        """Draw candidates as `draw` does, for many texts; side by side where the GPT reads word by word.

        ``half``, ``graph`` and ``num_rows`` as in `read_aloud`; on a CPU the release's precision counts instead of
        ``half``. Texts draw the same, but for rounding, whatever is beside them.
        """
        seeds = seeds or [0] * len(texts)
        if not self.reads:
            drawn = zip(texts, seeds, strict=True)
            return [self.draw(text, voice=voice, seed=seed, sampling=sampling) for text, seed in drawn]
        words = [self.words(text) for text in texts]
        return read_aloud(
            self.gpt,
            words,
            self.sampling_of(sampling),
            seeds=seeds,
            prefix=self.voice_prompt(voice),
            half=half and not isinstance(self.decoder, PackedNetwork),
            graph=graph,
            num_rows=num_rows,
            forward=self.decoder,
            cache_dtype=self._packed_cache_dtype,
        )

    def sampling_of(self, given: SamplingConfig | None) -> SamplingConfig:
        """Return the sampling of the GPT's card, with the fields that are set in ``given`` instead of its own."""
        return _set_in(given, SamplingConfig, self._gpt.card.get("sampling", {}) if self._gpt else {})

    def sampler_of(self, given: SamplerConfig | None) -> SamplerConfig:
        """Return the sampler of the diffusion network's card, with the fields that are set in ``given`` instead of its
        own.
        """
        return _set_in(given, SamplerConfig, self._diffusion.card.get("sampler", {}) if self._diffusion else {})

    @cached_property
    def reads(self) -> bool:
        """Whether the GPT reads word by word: it was trained on readings."""
        layouts = self._gpt.card.get("layouts", []) if self._gpt else []
        return any(layout.endswith(">reading") for layout in layouts) and keeps_words(self.tokenizer)

    def words(self, text: str) -> list[np.ndarray]:
        """Return the pieces ``(L,)`` of each word of a text, for a GPT that reads word by word.

        Raises ValueError for a text without words.
        """
        return require_phonemes(self.tokenizer).split(self._pieces(text))

    def pool(self, num_rows: int, *, joins: int | None = None) -> ReadingPool:
        """Return a `ReadingPool` of ``num_rows``, for a GPT that reads word by word."""
        if self.gpt is None or not self.reads:
            raise ValueError(f"{self.uri}: this GPT does not read word by word; draw its texts one by one")
        return ReadingPool(
            self.gpt,
            num_rows=num_rows,
            joins=joins,
            forward=self.decoder,
            cache_dtype=self._packed_cache_dtype,
        )

    @property
    def _packed_cache_dtype(self) -> torch.dtype | None:
        """Type of the keys and values of a packed network; None leaves it to the pool."""
        network = self.decoder
        return network.cache_dtype if isinstance(network, PackedNetwork) else None

    def voice_prompt(self, voice: np.ndarray | None) -> list[Segment]:
        """Return what stands before a text that is said in the voice of samples ``(N,)``; nothing for None."""
        return [] if voice is None else [Segment("voice", self.encode(voice))]

    def streams(self, sampler: SamplerConfig | None = None) -> bool:
        """Whether sound can be made while codes are drawn: not by Griffin-Lim, nor with a diffusion network that looks
        at all of an utterance, or that is not to be sampled by its mean of one draw.
        """
        if not isinstance(self.vocoder, NeuralVocoder) or self.dvae.config.num_dims != 1:
            return False
        if self.diffusion is None:
            return True
        config, sampler = self.diffusion.config, self.sampler_of(sampler)
        finite = not config.attention_every and not config.latent_channels
        return finite and (sampler.method, sampler.num_steps) == ("mean", 1)

    def stream(
        self, *, seed: int = 0, speed: float = 1.0, haste: bool = False, sampler: SamplerConfig | None = None
    ) -> CodeStream:
        """Return what turns the codes of one utterance into sound as they come (`CodeStream`); see `streams`."""
        if not self.streams(sampler) or not isinstance(self.vocoder, NeuralVocoder):
            raise ValueError(f"{self.uri}: its sound is made of all of an utterance; use `render`")
        return CodeStream(
            self.dvae,
            self.vocoder.model,
            seed=seed,
            speed=speed,
            haste=haste,
            diffusion=self.diffusion,
            sampler=self.sampler_of(sampler),
        )

    def _pieces(self, text: str) -> np.ndarray:
        pieces = self.tokenizer.encode(clean_text(text))
        if not len(pieces):
            raise ValueError(f"text {text!r}: nothing to say; give at least one word")
        return pieces

    def render(
        self,
        codes: np.ndarray,
        *,
        text: str | None = None,
        spoken: np.ndarray | None = None,
        seed: int = 0,
        sampler: SamplerConfig | None = None,
        speed: float = 1.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Turn codes ``(K,)`` into samples ``(N,)`` float32 and the mel ``(num_mels, T)`` that the vocoder got.

        ``text`` is what the codes say, and ``spoken`` ``(K,)`` the piece of it at each code, where they are known.
        """
        if not 0.25 <= speed <= 4:
            raise ValueError(f"speed {speed}: from 0.25 to 4")
        if not codes.size:
            return np.zeros(0, np.float32), np.zeros((self.mel_config.num_mels, 0), np.float32)
        mel = self.restore(self.decode(codes), seed=seed, config=sampler, **self.told(codes, text, spoken))
        if speed != 1:  # stretched between frames: pitch lies along the other axis
            frames = max(2, round(mel.shape[1] / speed))
            mel = nn.functional.interpolate(mel[None], frames, mode="linear", align_corners=True)[0]
        return self.vocode(mel, seed=seed), mel.cpu().numpy()

    @cached_property
    def characters(self) -> frozenset[str] | None:
        """Characters that the GPT knows: its front end's, else its training texts'; None where the release does not
        say.
        """
        if self._gpt and self.tokenizer.characters is not None:
            return self.tokenizer.characters
        found = (load_card(self.uri, "gpt") or {}).get("characters")
        return None if found is None else frozenset(found)


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def _set_in(given: ConfigT | None, kind: type[ConfigT], own: dict[str, Any]) -> ConfigT:
    """Return a config of the fields of a card, with those that are set in ``given`` instead."""
    chosen = {} if given is None else {name: getattr(given, name) for name in given.model_fields_set}
    return kind.model_validate(own | chosen)
