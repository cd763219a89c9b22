"""Which frames of a log-mel are silence, and how much they weigh."""

from __future__ import annotations

import torch

from triforce.models.audio.mel import MelConfig

AUDIBLE_NATS = 2.0
"""A frame whose loudest bin is less than this above the floor is silence, 17 dB over 16-bit rounding noise. Assumed."""
SILENCE_WEIGHT = 0.1
"""Weight of silent frames in the dVAE's loss: a fifth of a talk is pauses, and codes for them are lost to speech."""


def is_audible(mel: torch.Tensor, config: MelConfig) -> torch.Tensor:
    """Whether frames of log-mels ``(..., num_mels, T)`` are not silent, ``(..., 1, T)`` bool."""
    return mel.amax(-2, keepdim=True) > config.log_floor + AUDIBLE_NATS


def speech_weight(mel: torch.Tensor, mask: torch.Tensor, config: MelConfig) -> torch.Tensor:
    """``mask``, with a low weight for the silent frames of log-mels ``(..., num_mels, T)``."""
    audible = is_audible(mel, config).to(mask.dtype)
    return mask * (audible + SILENCE_WEIGHT * (1 - audible))
