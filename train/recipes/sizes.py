"""Parameters and codes of the dVAE's named sizes, counted on a network of each."""

from __future__ import annotations

from typing import Any, NamedTuple

from triforce.ingest.media.pixels import PIXEL_MODALITIES
from triforce.ingest.text_tables import format_table
from triforce.models.audio.mel import MelConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.train.recipes.dvae import RECIPES


class Preset(NamedTuple):
    """A named size of the dVAE."""

    name: str
    num_parameters: int
    num_codes: int
    compression: tuple[int, ...]
    quantizer: str
    modality: str


def dvae_presets() -> list[Preset]:
    """Every named size, with the shape of its recipe."""
    return [describe(name, recipe.get("modality", "speech"), recipe["model"]) for name, recipe in RECIPES.items()]


def describe(name: str, modality: str, model: dict[str, Any]) -> Preset:
    """Count the parameters of a dVAE of these settings for the modality."""
    channels = 3 if modality in PIXEL_MODALITIES else MelConfig().num_mels
    config = DVAEConfig.model_validate({"channels": channels} | model)
    num_parameters = sum(parameter.numel() for parameter in DVAE(config).parameters())
    return Preset(name, num_parameters, config.num_codes, config.compression, config.quantizer, modality)


def presets_table(presets: list[Preset]) -> str:
    """Return the sizes as lines of text."""
    rows = [
        (
            preset.name,
            f"{preset.num_parameters:,}",
            preset.num_codes,
            " x ".join(map(str, preset.compression)),
            preset.quantizer,
            preset.modality,
        )
        for preset in presets
    ]
    head = ("size", "parameters", "codes", "positions per code", "quantizer", "for")
    return format_table(head, rows, left=(0, 3, 4, 5))
