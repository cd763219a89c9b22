"""Named sizes of the vocoder."""

from __future__ import annotations

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
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
    # Not run yet. The published network's widths, here and in the next
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
}
