"""Clips for the diffusion network that are encoded whole, once, and then cut: as they are when the network is used.

With a GPT come its latents, its last hidden states, which say what a prior alone cannot: what is being said, and what
came before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from triforce.ingest.media.samples import FULL_SCALE
from triforce.models.audio.mel import log_mel
from triforce.models.dvae import DVAE
from triforce.models.gpt import GPT, gpt_latents
from triforce.models.reading.front_end import FrontEnd
from triforce.models.text import clean_text
from triforce.models.vocabulary import Segment
from triforce.train.data.clips import ClipStore
from triforce.train.data.crops import ClipCrops
from triforce.train.data.order import GroupCache, Place


class WholeClip(NamedTuple):
    """A clip, or part of one."""

    mel: torch.Tensor
    """Mel ``(num_mels, T)``."""
    prior: torch.Tensor
    """The dVAE's decode ``(num_mels, T)`` of the whole clip's codes."""
    latents: torch.Tensor | None
    """Latents ``(width, K)``, one a code; zeros where text and codes are more than the GPT reads; None without one."""


class WholeClips:
    """Training crops and whole validation clips; results are kept in memory up to the config's ``cache_bytes``."""

    def __init__(self, crops: ClipCrops, dvae: DVAE, gpt: tuple[GPT, FrontEnd] | None = None) -> None:
        self.crops, self.dvae, self.gpt = crops, dvae, gpt
        self._starts = np.cumsum([0, *crops.store.group_sizes])
        self._computed: GroupCache[WholeClip] = GroupCache(self._compute_training, crops.config.cache_bytes)

    @torch.no_grad()
    def whole(self, store: ClipStore, group: int, row: int) -> WholeClip:
        """Compute the prior of a whole clip, and the latents where there is a GPT."""
        samples = torch.from_numpy(store.waveform(group, row).copy()).to(self.crops.device)
        mel = log_mel(samples.float() / FULL_SCALE, self.crops.mel_config)
        codes = self.dvae.encode(mel[None])
        prior = self.dvae.decode(codes, torch.tensor([[mel.shape[1]]], device=mel.device))[0]
        if self.gpt is None:
            return WholeClip(mel, prior, None)
        gpt, tokenizer = self.gpt
        text = Segment("text", tokenizer.encode(clean_text(store.text(group, row))))
        latents = gpt_latents(gpt, [text], Segment("speech", codes[0].cpu().numpy()))
        if latents is None:
            latents = mel.new_zeros(gpt.config.width, codes.shape[1])
        return WholeClip(mel, prior, latents)

    def _compute_training(self, index: int) -> tuple[WholeClip, int]:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        clip = self.whole(self.crops.store, group, index - int(self._starts[group]))
        return clip, sum(tensor.nbytes for tensor in clip if tensor is not None)

    def crop(self, position: int) -> WholeClip:
        """The training crop at a position of the endless order, from the beginning of a code on."""
        group, row = self.crops.order(position)
        clip = self._computed[int(self._starts[group]) + row]
        frames, factor = self.crops.config.crop_frames, self.dvae.config.compression[0]
        num_starts = max(0, clip.mel.shape[1] - frames) // factor + 1
        first = int(np.random.default_rng([self.crops.config.seed, position]).integers(num_starts))
        span = slice(first * factor, first * factor + frames)
        latents = None if clip.latents is None else clip.latents[:, first : first + -(-frames // factor)]
        return WholeClip(clip.mel[:, span], clip.prior[:, span], latents)

    def batch(self, place: Place, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Mels and priors ``(count, num_mels, crop_frames)``, frames ``(count, 1)``, and where there is a GPT latents
        ``(count, width, K)``.
        """
        parts = [self.crop(place.next()) for _ in range(count)]
        frames = self.crops.config.crop_frames
        num_codes = -(-frames // self.dvae.config.compression[0])
        floor = self.crops.mel_config.log_floor
        mels, priors = (
            torch.stack([F.pad(mel, (0, frames - mel.shape[1]), value=floor) for mel in column])
            for column in ([part.mel for part in parts], [part.prior for part in parts])
        )
        known = [part.latents for part in parts if part.latents is not None]
        latents = torch.stack([F.pad(one, (0, num_codes - one.shape[1])) for one in known]) if known else None
        sizes = torch.tensor([[part.mel.shape[1]] for part in parts], device=mels.device)
        return mels, priors, sizes, latents

    def evaluation(self) -> list[WholeClip]:
        """The validation clips, or where there are none training clips, whole."""
        store, places = self.crops.evaluation_places()
        return [self.whole(store, *place) for place in places]
