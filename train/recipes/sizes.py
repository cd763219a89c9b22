"""What the dVAE's named sizes come to: parameters and codes, counted on a network of that size."""

from __future__ import annotations

from typing import Any, NamedTuple

from triforce.ingest.media.pixels import PIXEL_MODALITIES
from triforce.models.audio.mel import MelConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.train.config import RECIPES


class Preset(NamedTuple):
    name: str
    num_parameters: int
    num_codes: int
    compression: tuple[int, ...]
    quantizer: str
    modality: str


def dvae_presets() -> list[Preset]:
    """Every named size, as its recipe has it."""
    return [
        describe(name, recipe.get("modality", "speech"), recipe["model"]) for name, recipe in RECIPES["dvae"].items()
    ]


def describe(name: str, modality: str, model: dict[str, Any]) -> Preset:
    """A dVAE of these settings for the modality."""
    channels = 3 if modality in PIXEL_MODALITIES else MelConfig().num_mels
    config = DVAEConfig.model_validate({"channels": channels} | model)
    num_parameters = sum(parameter.numel() for parameter in DVAE(config).parameters())
    return Preset(name, num_parameters, config.num_codes, config.compression, config.quantizer, modality)


def presets_table(presets: list[Preset]) -> str:
    rows = [f"{'size':<10} {'parameters':>12} {'codes':>6}  {'positions per code':<18} {'quantizer':<9} for"]
    rows += [
        f"{preset.name:<10} {preset.num_parameters:>12,} {preset.num_codes:>6}  "
        f"{' x '.join(map(str, preset.compression)):<18} {preset.quantizer:<9} {preset.modality}"
        for preset in presets
    ]
    return "\n".join(rows)
