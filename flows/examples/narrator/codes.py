"""The codes of a pack's clips, by a release's dVAE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from triforce.models.quantize import perplexity
from triforce.models.release_files import require_dvae
from triforce.train.data.packed.pack import Pack
from triforce.train.data.packed.whole import whole_clips

BATCH_FRAMES = 1 << 17
"""Frames of a batch, padding included: 23 minutes of speech."""


@torch.inference_mode()
def write_codes(pack: Pack, release: str, path: Path, device: torch.device) -> dict[str, float]:
    """Encode every clip of ``pack`` and write ``codes`` and ``bounds`` into ``path``, an ``.npz``; return how many
    codes there are, how many of the codebook occur, and the perplexity of their use. Encoding is in float32, TF32 off.
    """
    dvae = require_dvae(release, device).model
    grids = -(-np.diff(pack.bounds) // dvae.config.compression[0])
    starts = np.concatenate([[0], np.cumsum(grids)])
    codes = np.zeros(starts[-1], np.uint16)
    mels = torch.from_numpy(np.array(pack.mels)).to(device)
    with torch.backends.cudnn.flags(allow_tf32=False, benchmark=False):
        for chosen, mel, sizes in whole_clips(pack, mels, BATCH_FRAMES):
            found = dvae.encode(mel, sizes).cpu().numpy()
            for row, clip in enumerate(chosen):
                codes[starts[clip] : starts[clip + 1]] = found[row, : grids[clip]]
    np.savez(path, codes=codes, bounds=starts)
    counts = torch.from_numpy(np.bincount(codes, minlength=dvae.config.num_codes))
    return {"num_codes": len(codes), "used": int((counts > 0).sum()), "perplexity": perplexity(counts)}


def read_codes(path: Path) -> list[np.ndarray]:
    """The codes ``(K,)`` of each clip."""
    with np.load(path) as arrays:
        return np.split(arrays["codes"], arrays["bounds"][1:-1])
