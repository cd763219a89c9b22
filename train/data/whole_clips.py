"""Clips for the diffusion network that are encoded whole, once, and then cut: as they are when the network is used.

With a GPT come its latents, its last hidden states, which say what a prior alone cannot: what is being said, and what
came before.
"""

from __future__ import annotations

from collections.abc import Iterable

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
from triforce.train.data.restoration import Restoration, Tokens

NO_TOKENS = Tokens(codes=False, pieces=None)


class WholeClips:
    """Training crops and whole validation clips; results are kept in memory up to the config's ``cache_bytes``."""

    def __init__(
        self, crops: ClipCrops, dvae: DVAE, gpt: tuple[GPT, FrontEnd] | None = None, tokens: Tokens = NO_TOKENS
    ) -> None:
        self.crops, self.dvae, self.gpt, self.tokens = crops, dvae, gpt, tokens
        self._starts = np.cumsum([0, *crops.store.group_sizes])
        self._computed: GroupCache[Restoration] = GroupCache(self._compute_training, crops.config.cache_bytes)

    @torch.no_grad()
    def whole(self, store: ClipStore, group: int, row: int) -> Restoration:
        """Compute the prior of a whole clip, the latents where there is a GPT, and what else the network is told.

        Latents are zeros where text and codes are more than the GPT reads.
        """
        samples = torch.from_numpy(store.waveform(group, row).copy()).to(self.crops.device)
        mel = log_mel(samples.float() / FULL_SCALE, self.crops.mel_config)
        codes = self.dvae.encode(mel[None])
        frames = torch.tensor([mel.shape[1]], device=mel.device)
        prior = self.dvae.decode(codes, frames[None])[0]
        tokens = None
        if self.tokens:
            about = store.clip_ids(group)[row], store.text(group, row), store.words(group, row)
            tokens = torch.from_numpy(self.tokens.of(codes[0].cpu().numpy(), *about)).to(mel.device)
        if self.gpt is None:
            return Restoration(mel, prior, frames, None, tokens)
        gpt, tokenizer = self.gpt
        text = Segment("text", tokenizer.encode(clean_text(store.text(group, row))))
        latents = gpt_latents(gpt, [text], Segment("speech", codes[0].cpu().numpy()))
        if latents is None:
            latents = mel.new_zeros(gpt.config.width, codes.shape[1])
        return Restoration(mel, prior, frames, latents, tokens)

    def _compute_training(self, index: int) -> tuple[Restoration, int]:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        clip = self.whole(self.crops.store, group, index - int(self._starts[group]))
        return clip, sum(tensor.nbytes for tensor in clip if tensor is not None)

    def crop(self, position: int) -> Restoration:
        """The training crop at a position of the endless order, from the beginning of a code on."""
        group, row = self.crops.order(position)
        clip = self._computed[int(self._starts[group]) + row]
        frames, factor = self.crops.config.crop_frames, self.dvae.config.compression[0]
        num_starts = max(0, clip.medium.shape[1] - frames) // factor + 1
        first = int(np.random.default_rng([self.crops.config.seed, position]).integers(num_starts))
        span = slice(first * factor, first * factor + frames)
        codes = slice(first, first + -(-frames // factor))
        latents, tokens = (None if known is None else known[:, codes] for known in (clip.latents, clip.tokens))
        mel = clip.medium[:, span]
        return Restoration(mel, clip.prior[:, span], clip.sizes.new_tensor([mel.shape[1]]), latents, tokens)

    def batch(self, place: Place, count: int) -> Restoration:
        """The next crops, padded to ``crop_frames``: mels and priors with silence, latents with zeros."""
        parts = [self.crop(place.next()) for _ in range(count)]
        frames = self.crops.config.crop_frames
        num_codes = -(-frames // self.dvae.config.compression[0])
        floor = self.crops.mel_config.log_floor

        def padded(column: Iterable[torch.Tensor], length: int, value: float) -> torch.Tensor:
            return torch.stack([F.pad(one, (0, length - one.shape[1]), value=value) for one in column])

        latents, tokens = (
            None if column[0] is None else padded(column, num_codes, value)
            for column, value in (([part.latents for part in parts], 0.0), ([part.tokens for part in parts], -1))
        )
        return Restoration(
            padded((part.medium for part in parts), frames, floor),
            padded((part.prior for part in parts), frames, floor),
            torch.stack([part.sizes for part in parts]),
            latents,
            tokens,
        )

    def evaluation(self) -> list[Restoration]:
        """The validation clips, or where there are none training clips, whole."""
        store, places = self.crops.evaluation_places()
        return [self.whole(store, *place) for place in places]
