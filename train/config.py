"""What a training run is told, and the size presets."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from triforce.ingest import storage

StageName = Literal["dvae", "gpt", "diffusion", "vocoder"]
ModalityName = Literal["speech", "music", "image", "video"]
CROP_AXES = {"image": 2, "video": 3}
SizeName = Literal["tiny", "small", "medium", "tortoise", "dall-e"]


class OptimizerConfig(BaseModel):
    """AdamW with a warm-up, a plateau and a linear decay to zero, and a moving average of the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(1e-3, gt=0, le=1, description="Peak rate.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear rise.")
    decay_share: float = Field(
        0.7, ge=0, le=1, description="Share of the run, at its end, over which the rate falls to zero."
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="On matrices and filters; never on vectors.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the gradient's mean.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of the gradient's square.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="Of the moving average of weights and buffers; it warms up with the steps."
    )


class TrainConfig(BaseModel):
    """One run, complete: saved with the release it makes. What is not set comes from the recipe of ``stage`` and
    ``size``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: StageName
    release: str = Field(
        description="URI of the release: the stage is written here, earlier stages are read from here."
    )
    runs: str = Field(description="URI of the folder for checkpoints and metrics.")
    corpus: str | None = Field(None, description="URI of the corpus: dvae, diffusion and vocoder read clips.")
    tokens: str | None = Field(None, description="URI of the shards: gpt reads these.")
    more_tokens: tuple[str, ...] = Field(
        (), description="Shard sets of other media, whose modalities layouts may name beside the first set's (gpt)."
    )
    join_on: str = Field(
        "clip_id",
        min_length=1,
        description="What samples of several shard sets are joined by: their id, or a field of their metadata (gpt).",
    )
    voice_codes: int = Field(
        117, ge=1, description="Codes of a voice prompt at most; 117 are 5 s. Assumed: timbre is settled by then (gpt)."
    )
    init_from: str | None = Field(
        None, description="URI of a release whose network of this stage is where training begins (gpt)."
    )
    train_only: tuple[str, ...] = Field(
        (),
        description="Parameters that are trained, by patterns of their names as in blocks.1.* or *norm*; none: all.",
    )
    size: SizeName = Field("tiny", description="Recipe: shape of the network, batch, steps and rates.")
    model: dict[str, Any] = Field(
        default_factory=dict, description="Fields of the network's config; the recipe's where not set."
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    max_steps: int = Field(600, ge=1, description="Optimizer steps.")
    max_minutes: float | None = Field(
        None, gt=0, description="Training time after which the schedule ends early; none: steps alone count."
    )
    batch_size: int = Field(
        16, ge=1, description="Samples (dvae, diffusion) or packed rows (gpt) a step, over all workers."
    )
    accumulation: int = Field(1, ge=1, description="Parts a worker's batch is worked through in.")
    modality: ModalityName = Field("speech", description="Which of the corpus's clips are read.")
    crop: tuple[int, ...] | None = Field(
        None, description="Positions of a training crop of pixels: height and width; of films frames before."
    )
    crop_frames: int = Field(144, ge=16, le=65_536, description="Mel frames of a training crop (dvae, diffusion).")
    speed_jitter: float = Field(
        0.0,
        ge=0,
        le=0.3,
        description="Half of the crops of sound are played faster or slower, pitch and all, by up to this share "
        "(dvae, diffusion, vocoder): more voices out of few.",
    )
    latents: bool = Field(
        False,
        description="Let the network listen to the hidden states of the release's transformer, which knows the text: "
        "clips are then heard whole, and what is heard is kept in memory up to `cache_bytes` (diffusion of speech).",
    )
    context: int = Field(512, ge=32, le=65_536, description="Tokens of a packed row (gpt).")
    layouts: dict[str, float] = Field(
        default_factory=lambda: {"text>speech": 1.0},
        description="Orders of segments and how often each is drawn (gpt).",
    )
    loss_weights: dict[str, float] = Field(
        default_factory=lambda: {"text": 0.1},
        description="Weight of a modality's tokens in the loss; 1 unless named (gpt). Of `mel`, `stft` and "
        "`adversarial` (vocoder; over 0, the last brings discriminators).",
    )
    code_noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the codes of media, not of text, that the transformer is shown wrong as it learns what "
        "comes next: it leans on the rest of the document more, and knows a small corpus by heart later (gpt).",
    )
    side_by_side: bool = Field(
        False,
        description="Position text beside the codes of `tokens`, at as many codes a text piece as these shards have on "
        "average: the network soon finds what it is just now saying. As model.paces does with a number of yours (gpt).",
    )
    validation_share: float = Field(
        0.02, ge=0, lt=0.5, description="Share of the clips kept for validation, by a hash of their id."
    )
    eval_every: int = Field(100, ge=1, description="Steps between evaluations.")
    eval_clips: int = Field(32, ge=1, description="Clips in an evaluation, at most.")
    checkpoint_every_s: float = Field(60.0, gt=0, description="Seconds between checkpoints.")
    log_every: int = Field(10, ge=1, description="Steps between points of the training curve.")
    seed: int = Field(0, ge=0, description="Of weights, order and noise.")
    num_workers: int = Field(1, ge=1, le=4096, description="Data-parallel workers, at most.")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="Workers that are enough to go on with when others are lost, sharing about the same batch; none: "
        "all of them.",
    )
    sharding: Literal["ddp", "fsdp"] = Field(
        "ddp", description="What workers share: ddp gradients; fsdp weights and the optimizer's state too."
    )
    checkpoint_activations: bool = Field(
        False, description="Recompute blocks in the backward pass: less memory, a third more work (gpt)."
    )
    prefetch: int = Field(2, ge=0, le=64, description="Batches read ahead beside the training step (gpt).")
    use_gpu: bool = Field(False, description="One GPU a worker.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of matrix products and convolutions in training; auto: bfloat16 on GPUs and on CPUs with matrix "
        "units for it (Intel's AMX), float32 elsewhere. Weights and averages are float32.",
    )
    threads_per_worker: int | None = Field(
        None, ge=1, description="CPU threads of a worker; none: the cores shared out evenly."
    )
    readers_per_worker: int = Field(
        0, ge=0, le=64, description="Ray Data actors that read crops ahead of a worker; 0: it reads by itself."
    )
    cpus_per_reader: float = Field(
        0, ge=0, description="Cores kept free for such an actor; with 0 it uses what the worker leaves."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile; pays on GPU.")
    max_failures: int = Field(3, ge=-1, description="Restarts after a worker's death before the run ends; -1: no end.")
    cache_bytes: int = Field(2 << 30, ge=1 << 20, description="Memory a worker keeps decoded clips in.")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_recipe(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        recipes, size = RECIPES.get(values.get("stage"), {}), values.get("size", "tiny")
        if recipes and size not in recipes:
            raise ValueError(f"size {size!r}: stage {values['stage']} has {', '.join(recipes)}")
        recipe = recipes.get(size, {})
        filled = recipe | values
        for name in ("model", "optimizer"):
            given = values.get(name, {})
            filled[name] = recipe.get(name, {}) | given if isinstance(given, dict) else given
        return filled

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        wanted = "tokens" if self.stage == "gpt" else "corpus"
        if getattr(self, wanted) is None:
            raise ValueError(f"stage {self.stage} needs {wanted}: give the URI of the {wanted}")
        axes = CROP_AXES.get(self.modality)
        if (
            self.stage in ("dvae", "diffusion")
            and axes
            and (self.crop is None or len(self.crop) != axes or min(self.crop) < 1)
        ):
            raise ValueError(f"crop {self.crop}: modality {self.modality} needs {axes} numbers, as in crop=[32,32]")
        if self.batch_size % (self.num_workers * self.accumulation):
            raise ValueError(
                f"batch_size {self.batch_size}: must be a multiple of num_workers x accumulation, "
                f"{self.num_workers * self.accumulation}"
            )
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers}: at most num_workers, {self.num_workers}")
        if self.side_by_side and self.init_from is not None:
            raise ValueError("side_by_side: positions are those of init_from's network; leave it out")
        if self.latents and (self.stage, self.modality) != ("diffusion", "speech"):
            raise ValueError(f"latents: for diffusion of speech alone, this is {self.stage} of {self.modality}")
        if self.latents and (self.readers_per_worker or self.speed_jitter):
            raise ValueError(
                f"latents with readers_per_worker {self.readers_per_worker} and speed_jitter {self.speed_jitter}: "
                "clips are heard whole and as they are; set both to 0"
            )
        if self.sharding == "fsdp" and self.stage != "gpt":
            raise ValueError(f"sharding fsdp: stage {self.stage} is small and trains with ddp")
        if not self.layouts or min(self.layouts.values()) < 0 or not sum(self.layouts.values()):
            raise ValueError(f"layouts {self.layouts}: give at least one with a weight over 0")
        return self

    @property
    def batch_per_worker(self) -> int:
        return self.batch_size // self.num_workers

    def for_workers(self, num_workers: int) -> TrainConfig:
        """The same for as many as are there: where workers were lost, with the nearest batch that they can share."""
        parts = num_workers * self.accumulation
        batch_size = parts * max(1, round(self.batch_size / parts))
        changed = {"num_workers": num_workers, "min_workers": None, "batch_size": batch_size}
        return TrainConfig.model_validate(self.model_dump() | changed)

    def anywhere(self) -> TrainConfig:
        """The same with absolute folders, for workers and jobs that have a working folder of their own."""
        places = {name: getattr(self, name) for name in ("corpus", "release", "runs", "tokens", "init_from")}
        found: dict[str, Any] = {name: storage.absolute(uri) for name, uri in places.items() if uri is not None}
        found["more_tokens"] = tuple(storage.absolute(uri) for uri in self.more_tokens)
        return self.model_copy(update=found)

    def run_name(self, inputs: dict[str, str]) -> str:
        """The stage and a hash of what decides the result: a run with the same name continues, another begins anew.

        ``inputs`` are hashes of what is read: the corpus or shards, the dVAE.
        """
        ignored = {
            "runs",
            "release",
            "corpus",
            "tokens",
            "more_tokens",
            "min_workers",
            "prefetch",
            "max_failures",
            "cache_bytes",
            "checkpoint_every_s",
            "threads_per_worker",
            "readers_per_worker",
            "cpus_per_reader",
        }
        text = json.dumps([self.model_dump(mode="json", exclude=ignored), inputs], sort_keys=True)
        return f"{self.stage}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


SPEECH_DVAE: dict[str, Any] = {
    "folded": True,
    "hidden": 256,
    "num_blocks": 6,
    "quantizer": "ema-vq",
    "codebook_size": 8192,
    "codebook_dim": 16,
}
"""All work at the rate of the codes, so that an hour of two cores suffices; see the README for what it reaches."""

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "dvae": {
        "tiny": {"model": SPEECH_DVAE, "batch_size": 16, "max_steps": 2000},
        # Wider, and with dropout: twenty minutes of one voice are soon learnt by heart
        "small": {"model": SPEECH_DVAE | {"hidden": 320, "dropout": 0.2}, "batch_size": 16, "max_steps": 6000},
        "medium": {
            "model": {"hidden": 512, "stem": 256, "num_blocks": 12, "num_outer_blocks": 2},
            "batch_size": 64,
            "max_steps": 200_000,
            "optimizer": {"learning_rate": 5e-4, "warmup_steps": 1000, "ema_decay": 0.9995},
        },
        # TorToiSe's: 8192 codes, hidden 512, 3 residual blocks, EMA-VQ
        "tortoise": {
            "model": {"hidden": 512, "stem": 512, "num_blocks": 3, "quantizer": "ema-vq", "codebook_size": 8192},
            "batch_size": 256,
            "max_steps": 500_000,
            "optimizer": {"learning_rate": 3e-4, "warmup_steps": 1000, "ema_decay": 0.9995},
        },
        # DALL-E's: 256 x 256 pixels to 32 x 32 of 8192 codes, two blocks at each rate, Gumbel-softmax
        "dall-e": {
            "modality": "image",
            "crop": [256, 256],
            "model": {
                "compression": [8, 8],
                "hidden": 2048,
                "stem": 256,
                "num_blocks": 2,
                "num_outer_blocks": 2,
                "dilation_cycle": [1],
                "quantizer": "gumbel",
                "codebook_size": 8192,
            },
            "batch_size": 512,
            "max_steps": 3_000_000,
            "optimizer": {"learning_rate": 1e-4, "warmup_steps": 5000, "ema_decay": 0.999},
        },
    },
    "gpt": {
        "tiny": {
            "model": {"num_layers": 4, "width": 192, "num_heads": 3, "dropout": 0.1},
            "batch_size": 1,
            "context": 1024,
            "max_steps": 200,
        },
        "small": {
            "model": {"num_layers": 8, "width": 384, "num_heads": 6},
            "batch_size": 4,
            "context": 1024,
            "max_steps": 5000,
        },
        "medium": {
            "model": {"num_layers": 16, "width": 768, "num_heads": 12},
            "batch_size": 64,
            "context": 2048,
            "max_steps": 200_000,
            "optimizer": {"learning_rate": 6e-4, "warmup_steps": 1000, "ema_decay": 0.9995, "weight_decay": 0.1},
        },
        # TorToiSe's: 30 layers of 1024 channels and 16 heads
        "tortoise": {
            "model": {"num_layers": 30, "width": 1024, "num_heads": 16},
            "batch_size": 256,
            "context": 2048,
            "max_steps": 500_000,
            "optimizer": {"learning_rate": 3e-4, "warmup_steps": 2000, "ema_decay": 0.9999, "weight_decay": 0.1},
        },
    },
    "diffusion": {
        "tiny": {"model": {"hidden": 128, "num_blocks": 8}, "batch_size": 8, "max_steps": 600},
        "small": {"model": {"hidden": 320, "num_blocks": 14}, "batch_size": 16, "max_steps": 5000},
        "medium": {
            "model": {"hidden": 512, "num_blocks": 20},
            "batch_size": 64,
            "max_steps": 200_000,
            "optimizer": {"learning_rate": 4e-4, "warmup_steps": 1000, "ema_decay": 0.9995},
        },
        "tortoise": {
            "model": {"hidden": 1024, "num_blocks": 24},
            "batch_size": 256,
            "max_steps": 500_000,
            "optimizer": {"learning_rate": 2e-4, "warmup_steps": 2000, "ema_decay": 0.9999},
        },
    },
    "vocoder": {
        "tiny": {
            "model": {"hidden": 192, "inner": 512, "num_blocks": 5},
            "batch_size": 8,
            "crop_frames": 65,
            "max_steps": 1500,
        },
        "small": {
            "model": {"hidden": 256, "inner": 768, "num_blocks": 6},
            "batch_size": 16,
            "crop_frames": 65,
            "max_steps": 20_000,
            "loss_weights": {"adversarial": 0.1},
        },
        # The published network's widths, here and in the next
        "medium": {
            "model": {"hidden": 512, "inner": 1536, "num_blocks": 8},
            "batch_size": 32,
            "crop_frames": 65,
            "max_steps": 300_000,
            "loss_weights": {"adversarial": 0.1},
            "optimizer": {"learning_rate": 5e-4, "warmup_steps": 1000, "ema_decay": 0.9995},
        },
        "tortoise": {
            "model": {"hidden": 512, "inner": 1536, "num_blocks": 8},
            "batch_size": 64,
            "crop_frames": 65,
            "max_steps": 1_000_000,
            "loss_weights": {"adversarial": 0.1},
            "optimizer": {"learning_rate": 5e-4, "warmup_steps": 1000, "ema_decay": 0.9995},
        },
    },
}
"""What has run: ``tiny`` in the demo. The larger ones take their widths from the literature and wait for larger
machines.
"""
