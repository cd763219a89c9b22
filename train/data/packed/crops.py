"""Crops of a pack: its bytes lie in the memory of the device that trains, and a batch is one indexing there."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import torch

from triforce.models.audio.mel import MelConfig
from triforce.train.data.base import Crops
from triforce.train.data.config import SoundCropConfig
from triforce.train.data.order import FlatOrder, Place, is_validation, uniforms
from triforce.train.data.packed.pack import Pack
from triforce.train.data.silence import is_audible, speech_weight

STATISTICS_CLIPS = 512
"""Clips that the mean and standard deviation are measured on, spread over the pack: an hour or so. Assumed."""
EVAL_FRAMES = 750
"""Longest part of a clip that an evaluation sees: 8 s."""


class CropPlaces(NamedTuple):
    """Where the crops of a batch are."""

    clips: np.ndarray
    """Indices of the clips, ``(B,)``."""
    offsets: np.ndarray
    """Frames of the clip before the crop, ``(B,)``."""
    sizes: np.ndarray
    """Frames of the crop that the clip has, ``(B,)``."""


class PackedCrops(Crops):
    """Mel crops of a pack's clips, on the device."""

    unit = "nats"
    scale = 1.0

    def __init__(self, config: SoundCropConfig, device: torch.device, mel_config: MelConfig | None = None) -> None:
        """Raises ValueError where the pack's mels are not as ``mel_config`` asks, and for settings that ask for sound
        to be played faster.
        """
        self.config, self.device, self.pack = config, device, Pack(config.corpus)
        if mel_config is not None and mel_config != self.pack.mel_config:
            raise ValueError(
                f"{config.corpus}: its mels are {self.pack.mel_config}, {mel_config} are needed; pack again"
            )
        if config.speed_jitter or config.readers_per_worker:
            raise ValueError("speed_jitter, readers_per_worker: a pack's mels are as they are; set both to 0")
        self.mel_config = self.pack.mel_config
        self.channels, self.frames_per_s = self.mel_config.num_mels, self.mel_config.frames_per_s
        kept = np.array([is_validation(clip["clip_id"], config.validation_share) for clip in self.pack.clips], bool)
        everything = np.arange(len(self.pack))
        self.training = everything[~kept]
        self.validation = (everything[kept] if kept.any() else everything)[: config.eval_clips]
        self.order = FlatOrder(len(self.training), config.seed)
        self.lengths = np.diff(self.pack.bounds)
        self._mels: torch.Tensor | None = None

    @property
    def mels(self) -> torch.Tensor:
        """The bytes of all mels, ``(frames, num_mels)``: on the device, or mapped from the file on a CPU."""
        if self._mels is None:
            mapped = self.pack.mels
            copied = self.device.type != "cpu"
            self._mels = torch.from_numpy(np.array(mapped) if copied else writable(mapped)).to(self.device)
        return self._mels

    def card(self) -> dict[str, Any]:
        return {"mel": json.loads(self.mel_config.model_dump_json())}

    def places(self, place: Place, count: int, step: int = 1) -> CropPlaces:
        """Where the next ``count`` crops are, at a multiple of ``step`` frames; moves ``place``."""
        positions, frames = place.take(count), self.config.crop_frames
        clips = self.training[self.order(positions)]
        spare = np.maximum(0, self.lengths[clips] - frames) // step
        offsets = step * (uniforms(positions, self.config.seed) * (spare + 1)).astype(np.int64)
        return CropPlaces(clips, offsets, np.minimum(frames, self.lengths[clips]))

    def batch(self, place: Place, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mels ``(count, num_mels, crop_frames)`` and their true frames ``(count, 1)``."""
        where = self.places(place, count)
        sizes = self.to_device(where.sizes)[:, None]
        return self.cut(self.to_device(self.pack.bounds[where.clips] + where.offsets), sizes), sizes

    def cut(self, starts: torch.Tensor, sizes: torch.Tensor, values: torch.Tensor | None = None) -> torch.Tensor:
        """Mels ``(B, num_mels, crop_frames)`` from frames ``starts`` ``(B,)`` on, ``sizes`` ``(B, 1)`` of them and then
        the floor; of other bytes than the mels' where ``values`` are given.
        """
        along = torch.arange(self.config.crop_frames, device=self.device)
        inside = along < sizes
        rows = starts[:, None] + torch.where(inside, along, 0)
        values = self.mels if values is None else values
        mel = self.pack.scale.from_bytes(values[rows.flatten()].view(*rows.shape, -1))
        return torch.where(inside[..., None], mel, self.mel_config.log_floor).transpose(1, 2)

    def to_device(self, values: np.ndarray) -> torch.Tensor:
        """A small array on the device, without waiting for it."""
        tensor = torch.from_numpy(values)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def evaluation(self) -> list[torch.Tensor]:
        """Mels ``(num_mels, T)`` of the validation clips, or where there are none of training clips, at most 8 s
        each.
        """
        return [self.pack.mel(int(index))[:, :EVAL_FRAMES].to(self.device) for index in self.validation]

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each mel bin, ``(num_mels,)``, over audible frames of some clips."""
        step = max(1, len(self.training) // STATISTICS_CLIPS)
        frames = torch.cat([self.pack.mel(int(index)) for index in self.training[::step]], dim=1)
        audible = frames[:, is_audible(frames, self.mel_config)[0]]
        frames = audible if audible.shape[1] > 1 else frames
        return frames.mean(1).to(self.device), frames.std(1).to(self.device)

    def weight(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return speech_weight(x, mask, self.mel_config)


def writable(mapped: np.ndarray) -> np.ndarray:
    """A mapped array as torch takes it without a warning; nobody writes to it."""
    return np.lib.format.open_memmap(mapped.filename, mode="c") if isinstance(mapped, np.memmap) else mapped
