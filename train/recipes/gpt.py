"""Named sizes of the GPT."""

from __future__ import annotations

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    # Runs in the demo and in CI
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
    # Not run yet
    "medium": {
        "model": {"num_layers": 16, "width": 768, "num_heads": 12},
        "batch_size": 64,
        "context": 2048,
        "max_steps": 200_000,
        "optimizer": {"learning_rate": 6e-4, "warmup_steps": 1000, "ema_decay": 0.9995, "weight_decay": 0.1},
    },
    # Not run yet. TorToiSe's: 30 layers of 1024 channels and 16 heads
    "tortoise": {
        "model": {"num_layers": 30, "width": 1024, "num_heads": 16},
        "batch_size": 256,
        "context": 2048,
        "max_steps": 500_000,
        "optimizer": {"learning_rate": 3e-4, "warmup_steps": 2000, "ema_decay": 0.9999, "weight_decay": 0.1},
    },
}
