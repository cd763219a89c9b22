"""Write a release's networks in bfloat16, the GPT in int8: ``python -m triforce.flows.examples.narrator.shrink A B``.

Half the bytes, and a quarter for the GPT, which draws in int8 anyway. Statistics and other vectors stay float32; cards
stay as they are, but that folders of the machine that trained are known by their last name alone. Curves are left out.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from triforce.models.blocks.int8 import to_int8
from triforce.models.release_files import from_int8
from triforce.train.config import FOLDERS

IN_INT8 = frozenset({"gpt"})
"""Stages whose weights are written in int8."""


def shrink(release: Path, small: Path) -> int:
    """Copy ``release`` to ``small`` with matrices and filters in bfloat16, and return the bytes of all weights."""
    total = 0
    for card in sorted(release.glob("*/config.json")):
        folder = small / card.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for path in card.parent.iterdir():
            if path.suffix not in (".safetensors", ".jsonl"):
                shutil.copy(path, folder / path.name)
        public = without_folders(json.loads(card.read_text()))
        (folder / card.name).write_text(json.dumps(public, indent=1, sort_keys=True))
        small_tensors: dict[str, torch.Tensor] = {}
        for name, tensor in from_int8(load_file(card.parent / "model.safetensors")).items():
            wide = tensor.ndim > 1 and tensor.is_floating_point()
            if wide and card.parent.name in IN_INT8:
                small_tensors[name], small_tensors[f"{name}.scale"] = to_int8(tensor)
            else:
                small_tensors[name] = tensor.to(torch.bfloat16) if wide else tensor
        save_file(small_tensors, folder / "model.safetensors")
        total += (folder / "model.safetensors").stat().st_size
    return total


def without_folders(card: Any) -> Any:
    """Return a card whose folders are their last names."""
    if isinstance(card, list):
        return [without_folders(each) for each in card]
    if not isinstance(card, dict):
        return card
    return {
        key: value.rstrip("/").rsplit("/", 1)[-1]
        if key in FOLDERS and isinstance(value, str)
        else without_folders(value)
        for key, value in card.items()
    }


if __name__ == "__main__":
    print(shrink(Path(sys.argv[1]), Path(sys.argv[2])), "bytes")
