"""The files of a release: what one network's files hold, its hash, and how it is loaded.

Layout below a release URI: ``dvae/``, ``gpt/``, ``diffusion/`` and, where one was fitted, ``vocoder/``, each with
``model.safetensors`` and ``config.json`` (the card); ``gpt/`` also holds the text ``tokenizer.json``. ``config.json``
is written last. The diffusion network names the hash of the dVAE that it was trained on, the GPT that of its codes. The
URI ``voice`` names the release that comes along (`models/voice`). Weights in bfloat16 are read into float32.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast, overload

import fsspec
import torch
from pydantic import BaseModel
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from triforce.models.audio.vocos import Vocos, VocosConfig
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.gpt import GPT, GPTConfig
from triforce.models.reading.front_end import FrontEnd, load_front_end
from triforce.models.voice.bundled import located

FORMAT = 1
"""Version of the files' format."""
ADDED: dict[str, Any] = {
    **{"pointer": False, "interleaves": None, "reading_units": "words"},
    **{"upsample": 1, "num_codes": 0, "num_pieces": 0},
}
"""Fields of configs that came later, each hashed only where it is not what networks without it had."""
STAGES = ("dvae", "gpt", "diffusion")
"""Networks of a release, in the order in which they are trained."""
VOCODER = "vocoder"
"""Optional fourth network; without it Griffin-Lim is the vocoder."""
MODELS: dict[str, tuple[type[nn.Module], type[BaseModel]]] = {
    "dvae": (DVAE, DVAEConfig),
    "gpt": (GPT, GPTConfig),
    "diffusion": (Diffusion, DiffusionConfig),
    VOCODER: (Vocos, VocosConfig),
}


ModelT = TypeVar("ModelT", bound=nn.Module, covariant=True)


@dataclass(frozen=True)
class TrainedNetwork(Generic[ModelT]):
    """One trained network with its card, the content of its ``config.json``."""

    model: ModelT
    card: dict[str, Any]

    @property
    def hash(self) -> str:
        """SHA-256 over the stage, the model's config and its weights."""
        return self.card["hash"]

    @property
    def codes_hash(self) -> str:
        """Hash of the dVAE whose codes these are; see `codes_hash`."""
        return codes_hash(self.card)


def codes_hash(card: dict[str, Any]) -> str:
    """Return the hash of the dVAE whose encoder and quantizer this dVAE has: its own, or that of the network that it
    continues with a new decoder. Token shards and GPTs name it as ``dvae_hash``, for they depend on codes alone.
    """
    return card.get("codes_hash", card["hash"])


def stage_files(
    stage: str, model: nn.Module, card: dict[str, Any], tokenizer: FrontEnd | None = None
) -> dict[str, bytes]:
    """Return a network's files by name, in the order to write them; ``config.json``, which marks the network as
    complete, comes last.

    ``card`` holds what else ``config.json`` says: the training, the data, ``mel`` for the dVAE and the vocoder,
    ``shrink`` for a dVAE that sees its medium at a coarser scale, ``dvae_hash`` for the others.
    """
    weights = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in unique_tensors(model).items()})
    config = json.loads(cast(BaseModel, model.config).model_dump_json())
    hashed = _without_added(config)
    front_end = {"mel": card.get("mel")} | ({"shrink": card["shrink"]} if card.get("shrink", 1) > 1 else {})
    identity = json.dumps({"stage": stage, "model": hashed} | front_end, sort_keys=True).encode()
    digest = hashlib.sha256(identity + hashlib.sha256(weights).digest()).hexdigest()
    card = {"format": FORMAT, "stage": stage, "hash": digest, "model": config} | card
    files = {"model.safetensors": weights}
    if tokenizer is not None:
        files["tokenizer.json"] = tokenizer.to_json().encode()
    return files | {"config.json": json.dumps(card, indent=1, sort_keys=True).encode()}


def _without_added(config: Any) -> Any:
    """Return a config without the fields in `ADDED` that are as they were before they came."""
    if isinstance(config, dict):
        kept = {key: value for key, value in config.items() if key not in ADDED or value != ADDED[key]}
        return {key: _without_added(value) for key, value in kept.items()}
    return [_without_added(value) for value in config] if isinstance(config, list) else config


def unique_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state without second names of one tensor, because safetensors stores no shared memory."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or not tensor.numel():
            tensors[name] = tensor
            seen.add(tensor.data_ptr())
    return tensors


def from_int8(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights in which those that are stored as int8, with their steps as ``NAME.scale``, are numbers again."""
    whole = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.int8:
            tensor = tensor.float() * tensors[f"{name}.scale"].view(-1, *[1] * (tensor.ndim - 1))
        elif name.endswith(".scale") and tensors.get(name.removesuffix(".scale"), tensor).dtype == torch.int8:
            continue
        whole[name] = tensor
    return whole


def load_unique(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Load what `unique_tensors` returned; raises ValueError where tensors are missing or left over."""
    expected = set(unique_tensors(model))
    if expected != set(tensors):
        difference = sorted(expected ^ set(tensors))[:4]
        raise ValueError(
            f"weights do not fit the config: {', '.join(difference)} missing or left over; was one of the two "
            f"files replaced?"
        )
    model.load_state_dict(tensors, strict=False)


def load_card(uri: str, stage: str) -> dict[str, Any] | None:
    """Return the card of a stage (its ``config.json``) without loading weights; None where it is not trained yet.

    Raises ValueError for a card of another format or stage.
    """
    fs, root = fsspec.core.url_to_fs(located(uri), use_listings_cache=False)
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


@overload
def load_stage(uri: str, stage: Literal["dvae"], device: str | torch.device = "cpu") -> TrainedNetwork[DVAE] | None: ...
@overload
def load_stage(uri: str, stage: Literal["gpt"], device: str | torch.device = "cpu") -> TrainedNetwork[GPT] | None: ...
@overload
def load_stage(
    uri: str, stage: Literal["diffusion"], device: str | torch.device = "cpu"
) -> TrainedNetwork[Diffusion] | None: ...
@overload
def load_stage(
    uri: str, stage: Literal["vocoder"], device: str | torch.device = "cpu"
) -> TrainedNetwork[Vocos] | None: ...


def load_stage(uri: str, stage: str, device: str | torch.device = "cpu") -> TrainedNetwork[nn.Module] | None:
    """Load a network of the release at ``uri``, frozen and in evaluation mode; None where it is not trained yet."""
    card = load_card(uri, stage)
    if card is None:
        return None
    fs, root = fsspec.core.url_to_fs(located(uri), use_listings_cache=False)
    model_class, config_class = MODELS[stage]
    model = model_class(config_class.model_validate(card["model"]))
    load_unique(model, from_int8(load_tensors(fs.cat_file(f"{root.rstrip('/')}/{stage}/model.safetensors"))))
    return TrainedNetwork(model.to(device).eval().requires_grad_(False), card)


def require_dvae(uri: str, device: str | torch.device = "cpu") -> TrainedNetwork[DVAE]:
    """Load the dVAE of a release; raises FileNotFoundError where it has none."""
    dvae = load_stage(uri, "dvae", device)
    if dvae is None:
        raise FileNotFoundError(
            f"{uri}: no dvae/config.json here; train one with `triforce train dvae`, or name another release"
        )
    return dvae


def load_tokenizer_of(uri: str) -> FrontEnd:
    """Load the text front end of a release's GPT; raises FileNotFoundError where there is none."""
    fs, root = fsspec.core.url_to_fs(located(uri), use_listings_cache=False)
    path = f"{root.rstrip('/')}/gpt/tokenizer.json"
    if not fs.exists(path):
        raise FileNotFoundError(f"{uri}: no gpt/tokenizer.json here; train one with `triforce train gpt`")
    return load_front_end(fs.cat_file(path).decode())
