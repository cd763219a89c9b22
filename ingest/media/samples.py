"""The one conversion between 16-bit samples and floats: full scale is 32768, so every integer comes back as it was."""

from __future__ import annotations

import numpy as np

FULL_SCALE = 32768.0


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Round floats in [-1, 1], of any shape, to int16; what lies outside is clipped."""
    return np.clip(np.rint(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def to_float32(samples: np.ndarray) -> np.ndarray:
    """Scale int16, of any shape, to float32 in [-1, 1)."""
    return samples.astype(np.float32) / FULL_SCALE
