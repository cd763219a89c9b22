"""Named sizes of the discrete VAE."""

from __future__ import annotations

from typing import Any

SPEECH: dict[str, Any] = {
    "folded": True,
    "hidden": 256,
    "num_blocks": 6,
    "quantizer": "ema-vq",
    "codebook_size": 8192,
    "codebook_dim": 16,
}
"""Folded: all work is done at the rate of the codes, so that an hour of two cores suffices. train/README.md has what it
was measured to reach, beside the shapes that it was chosen over.
"""

RECIPES: dict[str, dict[str, Any]] = {
    # Runs in the demo and in CI
    "tiny": {"model": SPEECH, "batch_size": 16, "max_steps": 2000},
    # Wider, and with dropout: a network of this size overfits twenty minutes of one voice
    "small": {"model": SPEECH | {"hidden": 320, "dropout": 0.2}, "batch_size": 16, "max_steps": 6000},
    # Not run yet; widths between small and tortoise
    "medium": {
        "model": {"hidden": 512, "stem": 256, "num_blocks": 12, "num_outer_blocks": 2},
        "batch_size": 64,
        "max_steps": 200_000,
        "optimizer": {"learning_rate": 5e-4, "warmup_steps": 1000, "ema_decay": 0.9995},
    },
    # Not run yet. TorToiSe's: 8192 codes, hidden 512, 3 residual blocks, EMA-VQ
    "tortoise": {
        "model": {"hidden": 512, "stem": 512, "num_blocks": 3, "quantizer": "ema-vq", "codebook_size": 8192},
        "batch_size": 256,
        "max_steps": 500_000,
        "optimizer": {"learning_rate": 3e-4, "warmup_steps": 1000, "ema_decay": 0.9995},
    },
    # Not run yet. DALL-E's: 256 x 256 pixels to 32 x 32 of 8192 codes, two blocks at each rate, Gumbel-softmax
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
}
