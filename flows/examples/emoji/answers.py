"""The pictures and texts that are judged: for each split originals, decodes, restorations, drawings and captions.

They lie as ``<arm>/<clip_id>.png`` and in ``captions.jsonl``. What is there already is left alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from triforce.flows.examples.emoji.config import EmojiConfig
from triforce.flows.examples.emoji.data import Picture, Split, read_pictures
from triforce.flows.examples.timed_steps import release_hashes
from triforce.ingest import storage
from triforce.ingest.cores import num_cores
from triforce.ingest.media.pixels import encode_png, from_planes, to_planes
from triforce.models.blocks.scale import area_average, upsample
from triforce.models.decoding.products import has_bfloat16_units
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.pictures.draw import decode_image, describe_picture, draw_picture, require_pictures
from triforce.models.release import Release

CAPTIONS = "captions.jsonl"
ARMS = ("original", "decode", "bicubic", "diffusion", "drawn")
"""``drawn`` is the best candidate after the diffusion network."""


def write_answers(release: Path, corpus: Path, out: Path, config: EmojiConfig) -> str:
    """Write all arms of the chosen pictures into ``out``, and ``captions.jsonl`` last; return what was done.

    Answers of other networks than the release's are removed first.
    """
    note = out / "made-by.json"
    made_by = json.dumps([release_hashes(release), config.model_dump(mode="json")], indent=1)
    if out.exists() and (not note.exists() or note.read_text() != made_by):
        shutil.rmtree(out)
    storage.write_bytes(note, made_by.encode())
    pictures = chosen_pictures(str(corpus), config)
    workers = config.threads or num_cores()
    parts = [pictures[i::workers] for i in range(workers)]
    if workers == 1:
        captions = _answer_part(str(release), pictures, out, config)
    else:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            work = [pool.submit(_answer_part, str(release), part, out, config) for part in parts if part]
            captions = [line for each in work for line in each.result()]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in sorted(captions, key=lambda c: c["clip_id"]))
    storage.write_bytes(out / CAPTIONS, text.encode())
    return f"{len(pictures)} pictures in {len(ARMS)} arms, {len(captions)} captions"


def chosen_pictures(corpus: str, config: EmojiConfig) -> list[Picture]:
    """Return the pictures that are judged: of each split as many as the config says, drawn by its seed."""
    counts: dict[Split, int] = {
        "seen": config.num_seen,
        "combination": config.num_combinations,
        "concept": config.num_concepts,
    }
    everything, chosen = read_pictures(corpus), list[Picture]()
    for split, count in counts.items():
        pool = [picture for picture in everything if picture.split == split]
        order = np.random.default_rng(config.seed).permutation(len(pool))
        chosen += [pool[index] for index in order[:count]]
    return chosen


def _answer_part(release_uri: str, pictures: Sequence[Picture], out: Path, config: EmojiConfig) -> list[dict[str, str]]:
    """Write the arms of some pictures by one thread, and return their captions."""
    torch.set_num_threads(1)
    release, captions = Release.load(release_uri), []
    for picture in pictures:
        kept = out / ".captions" / f"{picture.clip_id}.txt"  # written last
        if not kept.exists():
            made, caption = answers(release, picture, config)
            for arm, pixels in made.items():
                storage.write_bytes(out / arm / f"{picture.clip_id}.png", encode_png(pixels))
            storage.write_bytes(kept, caption.encode())
        captions.append({"clip_id": picture.clip_id, "text": kept.read_text("utf-8")})
    return captions


def answers(release: Release, picture: Picture, config: EmojiConfig) -> tuple[dict[str, np.ndarray], str]:
    """Return a picture in every arm, ``(H, W, 3)`` uint8, and what the GPT says of its codes."""
    planes = torch.from_numpy(to_planes(picture.pixels))
    sizes = torch.tensor([planes.shape[1:]])
    seen, _ = area_average(planes[None], sizes, release.shrink)
    codes = release.dvae.encode(seen)
    decode = release.dvae.decode(codes)[0]
    sampler = SamplerConfig(num_steps=config.diffusion_steps, temperature=config.diffusion_temperature)
    sampling = SamplingConfig(
        num_candidates=config.candidates, temperature=config.temperature, guidance=config.guidance
    )
    name = picture.emoji.name
    drawing = draw_picture(release, name, seed=config.seed, sampling=sampling, num_restored=0)
    drawn = decode_image(release.dvae, require_pictures(release, "text>image"), drawing.candidates[0].codes)
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16_units()):
        restored, made_up = (release.restore(one, seed=config.seed, config=sampler) for one in (decode, drawn))
    made = {
        "original": planes,
        "decode": decode,
        "bicubic": upsample(decode[None], release.shrink, sizes, planes.shape[1:])[0],
        "diffusion": restored,
        "drawn": made_up,
    }
    said = describe_picture(
        release, codes, seed=config.seed, sampling=SamplingConfig(temperature=0.3, num_candidates=config.candidates)
    )
    return {arm: from_planes(each.float().numpy()) for arm, each in made.items()}, said[0]
