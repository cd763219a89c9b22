"""A pack's crops with what the dVAE makes of them: every clip is encoded and decoded whole, once, on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from triforce.models.diffusion import Diffusion
from triforce.models.dvae import DVAE
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.reading.interleave import TimedWord
from triforce.train.data.order import Place
from triforce.train.data.packed.crops import PackedCrops
from triforce.train.data.packed.whole import whole_clips
from triforce.train.data.restoration import Restoration, Tokens

DECODED_FRAMES = 1 << 16
"""Frames that are decoded at once, padding included."""


@torch.inference_mode()
def decode_pack(crops: PackedCrops, dvae: DVAE) -> tuple[torch.Tensor, list[np.ndarray]]:
    """Return what the dVAE makes of each clip of a pack, as bytes of a pack ``(frames, num_mels)`` on the device, and
    the codes ``(K,)`` int64 of each.
    """
    decoded = torch.empty_like(crops.mels)
    codes: list[np.ndarray] = [np.zeros(0, np.int64)] * len(crops.pack)
    for chosen, mel, sizes in whole_clips(crops.pack, crops.mels, DECODED_FRAMES):
        coded = dvae.encode(mel, sizes)
        on_host = coded.cpu().numpy()
        made = crops.pack.scale.to_bytes(dvae.decode(coded, sizes)).transpose(1, 2)
        for row, clip in enumerate(chosen):
            frames = int(crops.lengths[clip])
            decoded[crops.pack.bounds[clip] : crops.pack.bounds[clip + 1]] = made[row, :frames]
            codes[clip] = on_host[row, : dvae.config.grid((frames,))[0]]
    return decoded, codes


class PackRestorer:
    """Restores the decodes of a pack by a release's diffusion network, told what it can be told."""

    def __init__(self, diffusion: Diffusion, sampler: SamplerConfig, tokens: Tokens) -> None:
        self.diffusion, self.sampler, self.tokens = diffusion, sampler, tokens

    @torch.inference_mode()
    def __call__(self, crops: PackedCrops, decoded: torch.Tensor, codes: list[np.ndarray]) -> None:
        """Put the restored mel of each clip in the place of its decode, bytes of the pack, given its ``codes``."""
        pack = crops.pack
        for number, (own, clip) in enumerate(zip(codes, pack.clips, strict=True)):
            part = decoded[pack.bounds[number] : pack.bounds[number + 1]]
            told = torch.from_numpy(_told(self.tokens, clip, own)).to(part.device)[None] if self.tokens else None
            prior = pack.scale.from_bytes(part).T[None]
            restored = self.diffusion.sample(prior, None, self.sampler, seed=number, tokens=told)
            part.copy_(pack.scale.to_bytes(restored[0].T))


class PackedPriors:
    """What the diffusion network learns from, of a pack."""

    def __init__(self, crops: PackedCrops, dvae: DVAE, tokens: Tokens) -> None:
        self.crops, self.factor = crops, dvae.config.compression[0]
        self.decoded, codes = decode_pack(crops, dvae)
        self.bounds = np.cumsum([0, *map(len, codes)])
        self.tokens: torch.Tensor | None = None
        """Tokens of all clips end to end, ``(R, codes)`` int64."""
        if tokens:
            told = [_told(tokens, clip, own) for own, clip in zip(codes, crops.pack.clips, strict=True)]
            self.tokens = torch.from_numpy(np.concatenate(told, axis=1)).to(crops.device)

    def batch(self, place: Place, count: int) -> Restoration:
        """The next crops, each from the beginning of a code on."""
        crops, frames = self.crops, self.crops.config.crop_frames
        where = crops.places(place, count, self.factor)
        starts, sizes = crops.to_device(crops.pack.bounds[where.clips] + where.offsets), crops.to_device(where.sizes)
        sizes = sizes[:, None]
        tokens = None
        if self.tokens is not None:
            along = np.arange(-(-frames // self.factor))
            rows = (self.bounds[where.clips] + where.offsets // self.factor)[:, None] + along
            inside = crops.to_device(rows < self.bounds[where.clips + 1][:, None])
            found = self.tokens[:, crops.to_device(np.minimum(rows, self.bounds[-1] - 1))]
            tokens = torch.where(inside, found, -1).movedim(0, 1)
        return Restoration(crops.cut(starts, sizes), crops.cut(starts, sizes, self.decoded), sizes, None, tokens)

    def evaluation(self) -> list[Restoration]:
        """The clips that `PackedCrops.evaluation` returns."""
        found = []
        for clip, mel in zip(self.crops.validation.tolist(), self.crops.evaluation(), strict=True):
            first, frames, code = self.crops.pack.bounds[clip], mel.shape[1], self.bounds[clip]
            prior = self.crops.pack.scale.from_bytes(self.decoded[first : first + frames]).T
            tokens = None if self.tokens is None else self.tokens[:, code : code + -(-frames // self.factor)]
            found.append(Restoration(mel, prior, torch.tensor([frames], device=mel.device), None, tokens))
        return found


def _told(tokens: Tokens, clip: dict[str, Any], codes: np.ndarray) -> np.ndarray:
    words: list[TimedWord] | None = [tuple(word) for word in clip.get("words") or []] or None
    return tokens.of(codes, clip["clip_id"], clip.get("text") or "", words)
