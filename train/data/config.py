"""Settings that say which data a run reads and how: clips of a corpus, or token shards."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ModalityName = Literal["speech", "music", "image", "video"]
CROP_AXES = {"image": 2, "video": 3}


class SeedConfig(BaseModel):
    """What data and training both draw their random numbers from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="Seed of weights, order and noise.")


class DataConfig(SeedConfig):
    """What all data readers read."""

    validation_share: float = Field(
        0.02, ge=0, lt=0.5, description="Share of the clips kept for validation, by a hash of their id."
    )
    eval_clips: int = Field(32, ge=1, description="Clips in an evaluation, at most.")
    cache_bytes: int = Field(2 << 30, ge=1 << 20, description="Memory a worker keeps decoded clips in.")


class ClipDataConfig(DataConfig):
    """What `ClipStore` and all crops read."""

    corpus: str = Field(description="URI of the corpus whose clips are read.")
    modality: ModalityName = Field("speech", description="Which of the corpus's clips are read.")

    @property
    def reads_words(self) -> bool:
        """Whether the times of the clips' words are read."""
        return False


class SoundCropConfig(ClipDataConfig):
    """What `ClipCrops` and `CropStream` read."""

    crop_frames: int = Field(144, ge=16, le=65_536, description="Mel frames of a training crop.")
    speed_jitter: float = Field(
        0.0,
        ge=0,
        le=0.3,
        description="Half of the crops of sound are played faster or slower, pitch and all, by up to this share: more "
        "voices out of few.",
    )
    readers_per_worker: int = Field(
        0, ge=0, le=64, description="Ray Data actors that read crops of sound ahead of a worker; 0: it reads by itself."
    )
    cpus_per_reader: float = Field(
        0, ge=0, description="Cores kept free for such an actor; with 0 it uses what the worker leaves."
    )


class PixelCropConfig(ClipDataConfig):
    """What `PixelCrops` reads."""

    crop: tuple[int, ...] | None = Field(
        None,
        description="Positions of a training crop of pixels: height and width; for video the number of frames first.",
    )

    @model_validator(mode="after")
    def _check_crop(self) -> PixelCropConfig:
        axes = CROP_AXES.get(self.modality)
        if axes and (self.crop is None or len(self.crop) != axes or min(self.crop) < 1):
            raise ValueError(f"crop {self.crop}: modality {self.modality} needs {axes} numbers, as in crop=[32,32]")
        return self


class CropConfig(SoundCropConfig, PixelCropConfig):
    """Crops of sound or of pixels, whichever the modality asks for."""


class TokenDataConfig(DataConfig):
    """What `TokenStore`, `Documents` and `Packer` read."""

    tokens: str = Field(description="URI of the token shards.")
    more_tokens: tuple[str, ...] = Field(
        (), description="Shard sets of other media, whose modalities layouts may name beside the first set's."
    )
    join_on: str = Field(
        "clip_id",
        min_length=1,
        description="What samples of several shard sets are joined by: their id, or a field of their metadata.",
    )
    voice_codes: int = Field(
        117, ge=1, description="Codes of a voice prompt at most; 117 are 5 s. Assumed: timbre is settled by then."
    )
    context: int = Field(512, ge=32, le=65_536, description="Tokens of a packed row.")
    layouts: dict[str, float] = Field(
        default_factory=lambda: {"text>speech": 1.0},
        description="Orders of segments and how often each is drawn.",
    )
    loss_weights: dict[str, float] = Field(
        default_factory=lambda: {"text": 0.1},
        description="Weight of a modality's tokens in the loss; 1 where it is not named.",
    )
    spelled_share: float = Field(
        0.12,
        ge=0,
        le=1,
        description="Share of the known words that are given in letters in training, so that unknown ones are learnt: "
        "for the text front end `phonemes`.",
    )
    text_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training documents whose text is hidden, for `guidance` when sampling; in a reading "
        "each word is then its boundary alone. Layouts that end in text keep it.",
    )
    prefetch: int = Field(2, ge=0, le=64, description="Batches read ahead beside the training step.")

    @model_validator(mode="after")
    def _check_layouts(self) -> TokenDataConfig:
        if not self.layouts or min(self.layouts.values()) < 0 or not sum(self.layouts.values()):
            raise ValueError(f"layouts {self.layouts}: give at least one with a weight over 0")
        return self

    @property
    def shard_sets(self) -> list[str]:
        """URIs of all shard sets, the main one first."""
        return [self.tokens, *self.more_tokens]
