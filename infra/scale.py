"""What a corpus of many hours costs, from figures that each say where they come from: ``python infra/scale.py``.

Prints the tables of infra/SCALE.md. Floating-point operations of the networks are counted on the networks themselves.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from triforce.ingest.corpus.packs.compact import MAX_PACK_BYTES, MAX_PACK_FILES
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.gpt import GPT, GPTConfig
from triforce.models.vocabulary import Modality, Vocabulary
from triforce.train.config import RECIPES

FRAMES_PER_S = 24_000 / 256
CODES_PER_S = FRAMES_PER_S / 4

# Assumed: what recordings and clips are like.
RECORDING_S = 1800.0
CLIP_S = 8.0
KEPT_SHARE = 0.7
MEDIA_BYTES_PER_S = 12_000.0  # MP3 of 96 kbit/s
TEXT_TOKENS_PER_S = 5.0

# Published: WhisperX, large-v2 in batches, one card, 70 times real time.
ASR_SPEED_GPU = 70.0
# Measured on one core of an AMD EPYC (CPU seconds of decoding, VAD, cutting and FLAC, summed).
CUT_SPEED_CORE = 290.0
# Measured: 16-bit mono FLAC at 24 kHz of 256 s of Debian's Asterisk prompts; a synthetic voice takes 23 400.
FLAC_BYTES_PER_S = 23_600.0
# Counted: a token sample is three members of a tar file, each a 512-byte header and its data padded to 512.
SAMPLE_BYTES = 3 * 1024 + 512

# Assumed: one A100, bfloat16, 312 TFLOP/s at its best; shares of it that convolutions and transformers reach.
PEAK_FLOPS = 312e12
CONV_SHARE, GPT_SHARE = 0.25, 0.40

# Measured: tests/benchmarks/bench_scale.py, milliseconds of one core a recording of 225 clips; the first four
# with 200 000 recordings in packs, the others with 20 000. Those are assumed to grow with the number of recordings.
METADATA_MS = {
    "index of clip files, once": 2.9,
    "hash of a run's inputs": 0.02,
    "plan of the shards": 0.34,
    "training's start": 0.12,
    "index of rows, once": 1.4,
    "stats": 0.05,
    "verify without bytes": 3.2,
    "refilter, looked at and not done": 3.4,
}
# Derived: a listing names 1 000 objects; a clip file is looked at once, with a request for its size, one for its footer
# and two for each of its 8 row groups, before and behind the sound; a row takes one for its size and one for itself.
# `verify` asks for what stands before the sound alone, and for the row.
LISTED, INDEX_REQUESTS, ROW_REQUESTS = 1000, 18, 2
VERIFY_REQUESTS = 10 + ROW_REQUESTS

PART_BYTES = 8 << 20  # a multipart upload's part, of which each is a request

# Assumed prices, US dollars: a spot A100 hour, a core hour, a GB-month, a thousand PUTs, a million GETs.
GPU_HOUR, CORE_HOUR, GB_MONTH, PUT_1000, GET_MILLION = 1.50, 0.02, 0.023, 0.005, 0.40


@dataclass(frozen=True)
class Row:
    stage: str
    amount: str
    gpu_hours: float = 0.0
    core_hours: float = 0.0


def conv_flops_per_frame(stage: str, size: str) -> float:
    """Forward and backward, for one mel frame in a batch of crops."""
    fields = RECIPES[stage][size]["model"]
    mel = torch.zeros(1, 100, 512)
    model: torch.nn.Module = DVAE(DVAEConfig(**fields)) if stage == "dvae" else Diffusion(DiffusionConfig(**fields))
    with FlopCounterMode(display=False) as counter:
        if isinstance(model, DVAE):
            model.train()(mel)
        else:
            mask = torch.ones(1, 1, 512, dtype=torch.bool)
            model.loss(mel, mel, mask, torch.Generator())  # type: ignore[operator]
    return 3 * counter.get_total_flops() / mel.shape[-1]


def gpt_parameters(size: str) -> int:
    modalities = (Modality(name="text", num_codes=512), Modality(name="speech", num_codes=8192))
    with torch.device("meta"):
        model = GPT(GPTConfig(vocabulary=Vocabulary(modalities=modalities), **RECIPES["gpt"][size]["model"]))
    return sum(parameter.numel() for parameter in model.parameters())


def storage_rows(hours: float) -> list[tuple[str, float, float, float]]:
    """What is stored: name, TB, write requests, read requests."""
    seconds = hours * 3600
    recordings, clips = seconds / RECORDING_S, seconds / CLIP_S
    media, flac = seconds * MEDIA_BYTES_PER_S, seconds * FLAC_BYTES_PER_S
    shards = clips * KEPT_SHARE / 4096
    tokens = clips * KEPT_SHARE * (SAMPLE_BYTES + CLIP_S * CODES_PER_S * 2)
    return [
        ("recordings (media and a row each)", media / 1e12, recordings * 2 + media / PART_BYTES, recordings * 3),
        ("clips (a Parquet file a recording)", flac / 1e12, recordings + flac / PART_BYTES, recordings * 2),
        ("token shards of 4096 clips", tokens / 1e12, shards * 2 + tokens / PART_BYTES, shards * 20),
    ]


def metadata_rows(hours: float) -> list[tuple[str, float, float]]:
    """Steps over the whole corpus: name, seconds of one core, requests to an object store."""
    recordings = hours * 3600 / RECORDING_S
    pages = recordings / LISTED
    requests = {name: pages for name in METADATA_MS}
    requests["index of clip files, once"] += recordings * INDEX_REQUESTS
    requests["index of rows, once"] += recordings * ROW_REQUESTS
    requests["verify without bytes"] += recordings * VERIFY_REQUESTS
    requests["refilter, looked at and not done"] += recordings * INDEX_REQUESTS
    return [(name, recordings * ms / 1000, requests[name]) for name, ms in METADATA_MS.items()]


def object_rows(hours: float) -> list[tuple[str, float, float]]:
    """Objects that rows and clips are in: name, as an ingest writes them, and after `triforce corpus compact`."""
    recordings, clips_bytes = hours * 3600 / RECORDING_S, hours * 3600 * FLAC_BYTES_PER_S
    return [
        ("rows", recordings, math.ceil(recordings / MAX_PACK_FILES)),
        ("clips", recordings, math.ceil(clips_bytes / MAX_PACK_BYTES)),
    ]


def stage_rows(hours: float, size: str) -> list[Row]:
    """Every stage: how much goes through it, and what that takes."""
    kept_s = hours * 3600 * KEPT_SHARE
    rows = [
        Row(
            "cut: decode, VAD, FLAC",
            f"{hours:,.0f} h at {CUT_SPEED_CORE:.0f}x a core",
            core_hours=hours / CUT_SPEED_CORE,
        ),
        Row(
            "transcribe: Whisper large",
            f"{hours:,.0f} h at {ASR_SPEED_GPU:.0f}x a card",
            gpu_hours=hours / ASR_SPEED_GPU,
        ),
    ]
    for stage in ("dvae", "diffusion"):
        recipe = RECIPES[stage][size]
        frames = recipe["max_steps"] * recipe["batch_size"] * recipe.get("crop_frames", 144)
        flops = frames * conv_flops_per_frame(stage, size)
        passes = frames / FRAMES_PER_S / kept_s
        amount = f"{recipe['max_steps']:,} steps, {passes:.2f} passes, {flops:.1e} FLOP"
        rows.append(Row(f"train {stage} ({size})", amount, gpu_hours=flops / (PEAK_FLOPS * CONV_SHARE) / 3600))
    encode = (
        kept_s * FRAMES_PER_S * conv_flops_per_frame("dvae", size) / 6
    )  # forward is a third, the encoder half of it
    rows.append(
        Row(
            "tokenize",
            f"{kept_s * CODES_PER_S:.1e} codes, {encode:.1e} FLOP",
            gpu_hours=encode / (PEAK_FLOPS * CONV_SHARE) / 3600,
        )
    )
    tokens = kept_s * (CODES_PER_S + TEXT_TOKENS_PER_S)
    parameters = gpt_parameters(size)
    flops = 6 * parameters * tokens
    amount = f"{parameters / 1e6:.0f} M parameters, {tokens:.1e} tokens once, {flops:.1e} FLOP"
    rows.append(Row(f"train gpt ({size})", amount, gpu_hours=flops / (PEAK_FLOPS * GPT_SHARE) / 3600))
    return rows


def report(hours: float, size: str) -> str:
    lines = [f"### Storage and requests, {hours:,.0f} hours", "", "| What | TB | PUT | GET | $ a month | $ once |"]
    lines.append("|---|---|---|---|---|---|")
    for name, terabytes, puts, gets in storage_rows(hours):
        once, monthly = puts / 1000 * PUT_1000 + gets / 1e6 * GET_MILLION, terabytes * 1000 * GB_MONTH
        lines.append(f"| {name} | {terabytes:.2f} | {puts:,.0f} | {gets:,.0f} | {monthly:,.0f} | {once:,.0f} |")
    lines += [
        "",
        "| What | objects | requests of a listing | compacted | requests of a listing |",
        "|---|---|---|---|---|",
    ]
    for name, single, packed in object_rows(hours):
        pages = [f"{number:,.0f} | {math.ceil(number / LISTED):,}" for number in (single, packed)]
        lines.append(f"| {name} | {' | '.join(pages)} |")
    lines += ["", "### Steps over the whole corpus", "", "| Step | core seconds | requests |", "|---|---|---|"]
    lines += [f"| {name} | {seconds:,.0f} | {requests:,.0f} |" for name, seconds, requests in metadata_rows(hours)]
    rows = stage_rows(hours, size)
    lines += [
        "",
        f"### Compute, networks of size {size}",
        "",
        "| Stage | What goes through | GPU hours | core hours | $ |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        price = row.gpu_hours * GPU_HOUR + row.core_hours * CORE_HOUR
        lines.append(f"| {row.stage} | {row.amount} | {row.gpu_hours:,.0f} | {row.core_hours:,.0f} | {price:,.0f} |")
    gpu, core = sum(row.gpu_hours for row in rows), sum(row.core_hours for row in rows)
    lines.append(f"| all | | {gpu:,.0f} | {core:,.0f} | {gpu * GPU_HOUR + core * CORE_HOUR:,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Storage, requests and GPU hours of a corpus.")
    parser.add_argument("--hours", type=float, default=100_000)
    parser.add_argument("--size", choices=["small", "medium", "tortoise"], default="medium")
    arguments = parser.parse_args()
    print(report(arguments.hours, arguments.size))
