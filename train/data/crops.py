"""Crops of a corpus's clips as mels: what the dVAE, the diffusion network and the vocoder train on."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from triforce.ingest.media.samples import FULL_SCALE
from triforce.models.audio.mel import MelConfig, log_mel
from triforce.train.data.base import Crops, SoundBatch, StoredCrops
from triforce.train.data.config import CROP_AXES, CropConfig, SoundCropConfig
from triforce.train.data.crop_stream import Crop, CropStream, StreamedCrops
from triforce.train.data.order import Place
from triforce.train.data.packed.pack import is_pack
from triforce.train.data.silence import is_audible, speech_weight

STATISTICS_CLIPS = 64
"""Clips that the mean and standard deviation are measured on: 64 are 10 minutes or so. Assumed."""
EVAL_CROP_S = 8.0
JITTERED_SHARE = 0.5
"""Share of crops that `speed_jitter` changes: the others keep the band and the noise that clips have."""


def _resampled(samples: np.ndarray, speed: float) -> np.ndarray:
    """Return ``(N,)`` int16 played ``speed`` times as fast. Through floats: soxr dithers integers, and that noise would
    lie above the mel's floor where a clip has none.
    """
    import soxr

    played = soxr.resample(samples.astype(np.float32), speed, 1.0, quality="HQ")
    return np.clip(np.rint(played), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


class ClipCrops(StoredCrops):
    """Mel crops of a corpus's clips of sound."""

    unit = "nats"
    scale = 1.0

    def __init__(self, config: SoundCropConfig, mel_config: MelConfig, device: torch.device) -> None:
        super().__init__(config, mel_config.sample_rate_hz, device)
        self.config, self.mel_config = config, mel_config
        self.channels, self.frames_per_s = mel_config.num_mels, mel_config.frames_per_s
        self.stream: CropStream | None = None

    @property
    def streamed(self) -> StreamedCrops:  # type: ignore[override]
        return self

    def card(self) -> dict[str, Any]:
        return {"mel": json.loads(self.mel_config.model_dump_json())}

    def remake(self) -> Callable[[], ClipCrops]:
        """Return what makes the same reader in another process."""
        return functools.partial(ClipCrops, self.config, self.mel_config, torch.device("cpu"))

    def take(self, place: Place, count: int) -> list[Crop]:
        """The next training crops: from the stream, where one is set, else read here and now."""
        if self.stream is not None:
            return self.stream.take(place, count)
        return [self.crop(place.next()) for _ in range(count)]

    def crop(self, position: int) -> tuple[np.ndarray, int]:
        """Samples ``(N,)`` int16 of a training crop with its frames; a short clip is zero-padded to a crop's
        samples.
        """
        waveform = self.store.waveform(*self.order(position))
        hop, frames = self.mel_config.hop_length, self.config.crop_frames
        wanted = (frames - 1) * hop
        generator = np.random.default_rng([self.config.seed, position])
        if (jitter := self.config.speed_jitter) and generator.random() < JITTERED_SHARE:
            speed = 1 + jitter * generator.uniform(-1, 1)
            needed = math.ceil(wanted * speed) + 1
            start = int(generator.integers(max(0, len(waveform) - needed) + 1))
            waveform = _resampled(waveform[start : start + needed], speed)
        if len(waveform) > wanted:
            start = int(generator.integers(len(waveform) - wanted + 1))
            return waveform[start : start + wanted], frames
        return np.pad(waveform, (0, wanted - len(waveform))), self.mel_config.num_frames(len(waveform))

    def batch(self, place: Place, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mels ``(count, num_mels, crop_frames)`` and their true frames ``(count, 1)``."""
        crops = self.take(place, count)
        sizes = torch.tensor([[int(frames)] for _, frames in crops], device=self.device)
        return log_mel(self._waveforms(crops), self.mel_config), sizes

    def sounds(self, place: Place, count: int) -> SoundBatch:
        """The next crops' samples and mels; short clips are padded with silence, a sound like any other."""
        waveforms = self._waveforms(self.take(place, count))
        return SoundBatch(waveforms, log_mel(waveforms, self.mel_config), None)

    def _waveforms(self, crops: list[Crop]) -> torch.Tensor:
        return torch.from_numpy(np.stack([samples for samples, _ in crops])).to(self.device).float() / FULL_SCALE

    def evaluation(self) -> list[torch.Tensor]:
        """Mels ``(num_mels, T)`` of the validation clips, or where there are none of training clips, at most 8 s
        each.
        """
        store, places = self.evaluation_places()
        longest = int(EVAL_CROP_S * self.mel_config.sample_rate_hz)
        waveforms = [torch.from_numpy(store.waveform(*place)[:longest].copy()) for place in places]
        return [log_mel(waveform.to(self.device).float() / FULL_SCALE, self.mel_config) for waveform in waveforms]

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each mel bin, ``(num_mels,)``, over the audible frames of the order's first
        clips.
        """
        count = min(STATISTICS_CLIPS, len(self.store))
        crops = [self.store.waveform(*self.order(position)) for position in range(count)]
        frames = torch.cat(
            [log_mel(torch.from_numpy(crop).float() / FULL_SCALE, self.mel_config) for crop in crops], dim=1
        )
        audible = frames[:, is_audible(frames, self.mel_config)[0]]
        frames = audible if audible.shape[1] > 1 else frames
        return frames.mean(1).to(self.device), frames.std(1).to(self.device)

    def weight(self, mel: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return speech_weight(mel, mask, self.mel_config)


def make_crops(config: CropConfig, mel_config: MelConfig, device: torch.device) -> Crops:
    """The crops of the config's modality; ``mel_config`` is for sound."""
    if is_pack(config.corpus):
        from triforce.train.data.packed.crops import PackedCrops

        return PackedCrops(config, device, mel_config)
    if config.modality in CROP_AXES:
        from triforce.train.data.pixels import PixelCrops

        return PixelCrops(config, device)
    return ClipCrops(config, mel_config, device)
