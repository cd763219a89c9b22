"""Write a release's networks in bfloat16: ``python -m triforce.flows.examples.narrator.shrink RELEASE SMALL``.

Half the bytes; cards stay as they are. Statistics and other vectors stay float32.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def shrink(release: Path, small: Path) -> int:
    """Copy ``release`` to ``small`` with matrices and filters in bfloat16, and return the bytes of all weights."""
    total = 0
    for card in sorted(release.glob("*/config.json")):
        folder = small / card.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for path in card.parent.iterdir():
            if path.suffix != ".safetensors":
                shutil.copy(path, folder / path.name)
        tensors = load_file(card.parent / "model.safetensors")
        halved = {
            name: tensor.to(torch.bfloat16) if tensor.ndim > 1 and tensor.dtype == torch.float32 else tensor
            for name, tensor in tensors.items()
        }
        save_file(halved, folder / "model.safetensors")
        total += (folder / "model.safetensors").stat().st_size
    return total


if __name__ == "__main__":
    print(shrink(Path(sys.argv[1]), Path(sys.argv[2])), "bytes")
