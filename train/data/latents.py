"""Clips for a diffusion network that conditions on the GPT's latents: encoded whole, with their text, then cut.

The latents, the GPT's last hidden states, say what a prior alone cannot: what is being said, and what came before.
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
from triforce.models.text import TextTokenizer, clean_text
from triforce.models.vocabulary import Segment
from triforce.train.data.clips import ClipStore
from triforce.train.data.crops import ClipCrops
from triforce.train.data.order import GroupCache, Place


class ClipWithLatents(NamedTuple):
    """A clip, or part of one."""

    mel: torch.Tensor
    """Mel ``(num_mels, T)``."""
    prior: torch.Tensor
    """The dVAE's decode ``(num_mels, T)`` of the whole clip's codes."""
    latents: torch.Tensor
    """Latents ``(width, K)``, one a code; zeros where text and codes are more than the GPT reads."""


class LatentClips:
    """Training crops and whole validation clips; results are kept in memory up to the config's ``cache_bytes``."""

    def __init__(self, crops: ClipCrops, dvae: DVAE, gpt: GPT, tokenizer: TextTokenizer) -> None:
        self.crops, self.dvae, self.gpt, self.tokenizer = crops, dvae, gpt, tokenizer
        self._starts = np.cumsum([0, *crops.store.group_sizes])
        self._computed: GroupCache[ClipWithLatents] = GroupCache(self._compute_training, crops.config.cache_bytes)

    @torch.no_grad()
    def whole(self, store: ClipStore, group: int, row: int) -> ClipWithLatents:
        """Compute prior and latents of a whole clip."""
        samples = torch.from_numpy(store.waveform(group, row).copy()).to(self.crops.device)
        mel = log_mel(samples.float() / FULL_SCALE, self.crops.mel_config)
        codes = self.dvae.encode(mel[None])
        prior = self.dvae.decode(codes, torch.tensor([[mel.shape[1]]], device=mel.device))[0]
        text = Segment("text", self.tokenizer.encode(clean_text(store.text(group, row))))
        latents = gpt_latents(self.gpt, [text], Segment("speech", codes[0].cpu().numpy()))
        if latents is None:
            latents = mel.new_zeros(self.gpt.config.width, codes.shape[1])
        return ClipWithLatents(mel, prior, latents)

    def _compute_training(self, index: int) -> tuple[ClipWithLatents, int]:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        clip = self.whole(self.crops.store, group, index - int(self._starts[group]))
        return clip, sum(tensor.nbytes for tensor in clip)

    def crop(self, position: int) -> ClipWithLatents:
        """The training crop at a position of the endless order, from the beginning of a code on."""
        group, row = self.crops.order(position)
        clip = self._computed[int(self._starts[group]) + row]
        frames, factor = self.crops.config.crop_frames, self.dvae.config.compression[0]
        num_starts = max(0, clip.mel.shape[1] - frames) // factor + 1
        first = int(np.random.default_rng([self.crops.config.seed, position]).integers(num_starts))
        span = slice(first * factor, first * factor + frames)
        latents = clip.latents[:, first : first + -(-frames // factor)]
        return ClipWithLatents(clip.mel[:, span], clip.prior[:, span], latents)

    def batch(self, place: Place, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mels and priors ``(count, num_mels, crop_frames)``, frames ``(count, 1)``, latents ``(count, width, K)``."""
        parts = [self.crop(place.next()) for _ in range(count)]
        frames = self.crops.config.crop_frames
        num_codes = -(-frames // self.dvae.config.compression[0])
        floor = self.crops.mel_config.log_floor
        mels, priors = (
            torch.stack([F.pad(part[i], (0, frames - part[i].shape[1]), value=floor) for part in parts]) for i in (0, 1)
        )
        latents = torch.stack([F.pad(part.latents, (0, num_codes - part.latents.shape[1])) for part in parts])
        sizes = torch.tensor([[part.mel.shape[1]] for part in parts], device=mels.device)
        return mels, priors, sizes, latents

    def evaluation(self) -> list[ClipWithLatents]:
        """The validation clips, or where there are none training clips, whole."""
        store, places = self.crops.evaluation_places()
        return [self.whole(store, *place) for place in places]
