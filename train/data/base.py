"""What crops of sound and of pixels have in common: the clips they are cut from, in which order, and what tasks ask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch

from triforce.train.data.clips import ClipStore
from triforce.train.data.config import ClipDataConfig
from triforce.train.data.crop_stream import StreamedCrops
from triforce.train.data.order import Part, Place, ShuffledOrder


class SoundBatch(NamedTuple):
    """Crops of sound and their mels."""

    waveform: torch.Tensor
    """Samples ``(B, (T - 1) * hop_length)`` float32 in -1 to 1; the first and the last are at the centres of the mels'
    first and last frames."""
    mel: torch.Tensor
    """Mels ``(B, num_mels, T)``."""
    decoded: torch.Tensor | None
    """The same frames as the release's dVAE decodes them from the clips' codes; None: not known here."""


class SoundCrops(Protocol):
    """What the vocoder is trained on: `ClipCrops`, or others that have these methods."""

    streamed: StreamedCrops | None
    """These crops, where Ray Data can read them ahead."""

    def sounds(self, place: Place, count: int) -> SoundBatch:
        """The next crops, on the device; always of the same shapes."""
        ...

    def evaluation(self) -> list[torch.Tensor]:
        """Mels ``(num_mels, T)`` of sounds that training never sees."""
        ...

    def card(self) -> dict[str, Any]:
        """What a release must know of the crops: ``mel``, the settings of the front-end."""
        ...


class Crops(ABC):
    """Crops of a corpus's clips: for training by position, for evaluation the same ones each time."""

    channels: int
    """Channels of a crop."""
    unit: str
    """Unit that errors are given in."""
    scale: float
    """Units in a difference of 1."""
    frames_per_s: float | None = None
    """Positions a second, where the first axis is the time of a sound."""
    streamed: StreamedCrops | None = None
    """These crops, where Ray Data can read them ahead."""

    @abstractmethod
    def batch(self, place: Place, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next crops ``(count, channels, *size)``, padded to one size, and their true sizes ``(count, D)``."""

    @abstractmethod
    def evaluation(self) -> list[torch.Tensor]:
        """Samples ``(channels, *size)`` of the validation clips, or where there are none of training clips."""

    @abstractmethod
    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each channel, ``(channels,)``, over the order's first clips."""

    @abstractmethod
    def weight(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Weight of each position of ``x`` in the loss; ``mask`` is 1 where a position is true, 0 where padded."""

    def card(self) -> dict[str, Any]:
        """What a release must know of how clips became the network's input."""
        return {}


class StoredCrops(Crops):
    """Crops that are cut from the clips of a corpus's files."""

    def __init__(self, config: ClipDataConfig, sample_rate_hz: int, device: torch.device) -> None:
        from triforce.ingest.corpus.store import Corpus

        self.device, share = device, config.validation_share
        corpus, modality, num_bytes = Corpus(config.corpus), config.modality, config.cache_bytes
        words = config.reads_words
        self.store = ClipStore(corpus, sample_rate_hz, Part(share), num_bytes, modality, words)
        self.validation = ClipStore(corpus, sample_rate_hz, Part(share, True), num_bytes // 8, modality, words)
        self.order = ShuffledOrder(self.store.group_sizes, config.seed)
        self.eval_clips = config.eval_clips

    def evaluation_places(self) -> tuple[ClipStore, list[tuple[int, int]]]:
        """The clips of `evaluation`: where they are, and the group and row of each."""
        store = self.validation if len(self.validation) else self.store
        places = ((group, row) for group, size in enumerate(store.group_sizes) for row in range(size))
        return store, list(islice(places, self.eval_clips))
