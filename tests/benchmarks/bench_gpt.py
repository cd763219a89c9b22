"""Training and sampling speed of the transformer against Hugging Face's of the same weights, in one run.

``python tests/benchmarks/bench_gpt.py``. Training: tokens a second of both, side by side and in turns, and the median
of their ratios. The other side is `Qwen3ForCausalLM` (the same blocks) with SDPA and its own loss; same batch, dtype,
optimizer, threads. ``--dtype bfloat16``: both train under autocast. Sampling, alone by ``--only sample``: a table of
ours in each precision, transformers, CTranslate2 and the bound (`sampling_speed.py`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.sampling_speed import compare as compare_sampling
from benchmarks.sampling_speed import profile
from models.qwen import as_qwen3

from triforce.models.decoding.network import PackedNetwork
from triforce.models.gpt import GPT, GPTConfig
from triforce.models.vocabulary import Segment
from triforce.train.data.tokens.rows import PackedBatch, stack
from triforce.train.tasks.gpt_loss import media_vocabulary, token_losses

NUM_TEXT, NUM_CODES = 512, 8192


def make_gpt(arguments: argparse.Namespace) -> GPT:
    torch.manual_seed(0)
    return GPT(
        GPTConfig(
            vocabulary=media_vocabulary(NUM_TEXT, {"speech": (NUM_CODES, (arguments.codes,))}),
            num_layers=arguments.layers,
            width=arguments.width,
            num_heads=arguments.heads,
            max_positions=2048,
        )
    )


def documents(model: GPT, context: int, num_rows: int, per_row: int) -> PackedBatch:
    """Rows of random speech documents that fill ``context`` exactly."""
    generator = np.random.default_rng(0)
    vocabulary = model.config.vocabulary
    length = context // per_row
    rows = []
    for _ in range(num_rows):
        row = []
        for _ in range(per_row):
            text = Segment("text", generator.integers(0, NUM_TEXT, length // 5))
            speech = Segment("speech", generator.integers(0, NUM_CODES, length - length // 5 - 5))
            ids = vocabulary.document_ids([text, speech])
            row.append((ids, np.ones(len(ids), np.float32)))
        rows.append(row)
    return stack(rows, context)


def autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)


def our_step(model: GPT, batch: PackedBatch, dtype: torch.dtype) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        with autocast(dtype):
            losses, weights = token_losses(model, batch)
            loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def their_step(model: nn.Module, batch: PackedBatch, dtype: torch.dtype) -> Callable[[], float]:
    """One document a row: the task that both do without a mask. Labels are shifted inside the model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        with autocast(dtype):
            loss = model(input_ids=batch.ids, labels=batch.ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def their_packed_step(model: nn.Module, batch: PackedBatch, dtype: torch.dtype) -> Callable[[], float]:
    """Packed documents the Hugging Face way: a padded row each would waste more; here a 4-D mask and position ids."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    same = batch.documents[:, None, :, None] == batch.documents[:, None, None, :]
    mask = same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()
    labels = torch.where(batch.positions > 0, batch.ids, -100)

    def step() -> float:
        with autocast(dtype):
            loss = model(
                input_ids=batch.ids, labels=labels, attention_mask=mask, position_ids=batch.positions, use_cache=False
            ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def compare(name: str, tokens: int, ours: Callable, theirs: Callable, rounds: int) -> tuple[float, float, float]:
    """Medians of tokens a second of both and of their ratio, in turns after a warm-up."""
    ours(), theirs()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        ours()
        middle = time.perf_counter()
        theirs()
        found.append((tokens / (middle - started), tokens / (time.perf_counter() - middle)))
    ratio = statistics.median(a / b for a, b in found)
    mine, other = (statistics.median(column) for column in zip(*found, strict=True))
    print(f"{name:34s} ours {mine:8.0f} tokens/s   transformers {other:8.0f} tokens/s   ratio {ratio:.2f}", flush=True)
    return mine, other, ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--codes", type=int, default=200)
    parser.add_argument("--only", choices=["train", "sample"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="training's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="rows that are sampled side by side")
    parser.add_argument("--profile", action="store_true", help="also where the time of a step goes")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: seconds of the process, for one thread on a core that other work shares",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.clock == "cpu" and arguments.threads > 1:
        parser.error(f"--clock cpu with --threads {arguments.threads}: it counts the seconds of both; use wall")
    dtype = getattr(torch, arguments.dtype)
    model = make_gpt(arguments)
    size = f"{arguments.layers} x {arguments.width} x {arguments.heads}"
    print(f"{size}, {model.num_parameters() / 1e6:.1f} M parameters, {torch.get_num_threads()} threads")
    tokens = arguments.rows * arguments.context
    if arguments.only != "sample":
        other = as_qwen3(model)
        whole = documents(model, arguments.context, arguments.rows, 1)
        packed = documents(model, arguments.context, arguments.rows, 5)
        for name, batch, theirs in (("one document a row", whole, their_step), ("packed", packed, their_packed_step)):
            ours, others = our_step(model, batch, dtype), theirs(other, batch, dtype)
            compare(f"training, {name}", tokens, ours, others, arguments.rounds)
    if arguments.only == "train":
        return
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    model.eval().requires_grad_(False)
    compare_sampling(model, arguments.codes, arguments.rounds, clock, tuple(arguments.batch))
    for batch_size in arguments.batch if arguments.profile else ():
        print("\n" + profile(PackedNetwork(model, "auto", "no"), batch_size, arguments.codes))


if __name__ == "__main__":
    main()
