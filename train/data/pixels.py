"""Crops of a corpus's images or videos: what the dVAE and the diffusion network of pixels train on."""

from __future__ import annotations

import numpy as np
import torch

from triforce.ingest.media.pixels import to_planes
from triforce.train.data.base import StoredCrops
from triforce.train.data.config import PixelCropConfig
from triforce.train.data.order import Place

STATISTICS_CLIPS = 256
"""Clips that the colours' mean and standard deviation are measured on. Assumed."""
EVAL_SIDE = 256
"""Longest side of what an evaluation sees, from a clip's middle: its cost stays bounded. Assumed."""


class PixelCrops(StoredCrops):
    """Crops of images or videos. Values from 0 to 1."""

    channels = 3
    unit = "levels"
    """A step of 8-bit colour."""
    scale = 255.0

    def __init__(self, config: PixelCropConfig, device: torch.device) -> None:
        super().__init__(config, 1, device)
        assert config.crop is not None, "PixelCropConfig sees to it"
        self.config, self.size = config, config.crop

    def crop(self, position: int) -> np.ndarray:
        """Pixels ``(*size, 3)`` uint8, cut at a place that the position and the seed fix; smaller where the clip is."""
        pixels = self.store.pixels(*self.order(position))
        generator = np.random.default_rng([self.config.seed, position])
        return pixels[_window(pixels.shape[:-1], self.size, generator)]

    def batch(self, place: Place, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Planes ``(count, 3, *crop)`` and their true sizes ``(count, D)``."""
        crops = [self.crop(place.next()) for _ in range(count)]
        planes = torch.zeros(count, 3, *self.size)
        for row, pixels in enumerate(crops):
            planes[(row, slice(None), *(slice(n) for n in pixels.shape[:-1]))] = torch.from_numpy(to_planes(pixels))
        sizes = torch.tensor([pixels.shape[:-1] for pixels in crops], device=self.device)
        return planes.to(self.device), sizes

    def evaluation(self) -> list[torch.Tensor]:
        """Planes ``(3, *size)`` of the middles of validation clips, or where there are none of training clips."""
        store, places = self.evaluation_places()
        clips = [store.pixels(*place) for place in places]
        middles = [clip[_window(clip.shape[:-1], (EVAL_SIDE,) * (clip.ndim - 1), None)] for clip in clips]
        return [torch.from_numpy(to_planes(pixels)).to(self.device) for pixels in middles]

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each colour, ``(3,)``."""
        count = min(STATISTICS_CLIPS, len(self.store))
        planes = [to_planes(self.store.pixels(*self.order(position))).reshape(3, -1) for position in range(count)]
        values = torch.from_numpy(np.concatenate(planes, axis=1))
        return values.mean(1).to(self.device), values.std(1).to(self.device)

    def weight(self, planes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``mask``: every pixel counts alike."""
        return mask


def _window(size: tuple[int, ...], wanted: tuple[int, ...], generator: np.random.Generator | None) -> tuple[slice, ...]:
    """A box of ``wanted`` positions, or of all there are: at a random place, or in the middle without a generator."""
    spare = [max(0, have - want) for have, want in zip(size, wanted, strict=True)]
    starts = [n // 2 if generator is None else int(generator.integers(n + 1)) for n in spare]
    return tuple(slice(start, start + want) for start, want in zip(starts, wanted, strict=True))
