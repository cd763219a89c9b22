"""The files of a release: weights, cards and hashes of each stage."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import fsspec
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from triforce.models.audio.vocos import Vocos, VocosConfig
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.gpt import GPT, GPTConfig
from triforce.models.text import TextTokenizer

FORMAT = 1
STAGES = ("dvae", "gpt", "diffusion")
VOCODER = "vocoder"
"""A release may hold one; without it Griffin-Lim speaks."""
MODELS: dict[str, tuple[type, type]] = {
    "dvae": (DVAE, DVAEConfig),
    "gpt": (GPT, GPTConfig),
    "diffusion": (Diffusion, DiffusionConfig),
    VOCODER: (Vocos, VocosConfig),
}


@dataclass(frozen=True)
class Stage:
    """One trained network with what its ``config.json`` says."""

    model: nn.Module
    card: dict[str, Any]

    @property
    def hash(self) -> str:
        return self.card["hash"]


def stage_files(
    stage: str, model: nn.Module, card: dict[str, Any], tokenizer: TextTokenizer | None = None
) -> dict[str, bytes]:
    """The files of a stage by name, in the order to write them: ``config.json``, the marker that the stage is whole,
    comes last.

    ``card`` is what else is to be known of the network: its training, its data, ``mel`` for the dVAE, ``dvae_hash``
    for the others.
    """
    weights = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in unique_tensors(model).items()})
    config = json.loads(model.config.model_dump_json())
    identity = json.dumps({"stage": stage, "model": config, "mel": card.get("mel")}, sort_keys=True).encode()
    digest = hashlib.sha256(identity + hashlib.sha256(weights).digest()).hexdigest()
    card = {"format": FORMAT, "stage": stage, "hash": digest, "model": config} | card
    files = {"model.safetensors": weights}
    if tokenizer is not None:
        files["tokenizer.json"] = tokenizer.to_json().encode()
    return files | {"config.json": json.dumps(card, indent=1, sort_keys=True).encode()}


def unique_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state without names for a tensor that is there already: safetensors stores no shared memory."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or not tensor.numel():
            tensors[name] = tensor
            seen.add(tensor.data_ptr())
    return tensors


def load_unique(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Load what `unique_tensors` gave; anything else missing or left over is an error."""
    expected = set(unique_tensors(model))
    if expected != set(tensors):
        difference = sorted(expected ^ set(tensors))[:4]
        raise ValueError(
            f"weights do not fit the config: {', '.join(difference)} missing or left over; was one of the two "
            f"files replaced?"
        )
    model.load_state_dict(tensors, strict=False)


def load_card(uri: str, stage: str) -> dict[str, Any] | None:
    """What ``config.json`` of a stage says, without its weights; None where the stage is not trained yet."""
    fs, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    path = f"{root.rstrip('/')}/{stage}/config.json"
    if not fs.exists(path):
        return None
    card = json.loads(fs.cat_file(path))
    if card.get("format") != FORMAT or card.get("stage") != stage:
        raise ValueError(
            f"{uri}/{stage}/config.json: format {card.get('format')} of a {card.get('stage')}; "
            f"this version reads format {FORMAT}"
        )
    return card


def load_stage(uri: str, stage: str, device: str | torch.device = "cpu") -> Stage | None:
    """A stage of the release at ``uri``, or None where it is not trained yet."""
    card = load_card(uri, stage)
    if card is None:
        return None
    fs, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    model_class, config_class = MODELS[stage]
    model = model_class(config_class.model_validate(card["model"]))
    load_unique(model, load_tensors(fs.cat_file(f"{root.rstrip('/')}/{stage}/model.safetensors")))
    return Stage(model.to(device).eval().requires_grad_(False), card)


def require_dvae(uri: str, device: str | torch.device = "cpu") -> Stage:
    """The dVAE of a release, which everything else stands on."""
    stage = load_stage(uri, "dvae", device)
    if stage is None:
        raise FileNotFoundError(
            f"{uri}: no dvae/config.json here; train one with `triforce train dvae`, or name another release"
        )
    return stage


def load_tokenizer_of(uri: str) -> TextTokenizer:
    """The text tokenizer of a release's GPT."""
    fs, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    path = f"{root.rstrip('/')}/gpt/tokenizer.json"
    if not fs.exists(path):
        raise FileNotFoundError(f"{uri}: no gpt/tokenizer.json here; train one with `triforce train gpt`")
    return TextTokenizer(fs.cat_file(path).decode())
