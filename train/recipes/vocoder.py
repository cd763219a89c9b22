"""Named sizes of the vocoder."""

from __future__ import annotations

from typing import Any

ADVERSARIAL: dict[str, Any] = {
    "crop_frames": 64,
    "loss_weights": {"adversarial": 0.1, "features": 2.0},
    "periods": (2, 3, 5, 7, 11),
}
RATES = {"warmup_steps": 200, "beta1": 0.8, "beta2": 0.99, "max_grad_norm": 10.0, "ema_decay": 0.999}

RECIPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "model": {"hidden": 192, "inner": 512, "num_blocks": 5},
        "batch_size": 8,
        "crop_frames": 65,
        "max_steps": 1500,
    },
    # 1.9 M parameters, for a GPU's minutes
    "small": ADVERSARIAL
    | {
        "model": {"hidden": 192, "inner": 576, "num_blocks": 6, "harmonics": True},
        "batch_size": 32,
        "max_steps": 20_000,
        "optimizer": RATES | {"learning_rate": 7e-4},
    },
    # Not run yet. The published network's widths, here and in the next
    "medium": ADVERSARIAL
    | {
        "model": {"hidden": 512, "inner": 1536, "num_blocks": 8},
        "batch_size": 32,
        "max_steps": 300_000,
        "optimizer": RATES | {"learning_rate": 5e-4, "warmup_steps": 1000, "ema_decay": 0.9995},
    },
    "tortoise": ADVERSARIAL
    | {
        "model": {"hidden": 512, "inner": 1536, "num_blocks": 8},
        "batch_size": 64,
        "max_steps": 1_000_000,
        "optimizer": RATES | {"learning_rate": 5e-4, "warmup_steps": 1000, "ema_decay": 0.9995},
    },
}
