"""Named sizes of the diffusion network."""

from __future__ import annotations

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    # Runs in the demo and in CI
    "tiny": {"model": {"hidden": 128, "num_blocks": 8}, "batch_size": 8, "max_steps": 600, "whole_clips": True},
    "small": {"model": {"hidden": 320, "num_blocks": 14}, "batch_size": 16, "max_steps": 5000, "whole_clips": True},
    # Not run yet, like the next: widths from the literature
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
}
