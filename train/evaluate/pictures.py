"""Evaluate a release on pictures that it was not trained on: what they lose by their codes and win back by diffusion.

Peak signal-to-noise ratio and structural similarity (scikit-image) say how near the pixels are; a classifier that
learned the corpus's labels from real pictures alone says what can still be recognised, and how far its features move.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from triforce.ingest import storage
from triforce.ingest.corpus.records import Clip
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.pixels import clip_pixels, from_planes
from triforce.ingest.text_tables import format_table
from triforce.models.blocks.scale import area_average, upsample
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.release import Release
from triforce.models.release_files import load_card
from triforce.train.data.order import is_validation
from triforce.train.evaluate.classifier import PictureClassifier
from triforce.train.evaluate.metrics import sharpness

SYSTEMS = ("original", "dvae", "mean", "diffusion")
"""``dvae`` is the decode, interpolated to the original's size where the dVAE sees a coarser one; ``mean`` is the
diffusion network's expected picture, ``diffusion`` a sample."""
SSIM_WINDOW = 7
LEAST_EXAMPLES = 5
"""Training pictures that a label needs for a classifier to be fitted. Assumed."""


class PictureConfig(BaseModel):
    """Which pictures are evaluated, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: SamplerConfig = SamplerConfig(num_steps=8, temperature=1.0)
    limit: int | None = Field(None, ge=1, description="Unseen pictures at most.")
    num_shown: int = Field(12, ge=0, le=100, description="Pictures in the sheet of originals and restorations.")
    max_labels: int = Field(100, ge=2, description="More different texts than these are no labels.")
    classifier_steps: int = Field(600, ge=1, description="Training steps of the classifier.")
    seed: int = Field(0, ge=0, description="Seed of noise and of the classifier.")


@dataclass(frozen=True)
class Picture:
    clip_id: str
    label: str | None
    planes: torch.Tensor
    """``(3, H, W)`` from 0 to 1."""


def evaluate_pictures(release_uri: str, corpus_uri: str, out_uri: str, config: PictureConfig | None = None) -> str:
    """Evaluate the release's networks, write ``pictures.json`` and ``pictures.png`` below ``out_uri``, and return the
    table as text.

    Raises ImportError where the extra ``media`` is missing, ValueError where there is nothing unseen.
    """
    config = config or PictureConfig()
    release = Release.load(release_uri)
    seen, unseen = _split(corpus_uri, _validation_share(release_uri), config.limit)
    made = {name: [] for name in SYSTEMS if release.diffusion is not None or name in ("original", "dvae")}
    for number, picture in enumerate(unseen):
        for name, planes in restorations(release, picture.planes, config, config.seed + number).items():
            made[name].append(planes)
    classifier = _classifier(seen, config)
    rows = {name: _figures(unseen, planes, classifier) for name, planes in made.items()}
    record = {"config": config.model_dump(mode="json"), "num_pictures": len(unseen), "systems": rows}
    storage.write_bytes(storage.join(out_uri, "pictures.json"), json.dumps(record, indent=1).encode())
    storage.write_bytes(storage.join(out_uri, "pictures.png"), _sheet(made, config.num_shown))
    return table(rows, len(unseen))


def restorations(release: Release, planes: torch.Tensor, config: PictureConfig, seed: int) -> dict[str, torch.Tensor]:
    """Restore one picture ``(3, H, W)`` by every system that the release has, cut off at black and white."""
    size = torch.tensor([planes.shape[1:]])
    seen, seen_size = area_average(planes[None], size, release.shrink)
    decoded = release.dvae.decode(release.dvae.encode(seen), seen_size)[0]
    fine = upsample(decoded[None], release.shrink, size, planes.shape[1:])[0]
    found = {"original": planes, "dvae": fine}
    if release.diffusion is not None:
        mean = SamplerConfig(method="mean", num_steps=4)
        found["mean"] = release.restore(decoded, seed=seed, config=mean, size=planes.shape[1:])
        found["diffusion"] = release.restore(decoded, seed=seed, config=config.sampler, size=planes.shape[1:])
    return {name: value.clamp(0, 1) for name, value in found.items()}


def _validation_share(release_uri: str) -> float:
    """Return the share of clips that all of the release's networks kept from training."""
    cards = [card for stage in ("dvae", "diffusion") if (card := load_card(release_uri, stage))]
    if not cards:
        raise FileNotFoundError(f"{release_uri}: no dvae/config.json; train one with `triforce train dvae`")
    modality, shares = cards[0].get("modality"), {card["training"]["validation_share"] for card in cards}
    if modality != "image":
        raise ValueError(f"{release_uri}: its dVAE codes {modality or 'speech'}; `triforce evaluate` judges speech")
    if len(shares) > 1 or not min(shares):
        raise ValueError(
            f"{release_uri}: validation_share {sorted(shares)}; train all networks with the same share above 0, so "
            "that some pictures are unseen"
        )
    return shares.pop()


def _split(corpus_uri: str, share: float, limit: int | None) -> tuple[list[Picture], list[Picture]]:
    """Return the pictures that were trained on, and those that were not."""
    columns = ["clip_id", "text", "modality", "image", "drop_reason"]
    seen: list[Picture] = []
    unseen: list[Picture] = []
    for row in Corpus(corpus_uri).dataset().to_table(columns=columns).to_pylist():
        if row["modality"] == "image" and row["drop_reason"] is None:
            side = unseen if is_validation(row["clip_id"], share) else seen
            side.append(Picture(row["clip_id"], row["text"] or None, torch.from_numpy(clip_pixels(Clip.from_row(row)))))
    if not unseen:
        raise ValueError(f"{corpus_uri}: validation_share {share} keeps none of {len(seen)} pictures from training")
    return seen, sorted(unseen, key=lambda picture: picture.clip_id)[:limit]


def _classifier(seen: list[Picture], config: PictureConfig) -> PictureClassifier | None:
    """Fit a classifier; None where texts are no labels: too many of them, or too few pictures of each."""
    counts = Counter(picture.label for picture in seen if picture.label)
    labels = sorted(label for label, count in counts.items() if count >= LEAST_EXAMPLES)
    if not 2 <= len(labels) <= config.max_labels:
        return None
    known = [picture for picture in seen if picture.label in labels]
    classifier = PictureClassifier(labels, config.seed)
    classifier.fit([picture.planes for picture in known], [str(p.label) for p in known], config.classifier_steps)
    return classifier


def _figures(
    references: list[Picture], made: list[torch.Tensor], classifier: PictureClassifier | None
) -> dict[str, float | None]:
    """Return means over the pictures."""
    pairs = [similarity(one.planes.numpy(), planes.numpy()) for one, planes in zip(references, made, strict=True)]
    psnr = [each.psnr_db for each in pairs if each.psnr_db is not None]
    row: dict[str, float | None] = {
        "psnr_db": float(np.mean(psnr)) if psnr else None,
        "ssim": float(np.mean([each.ssim for each in pairs])),
        "l1_levels": 255 * float(np.mean([(t.planes - p).abs().mean() for t, p in zip(references, made, strict=True)])),
        "sharpness": float(np.mean([sharpness(planes.numpy()) for planes in made])),
        "accuracy": None,
        "feature_distance": None,
    }
    if classifier is not None:
        named = [(one, planes) for one, planes in zip(references, made, strict=True) if one.label is not None]
        found = classifier([planes for _, planes in named])
        row["accuracy"] = float(np.mean([one.label == word for (one, _), word in zip(named, found, strict=True)]))
        apart = [classifier.distance(one.planes, planes) for one, planes in named]
        row["feature_distance"] = float(np.mean(apart))
    return row


class Similarity(NamedTuple):
    """How near two pictures are."""

    psnr_db: float | None
    """Peak signal-to-noise ratio; None where they are the same."""
    ssim: float
    """Structural similarity, 1 where they are the same."""


def similarity(a: np.ndarray, b: np.ndarray) -> Similarity:
    """Compare planes ``(3, H, W)`` from 0 to 1. Raises ImportError where the extra ``media`` is missing."""
    try:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ImportError as error:
        raise ImportError(f"judging pictures needs {error.name}: pip install 'triforce[media]'") from error
    window = min(SSIM_WINDOW, min(a.shape[1:]) // 2 * 2 - 1)
    ssim = float(structural_similarity(a, b, channel_axis=0, data_range=1.0, win_size=window))
    same = np.array_equal(a, b)
    return Similarity(None if same else float(peak_signal_noise_ratio(a, b, data_range=1.0)), ssim)


def table(rows: dict[str, dict[str, Any]], num_pictures: int) -> str:
    """Return the rows as lines of text."""
    original = rows["original"]["sharpness"]
    lines = [
        (
            name,
            "-" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}",
            f"{row['ssim']:.3f}",
            f"{row['l1_levels']:.1f}",
            f"{100 * row['sharpness'] / original:.0f}",
            "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}",
            "-" if row["feature_distance"] is None else f"{row['feature_distance']:.3f}",
        )
        for name, row in rows.items()
    ]
    head = ("", "PSNR dB", "SSIM", "L1 levels", "sharp %", "right %", "features")
    return f"{num_pictures} unseen pictures\n{format_table(head, lines)}"


def _sheet(made: dict[str, list[torch.Tensor]], count: int) -> bytes:
    """Return a PNG: a column for each picture, a row for each system, small pictures enlarged."""
    columns = [
        [from_planes(planes[i].numpy()) for planes in made.values()] for i in range(min(count, len(made["dvae"])))
    ]
    if not columns:
        return b""
    side = max(max(pixels.shape[:2]) for column in columns for pixels in column)
    scale = max(1, 64 // side)
    cell = side * scale + 4
    sheet = Image.new("RGB", (cell * len(columns), cell * len(made)), "white")
    for x, column in enumerate(columns):
        for y, pixels in enumerate(column):
            picture = Image.fromarray(pixels)
            picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
            sheet.paste(picture, (x * cell, y * cell))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()
