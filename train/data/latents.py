"""Clips for the diffusion network as dVAE and transformer know them: heard whole, read with their text, then cut.

The transformer's hidden states say what a bare prior cannot: what is being said, and what came before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from triforce.models.audio.mel import log_mel
from triforce.models.dvae import DVAE
from triforce.models.gpt import GPT, hidden_states
from triforce.models.text import TextTokenizer, clean_text
from triforce.models.vocabulary import Segment
from triforce.train.data.clips import ClipStore
from triforce.train.data.crops import INT16_SCALE, ClipCrops
from triforce.train.data.order import GroupCache, Place


class Spoken(NamedTuple):
    """A clip, or part of one."""

    mel: torch.Tensor
    """``(num_mels, T)``"""
    prior: torch.Tensor
    """``(num_mels, T)``, the dVAE's decode of the whole clip's codes."""
    states: torch.Tensor
    """``(width, K)`` at each code; zeros where text and codes are more than the transformer reads."""


class SpokenClips:
    """Training crops and whole validation clips; what was computed is kept, up to the config's ``cache_bytes``."""

    def __init__(self, crops: ClipCrops, dvae: DVAE, gpt: GPT, tokenizer: TextTokenizer) -> None:
        self.crops, self.dvae, self.gpt, self.tokenizer = crops, dvae, gpt, tokenizer
        self._starts = np.cumsum([0, *crops.store.group_sizes])
        self._heard: GroupCache[Spoken] = GroupCache(self._hear_training, crops.config.cache_bytes)

    @torch.no_grad()
    def hear(self, store: ClipStore, group: int, row: int) -> Spoken:
        """A whole clip."""
        samples = torch.from_numpy(store.waveform(group, row).copy()).to(self.crops.device)
        mel = log_mel(samples.float() / INT16_SCALE, self.crops.mel_config)
        codes = self.dvae.encode(mel[None])
        prior = self.dvae.decode(codes, torch.tensor([[mel.shape[1]]], device=mel.device))[0]
        text = Segment("text", self.tokenizer.encode(clean_text(store.text(group, row))))
        states = hidden_states(self.gpt, [text], Segment("speech", codes[0].cpu().numpy()))
        if states is None:
            states = mel.new_zeros(self.gpt.config.width, codes.shape[1])
        return Spoken(mel, prior, states)

    def _hear_training(self, index: int) -> tuple[Spoken, int]:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        heard = self.hear(self.crops.store, group, index - int(self._starts[group]))
        return heard, sum(tensor.nbytes for tensor in heard)

    def crop(self, position: int) -> Spoken:
        """The training crop at a position of the endless order, from the beginning of a code on."""
        group, row = self.crops.order(position)
        heard = self._heard[int(self._starts[group]) + row]
        frames, factor = self.crops.config.crop_frames, self.dvae.config.compression[0]
        num_starts = max(0, heard.mel.shape[1] - frames) // factor + 1
        first = int(np.random.default_rng([self.crops.config.seed, position]).integers(num_starts))
        span = slice(first * factor, first * factor + frames)
        states = heard.states[:, first : first + -(-frames // factor)]
        return Spoken(heard.mel[:, span], heard.prior[:, span], states)

    def batch(self, place: Place, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mels and priors ``(count, num_mels, crop_frames)``, true frames ``(count, 1)``, hidden states ``(count,
        width, K)``.
        """
        parts = [self.crop(place.next()) for _ in range(count)]
        frames, factor = self.crops.config.crop_frames, self.dvae.config.compression[0]
        floor = self.crops.mel_config.log_floor
        mels, priors = (
            torch.stack([F.pad(part[i], (0, frames - part[i].shape[1]), value=floor) for part in parts]) for i in (0, 1)
        )
        states = torch.stack([F.pad(part.states, (0, -(-frames // factor) - part.states.shape[1])) for part in parts])
        sizes = torch.tensor([[part.mel.shape[1]] for part in parts], device=mels.device)
        return mels, priors, sizes, states

    def evaluation(self) -> list[Spoken]:
        """The validation clips, or where there are none training clips, whole."""
        store, places = self.crops.evaluation_places()
        return [self.hear(store, *place) for place in places]
