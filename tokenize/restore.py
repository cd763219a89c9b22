"""Decoding: token samples back to sound, images and video files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import soundfile
import torch

from triforce.ingest import storage
from triforce.ingest.corpus.shard_names import shard_name
from triforce.ingest.media.pixels import encode_png, encode_video, from_planes
from triforce.models.release import Release
from triforce.tokenize.plan import read_meta
from triforce.tokenize.planning.plan_files import plan_batches
from triforce.tokenize.shards import read_shard
from triforce.tokenize.token_sample import TokenSample

SOUNDS = ("wav", "flac", "ogg", "mp3")
"""File formats for sound."""


def find_samples(tokens: str, clip_ids: list[str]) -> list[TokenSample]:
    """Return samples by their clips' ids, in that order; the beginning of an id suffices where only one clip has it.

    Raises ValueError for an id that fits no clip or several.
    """
    fitting: dict[str, list[tuple[str, int]]] = {wanted: [] for wanted in clip_ids}
    for batch in plan_batches(tokens):
        for wanted, found in fitting.items():
            some = batch.filter(pc.starts_with(batch["clip_id"], wanted)).to_pydict()
            found += zip(some["clip_id"], some["shard"], strict=True)
    chosen: dict[str, int] = {}
    for wanted, found in fitting.items():
        if len(found) != 1:
            raise ValueError(
                f"{tokens}: {len(found)} clips begin with {wanted!r}; `triforce tokens ls --clips` lists them"
            )
        chosen[found[0][0]] = found[0][1]
    samples: dict[str, TokenSample] = {}
    for shard in sorted(set(chosen.values())):
        for sample in read_shard(storage.join(tokens, shard_name(shard))):
            samples[sample.clip_id] = sample
    if gone := [clip_id for clip_id in chosen if clip_id not in samples]:
        raise ValueError(f"{tokens}: {gone[0]} is planned but in no shard; run `triforce tokens verify`")
    return [samples[clip_id] for clip_id in chosen]


def check_release(tokens: str, release: Release) -> str:
    """Return the modality of the shards; raises ValueError where another dVAE than the release's made them."""
    meta = read_meta(tokens)
    if meta["dvae_hash"] != release.codes_hash:
        raise ValueError(
            f"{tokens} holds codes of dVAE {meta['dvae_hash'][:12]}, {release.uri} has {release.codes_hash[:12]}: "
            "name the release that they were made with"
        )
    return meta["modality"]


def restore_medium(release: Release, sample: TokenSample, *, diffusion: bool = False, seed: int = 0) -> torch.Tensor:
    """Decode a sample to its medium ``(C, *size)`` at its own size; with ``diffusion``, restored by that network."""
    codes = torch.from_numpy(sample.codes.astype(np.int64))[None].to(release.device)
    size = torch.tensor([sample.metadata["size"]], device=release.device)
    medium = release.dvae.decode(codes, size)[0]
    return release.restore(medium, seed=seed) if diffusion else medium


def write_restored(
    release: Release, sample: TokenSample, modality: str, folder: Path, sound: str = "wav", *, diffusion: bool = False
) -> Path:
    """Decode a sample into a file in ``folder``: ``<clip_id>.wav``, or PNG and MKV for images and video."""
    medium = restore_medium(release, sample, diffusion=diffusion)
    if modality in ("image", "video"):
        pixels = from_planes(medium.cpu().numpy())
        path = folder / f"{sample.clip_id}.{'png' if modality == 'image' else 'mkv'}"
        rate = sample.metadata["sample_rate_hz"]
        storage.write_bytes(path, encode_png(pixels) if modality == "image" else encode_video(pixels, rate))
        return path
    path = folder / f"{sample.clip_id}.{sound}"
    with storage.atomic_file(path) as temporary:
        soundfile.write(temporary, release.vocode(medium), release.sample_rate_hz, format=sound.upper())
    return path
