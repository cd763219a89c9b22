"""``triforce draw``: a picture of a text as a PNG file, or all candidates side by side, the best first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from triforce.ingest import storage
from triforce.ingest.media.pixels import encode_png, from_planes
from triforce.models.decoding.precision import Compiled, Precision
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.pictures.draw import RESTORED_AS, Drawing, draw_picture
from triforce.models.release import Release

GAP = 4
"""White pixels between the pictures of a grid."""


class DrawConfig(BaseModel):
    """How a picture is drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampling: SamplingConfig = Field(
        SamplingConfig(num_candidates=8), description="How codes are drawn; what is not set is the release's own."
    )
    sampler: SamplerConfig = Field(RESTORED_AS, description="How the diffusion network restores the decode.")
    seed: int = Field(0, ge=0, description="Seed; another number gives other pictures.")
    grid: bool = Field(False, description="All candidates side by side, the best first, in place of the best alone.")


def draw_to_file(
    release_uri: str,
    text: str,
    out: Path,
    config: DrawConfig | None = None,
    *,
    device: str = "cpu",
    precision: Precision = "auto",
    compiled: Compiled = "auto",
) -> Drawing:
    """Draw ``text`` by a release into the PNG file ``out``, and return all of it.

    ``device``, ``precision`` and ``compiled`` as in `Release.load`. Raises ValueError for another kind of file, for a
    text without words, and where the release draws no pictures.
    """
    config = config or DrawConfig()
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: pictures are written as .png")
    drawing = draw_picture(
        Release.load(release_uri, device=device, precision=precision, compiled=compiled),
        text,
        seed=config.seed,
        sampling=config.sampling,
        sampler=config.sampler,
        num_restored=None if config.grid else 1,
    )
    pictures = [from_planes(planes.cpu().numpy()) for planes in drawing.pictures]
    storage.write_bytes(out, encode_png(side_by_side(pictures) if config.grid else pictures[0]))
    return drawing


def side_by_side(pictures: Sequence[np.ndarray], columns: int | None = None) -> np.ndarray:
    """Return pictures ``(H, W, 3)`` uint8 in rows of ``columns``, by default about as many as there are rows, on white.

    Raises ValueError where there is none.
    """
    if not pictures:
        raise ValueError("no pictures to put side by side; give at least one")
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    rows = -(-len(pictures) // columns)
    shape = (rows * (height + GAP) - GAP, min(columns, len(pictures)) * (width + GAP) - GAP, 3)
    sheet = np.full(shape, 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = (number // columns) * (height + GAP), (number % columns) * (width + GAP)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet
