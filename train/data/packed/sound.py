"""The sound of a pack's crops, with their mels and what the dVAE makes of them, on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from triforce.ingest.media.samples import FULL_SCALE
from triforce.models.dvae import DVAE
from triforce.train.data.base import SoundBatch
from triforce.train.data.config import SoundCropConfig
from triforce.train.data.crop_stream import StreamedCrops
from triforce.train.data.order import Place
from triforce.train.data.packed.crops import CropPlaces, PackedCrops, writable
from triforce.train.data.packed.priors import PackRestorer, decode_pack


class PackedSound:
    """What a vocoder learns from: `SoundCrops` of a pack that holds sound."""

    streamed: StreamedCrops | None = None

    def __init__(
        self,
        config: SoundCropConfig,
        device: torch.device,
        dvae: DVAE | None = None,
        restorer: PackRestorer | None = None,
    ) -> None:
        """With a ``dvae``, every clip is encoded and decoded whole, now, and with a ``restorer`` restored as well.

        Raises ValueError for a pack of mels alone.
        """
        self.crops = crops = PackedCrops(config, device)
        if not crops.pack.has_samples:
            raise ValueError(
                f"{config.corpus}: this pack holds mels alone, and a vocoder learns from sound; pack it again"
            )
        samples = crops.pack.samples
        self.samples = torch.from_numpy(np.array(samples) if device.type != "cpu" else writable(samples)).to(device)
        self.decoded: torch.Tensor | None = None
        if dvae is not None:
            self.decoded, codes = decode_pack(crops, dvae)
            if restorer is not None:
                restorer(crops, self.decoded, codes)

    def card(self) -> dict[str, Any]:
        return self.crops.card()

    def evaluation(self) -> list[torch.Tensor]:
        return self.crops.evaluation()

    def sounds(self, place: Place, count: int) -> SoundBatch:
        """The next crops, on the device."""
        crops = self.crops
        where = crops.places(place, count)
        starts, sizes = crops.to_device(crops.pack.bounds[where.clips] + where.offsets), crops.to_device(where.sizes)
        decoded = None if self.decoded is None else crops.cut(starts, sizes[:, None], self.decoded)
        return SoundBatch(self.cut(where), crops.cut(starts, sizes[:, None]), decoded)

    def cut(self, where: CropPlaces) -> torch.Tensor:
        """Samples ``(B, (crop_frames - 1) * hop_length)`` float32 in -1 to 1 of the crops; zeros past a clip's end."""
        crops, hop = self.crops, self.crops.mel_config.hop_length
        bounds = crops.pack.sample_bounds
        starts = bounds[where.clips] + where.offsets * hop
        wanted = (crops.config.crop_frames - 1) * hop
        sizes = crops.to_device(np.minimum(wanted, bounds[where.clips + 1] - starts))
        along = torch.arange(wanted, device=crops.device)
        inside = along < sizes[:, None]
        rows = crops.to_device(starts)[:, None] + torch.where(inside, along, 0)
        return torch.where(inside, self.samples[rows.flatten()].view(rows.shape).float() / FULL_SCALE, 0.0)
