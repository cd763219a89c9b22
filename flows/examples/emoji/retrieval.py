"""A network that finds the name of a picture among others, trained on real pictures and names alone.

Two encoders that put a picture and its name at one place (contrastive, as CLIP: Radford et al. 2021, arXiv 2103.00020).
It judges what our networks draw and knows nothing of them.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional as F

from triforce.ingest import storage
from triforce.ingest.media.pixels import to_planes

logger = logging.getLogger(__name__)

SIDE = 128
"""Pictures are judged at this side; smaller ones are enlarged, since what they lack in detail they lack."""
VERSION = 1
"""Raised when the network changes, so that no older weights are taken from a cache."""
CHUNK = 8
"""Pictures of one concept that a batch holds at most in a row: the hardest names to tell apart. Assumed."""
BATCH_AT_ONCE = 64
"""Pictures encoded at once when judging."""


class RetrievalConfig(BaseModel):
    """The judge's size and training: under five minutes of one core."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: tuple[int, ...] = Field((32, 64, 96, 128), description="Channels of the stages, of 32 to 4 pixels a side.")
    width: int = Field(128, ge=8, description="Size of the place that pictures and names share.")
    buckets: int = Field(16384, ge=256, description="Rows of the table that parts of names are hashed to.")
    num_epochs: int = Field(24, ge=1, description="Passes over the pictures.")
    batch_size: int = Field(128, ge=2, description="Pictures of a step, each told from the names of the others.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak rate of AdamW, one cycle.")
    blurred_share: float = Field(
        0.25, ge=0, le=1, description="Share of batches shown at a half or a quarter of the side and enlarged."
    )
    seed: int = Field(0, ge=0, description="Seed of weights, order and shifts.")


class Retrieval(nn.Module):
    """The two encoders."""

    def __init__(self, config: RetrievalConfig) -> None:
        super().__init__()
        self.config = config
        # The first looks at 7 x 7 pixels in steps of four: as fine as needed, at a quarter of the time.
        convolutions = [nn.Conv2d(3, config.widths[0], 7, stride=4, padding=3)]
        convolutions += [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(config.widths)]
        self.stages = nn.ModuleList(
            nn.Sequential(layer, nn.GroupNorm(8, layer.out_channels), nn.SiLU()) for layer in convolutions
        )
        smallest = SIDE >> (len(config.widths) + 1)
        self.of_picture = nn.Linear(config.widths[-1] * smallest**2, config.width)
        self.parts = nn.EmbeddingBag(config.buckets, config.width, mode="sum")
        nn.init.normal_(self.parts.weight, std=0.2)
        self.of_name = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, 2 * config.width),
            nn.SiLU(),
            nn.Linear(2 * config.width, config.width),
        )
        self.log_scale = nn.Parameter(torch.tensor(np.log(10.0), dtype=torch.float32))

    def stage_outputs(self, planes: torch.Tensor) -> list[torch.Tensor]:
        """Return the outputs of the stages for planes ``(B, 3, 128, 128)`` from 0 to 1."""
        found, x = list[torch.Tensor](), 2 * planes - 1
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def pictures(self, planes: torch.Tensor) -> torch.Tensor:
        """Place pictures ``(B, 3, 128, 128)`` at unit vectors ``(B, width)``."""
        return F.normalize(self.of_picture(self.stage_outputs(planes)[-1].flatten(1)), dim=1)

    def names(self, names: Sequence[str]) -> torch.Tensor:
        """Place names at unit vectors ``(B, width)``."""
        parts = [name_parts(name, self.config.buckets) for name in names]
        starts = np.cumsum([0, *map(len, parts[:-1])])
        bags = self.parts(torch.tensor([part for each in parts for part in each]), torch.tensor(starts))
        return F.normalize(self.of_name(bags), dim=1)


def name_parts(name: str, buckets: int) -> list[int]:
    """Return the rows of a name's words, pairs of words and runs of three characters."""
    words = name.replace(":", " :").replace(",", " ,").split()
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    runs = [f"#{name[i : i + 3]}" for i in range(len(name) - 2)]
    return [zlib.crc32(part.encode()) % buckets for part in (*words, *pairs, *runs)]


class Judge:
    """A trained network, without gradients, on pictures ``(H, W, 3)`` uint8 of any sizes."""

    def __init__(self, network: Retrieval) -> None:
        self._network = network.eval()

    @torch.inference_mode()
    def pictures(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Return where pictures are, unit vectors ``(N, width)``."""
        return self._in_parts(pixels, self._network.pictures)

    @torch.inference_mode()
    def names(self, names: Sequence[str]) -> np.ndarray:
        """Return where names are, unit vectors ``(N, width)``."""
        return self._network.names(names).numpy()

    @torch.inference_mode()
    def features(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Return ``(N, D)`` float32 for the Fréchet distance: means over the picture of every stage's channels.

        The early stages see detail, the late ones what is shown.
        """
        return self._in_parts(pixels, lambda x: torch.cat([y.mean((2, 3)) for y in self._network.stage_outputs(x)], 1))

    @staticmethod
    def _in_parts(pixels: Sequence[np.ndarray], encode: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        parts = [pixels[i : i + BATCH_AT_ONCE] for i in range(0, len(pixels), BATCH_AT_ONCE)]
        return np.concatenate([encode(as_planes(part)).numpy() for part in parts])


def as_planes(pixels: Sequence[np.ndarray]) -> torch.Tensor:
    """Return pictures ``(H, W, 3)`` uint8 as ``(N, 3, 128, 128)`` float32 from 0 to 1."""
    return torch.cat([_resized(torch.from_numpy(to_planes(each))[None]) for each in pixels])


def _resized(planes: torch.Tensor) -> torch.Tensor:
    if planes.shape[-2:] == (SIDE, SIDE):
        return planes
    return F.interpolate(planes, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)


def fit(pixels: np.ndarray, names: Sequence[str], concepts: Sequence[str], config: RetrievalConfig) -> Retrieval:
    """Train a network on pictures ``(N, H, W, 3)`` uint8 and their names; those of one concept meet in batches."""
    generator = np.random.default_rng(config.seed)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = Retrieval(config)
    batches = [batch for _ in range(config.num_epochs) for batch in epoch_batches(concepts, config, generator)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, len(batches), pct_start=0.1)
    for number, batch in enumerate(batches):
        seen = augmented(as_planes(pixels[batch]), generator, config.blurred_share)
        scores = (
            network.log_scale.exp().clamp(max=100) * network.pictures(seen) @ network.names([names[i] for i in batch]).T
        )
        targets = torch.arange(len(batch))
        loss = F.cross_entropy(scores, targets) + F.cross_entropy(scores.T, targets)
        if not torch.isfinite(loss):
            raise RuntimeError(f"the judge's loss is {float(loss)} at step {number}; lower learning_rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if number % 100 == 0:
            logger.info("judge: step %d of %d, loss %.3f", number, len(batches), loss.item())
    return network


def epoch_batches(concepts: Sequence[str], config: RetrievalConfig, generator: np.random.Generator) -> list[np.ndarray]:
    """Return batches of indices, each index once: runs of up to `CHUNK` of one concept, in random order."""
    by_concept: dict[str, list[int]] = {}
    for index in generator.permutation(len(concepts)):
        by_concept.setdefault(concepts[index], []).append(int(index))
    chunks = [some[i : i + CHUNK] for some in by_concept.values() for i in range(0, len(some), CHUNK)]
    order = [index for chunk in generator.permutation(len(chunks)) for index in chunks[chunk]]
    whole = [np.array(order[i : i + config.batch_size]) for i in range(0, len(order), config.batch_size)]
    return [batch for batch in whole if len(batch) > 1]


def augmented(planes: torch.Tensor, generator: np.random.Generator, blurred_share: float) -> torch.Tensor:
    """Return pictures ``(B, 3, H, W)`` moved by up to a sixteenth, some batches at a lower resolution."""
    reach = planes.shape[-1] // 16
    by = generator.integers(-reach, reach + 1, 2)
    moved = F.pad(planes, [reach] * 4, mode="replicate")
    height, width = planes.shape[-2:]
    moved = moved[..., reach + by[0] : reach + by[0] + height, reach + by[1] : reach + by[1] + width]
    if generator.random() >= blurred_share:
        return moved
    small = F.interpolate(moved, scale_factor=1 / int(generator.choice([2, 4])), mode="area")
    return F.interpolate(small, planes.shape[-2:], mode="bilinear")


def cached_judge(
    pixels: np.ndarray,
    names: Sequence[str],
    concepts: Sequence[str],
    cache: Path,
    config: RetrievalConfig | None = None,
) -> Judge:
    """Return the judge of these pictures, trained unless its weights are below ``cache``."""
    config = config or RetrievalConfig()
    key = hashlib.sha256(f"{VERSION}\n{config.model_dump_json()}\n{list(names)}\n{list(concepts)}".encode())
    key.update(np.ascontiguousarray(pixels).tobytes())
    path = cache / f"judge-{key.hexdigest()[:16]}.safetensors"
    if not path.is_file():
        network = fit(pixels, names, concepts, config)
        storage.write_bytes(path, safetensors.torch.save(network.state_dict()))
    network = Retrieval(config)
    network.load_state_dict(safetensors.torch.load(path.read_bytes()))
    return Judge(network)
