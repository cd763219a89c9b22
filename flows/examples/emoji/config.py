"""The settings of `triforce emoji`, and the recipes of its three networks."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from triforce.flows.examples.emoji.data import VALIDATION_SHARE


class EmojiConfig(BaseModel):
    """How long each network is trained, and how many answers are judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float = Field(55.0, gt=0, description="Time that all steps are to take together, on two cores.")
    dvae_share: float = Field(0.16, gt=0, lt=1, description="Share of it for training the dVAE.")
    gpt_share: float = Field(0.38, gt=0, lt=1, description="Share of it for training the GPT.")
    diffusion_share: float = Field(
        0.20, gt=0, lt=1, description="Share of it for training the diffusion network; what is left is for the rest."
    )
    num_seen: int = Field(120, ge=1, description="Seen names that are drawn, and pictures of them that are restored.")
    num_combinations: int = Field(150, ge=1, description="Unseen combinations that are drawn and described, at most.")
    num_concepts: int = Field(100, ge=0, description="Pictures of unseen concepts that are restored and drawn.")
    candidates: int = Field(8, ge=1, le=64, description="Pictures drawn for each name, of which the best is taken.")
    temperature: float = Field(0.6, ge=0, le=2, description="Sampling temperature of codes.")
    guidance: float = Field(3.0, ge=1, le=10, description="Guidance of drawing by the text.")
    diffusion_steps: int = Field(8, ge=1, le=100, description="Steps of the diffusion network's sampler.")
    diffusion_temperature: float = Field(
        1.0,
        ge=0,
        le=2,
        description="Noise that it starts from, of what training saw; less is smoother, and forgives short training.",
    )
    threads: int | None = Field(None, ge=1, description="Threads of training; none: all cores.")
    seed: int = Field(0, ge=0, description="Seed of all that is drawn.")

    @model_validator(mode="after")
    def _check_shares(self) -> EmojiConfig:
        total = self.dvae_share + self.gpt_share + self.diffusion_share
        if total > 0.95:
            raise ValueError(f"dvae_share + gpt_share + diffusion_share {total:.2f}: at most 0.95, the rest takes time")
        return self


def dvae_recipe(config: EmojiConfig) -> dict[str, Any]:
    """Settings of the dVAE: 64 x 64, the average of 2 x 2 stored pixels, to 8 x 8 codes."""
    return {
        "stage": "dvae",
        "modality": "image",
        "shrink": 2,
        "crop": (128, 128),
        "batch_size": 16,
        # Not folded: nearer at as many pictures (train/README.md), and flat areas show no cells
        "model": {
            "folded": False,
            "stem": 32,
            "hidden": 256,
            "num_blocks": 2,
            "num_outer_blocks": 0,
            "compression": (8, 8),
            "quantizer": "ema-vq",
            "codebook_size": 1024,
        },
        "max_minutes": config.dvae_share * config.minutes,
        "optimizer": {"learning_rate": 2e-3},
    }


def gpt_recipe(config: EmojiConfig) -> dict[str, Any]:
    """Settings of the GPT that draws and describes."""
    return {
        "stage": "gpt",
        "layouts": {"text>image": 2.0, "image>text": 1.0},
        "loss_weights": {"text": 1.0},
        "text_dropout": 0.1,
        "code_noise": 0.05,
        "model": {"num_layers": 6, "width": 256, "num_heads": 4, "dropout": 0.1},
        "context": 512,
        "batch_size": 8,
        "max_minutes": config.gpt_share * config.minutes,
        "optimizer": {"learning_rate": 2e-3, "warmup_steps": 100, "weight_decay": 0.05},
    }


def diffusion_recipe(config: EmojiConfig) -> dict[str, Any]:
    """Settings of the diffusion network: the decode at 64 x 64 to pictures of 128 x 128."""
    return {
        "stage": "diffusion",
        "modality": "image",
        "crop": (128, 128),
        "batch_size": 8,
        "model": {
            "fold": 4,
            "hidden": 128,
            "num_blocks": 6,
            "dilation_cycle": (1, 2, 4),
            "skip": True,
            "prior_dropout": 0.0,
        },
        "max_minutes": config.diffusion_share * config.minutes,
        "optimizer": {"learning_rate": 2e-3},
    }


def shared_settings(config: EmojiConfig) -> dict[str, Any]:
    """Settings that all stages have."""
    return {
        "validation_share": VALIDATION_SHARE,
        "seed": config.seed,
        "max_steps": 1_000_000,  # the time counts
        "eval_every": 500,
        "eval_clips": 64,
        "log_every": 25,
        "threads_per_worker": config.threads,
    }
