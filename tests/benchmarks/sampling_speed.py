"""Tokens a second of drawing from the same weights: ours in each precision, transformers, CTranslate2, and the bound.

Part of ``bench_gpt.py --only sample``. All draw the same number of codes behind the same prompt, by temperature 0.9 and
top-p 0.95, in turns; a figure is a median over the rounds. CTranslate2 cannot compute paces or pointers, so no
`reading` of the voice that comes along, and draws from all ids where ours draws from the legal ones.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from models.ctranslate import as_ctranslate2
from models.qwen import as_qwen3
from torch import nn

from triforce.models.blocks.kv_cache import KVCache
from triforce.models.decoding.compiler import find_compiler
from triforce.models.decoding.network import PackedNetwork, PlainNetwork
from triforce.models.gpt import GPT
from triforce.models.gpt_sampling import SamplingConfig, sample_segment
from triforce.models.vocabulary import Segment

Draw = Callable[[], None]
TEMPERATURE, TOP_P = 0.9, 0.95
NUM_PIECES = 40
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


def prompt_of(model: GPT) -> Segment:
    codes = model.config.vocabulary.modality("text").num_codes
    return Segment("text", np.random.default_rng(1).integers(0, codes, NUM_PIECES))


def ours(network: PackedNetwork | PlainNetwork, batch_size: int, num_codes: int) -> Draw:
    config = SamplingConfig(num_candidates=batch_size, temperature=TEMPERATURE, top_p=TOP_P, stop_loops=0)
    text = prompt_of(network.gpt)

    def draw() -> None:
        drawn = sample_segment(network, [text], "speech", config, seed=0)
        assert all(len(candidate.codes) == num_codes for candidate in drawn)  # no end: the grid is of one size

    return draw


def prompt_ids(model: GPT) -> list[int]:
    vocabulary = model.config.vocabulary
    return [*map(int, vocabulary.segment_ids(prompt_of(model))), vocabulary.begin("speech")]


def transformers(model: GPT, other: nn.Module, batch_size: int, num_codes: int, cache: str) -> Draw:
    ids = torch.tensor(prompt_ids(model)).expand(batch_size, -1).contiguous()

    @torch.inference_mode()
    def draw() -> None:
        out = other.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_codes,
            min_new_tokens=num_codes,
            cache_implementation=cache,
            do_sample=True,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            top_k=0,
        )
        assert out.shape[1] == ids.shape[1] + num_codes

    return draw


def ctranslate(model: GPT, generator, batch_size: int, num_codes: int, top_p: float) -> Draw:
    tokens = [str(number) for number in prompt_ids(model)]

    def draw() -> None:
        found = generator.generate_batch(
            [tokens] * batch_size,
            max_batch_size=batch_size,
            min_length=num_codes,
            max_length=num_codes,
            sampling_topk=0,
            sampling_topp=top_p,
            sampling_temperature=TEMPERATURE,
            include_prompt_in_result=False,
        )
        assert all(len(result.sequences_ids[0]) == num_codes for result in found)

    return draw


def systems(model: GPT, batch_size: int, num_codes: int, folder: Path) -> dict[str, Draw]:
    """What is compared, by name; of transformers' two caches the one that is faster here."""
    found = {"triforce, the GPT itself, float32": ours(PlainNetwork(model), batch_size, num_codes)}
    for precision in BYTES:
        found[f"triforce, {precision}"] = ours(PackedNetwork(model, precision, "no"), batch_size, num_codes)
    if find_compiler() is not None:
        found["triforce, int8, compiled"] = ours(PackedNetwork(model, "int8", "yes"), batch_size, num_codes)
    for dtype in (torch.float32, torch.bfloat16):
        other = as_qwen3(model).eval().to(dtype)
        both = {cache: transformers(model, other, batch_size, num_codes, cache) for cache in ("dynamic", "static")}
        took = {}
        for cache, draw in both.items():
            draw()
            started = time.perf_counter()
            draw()
            took[cache] = time.perf_counter() - started
        faster = min(took, key=took.__getitem__)
        found[f"transformers, {str(dtype)[6:]}, {faster} cache"] = both[faster]
    threads = torch.get_num_threads()
    for compute_type in ("float32", "int8"):
        place = folder / compute_type
        if not place.exists():
            place.mkdir(parents=True)
        generator = as_ctranslate2(model, place, compute_type, threads)
        for top_p in (TOP_P, 1.0) if compute_type == "int8" else (TOP_P,):
            name = f"CTranslate2, {compute_type}" + ("" if top_p < 1 else ", no top-p")
            found[name] = ctranslate(model, generator, batch_size, num_codes, top_p)
    return found


def reading_speed(num_bytes: int, rounds: int, clock: Callable[[], float]) -> float:
    """Bytes a second of reading memory of this size once, as the sum of what it holds."""
    memory, found = torch.ones(num_bytes // 4), []
    for _ in range(5 * rounds):
        started = clock()
        memory.sum()
        found.append(num_bytes / (clock() - started))
    return statistics.median(found)


@torch.inference_mode()
def products_alone(network: PackedNetwork, batch_size: int, rounds: int, clock: Callable[[], float]) -> float:
    """Seconds of a step's matrix products without anything between them."""
    config, found = network.config, []
    wide = torch.ones(batch_size, config.width, dtype=network.dtype)
    inner = torch.ones(batch_size, config.mlp_width, dtype=network.dtype)
    head = network.head(torch.arange(config.vocabulary.size))
    for _ in range(10 * rounds):
        started = clock()
        for layer in network.layers:
            layer.qkv(wide), layer.out(wide), layer.gate_up(wide), layer.down(inner)
        head(wide)
        found.append(clock() - started)
    return statistics.median(found)


@torch.inference_mode()
def profile(network: PackedNetwork, batch_size: int, num_codes: int) -> str:
    """Where the time of a step goes: operators by their share, and how many there are."""
    from torch.profiler import ProfilerActivity

    ids = torch.zeros(batch_size, 1, dtype=torch.int64)
    like = torch.empty(0, dtype=network.cache_dtype)
    cache = KVCache.empty(network.config, batch_size, NUM_PIECES + num_codes, like)
    for _ in range(NUM_PIECES + num_codes // 2):
        network(ids, cache=cache)
    steps = num_codes // 2
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(steps):
            network(ids, cache=cache)
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    calls = sum(event.count for event in events) / steps
    lines = [f"{calls:.0f} operators a step (with those inside others), batch {batch_size}, {network.precision}:"]
    lines += [
        f"  {event.self_cpu_time_total / total:6.1%} {event.count / steps:6.1f} calls a step, "
        f"{event.self_cpu_time_total / event.count:7.1f} us each  {event.key}"
        for event in events[:14]
    ]
    return "\n".join(lines)


def compare(model: GPT, num_codes: int, rounds: int, clock: Callable[[], float], batches: tuple[int, ...]) -> None:
    """Print a table for each batch size: medians of tokens a second, and of the ratio to the faster transformers."""
    with tempfile.TemporaryDirectory() as folder:
        for batch_size in batches:
            known = systems(model, batch_size, num_codes, Path(folder))
            times: dict[str, list[float]] = {name: [] for name in known}
            for number in range(rounds + 1):  # the first is not counted
                for name, draw in known.items():
                    started = clock()
                    draw()
                    if number:
                        times[name].append(clock() - started)
            _print(model, batch_size, num_codes, times)
            _print_bounds(model, batch_size, rounds, clock)
            del known
            gc.collect()


def _print(model: GPT, batch_size: int, num_codes: int, times: dict[str, list[float]]) -> None:
    other = min((name for name in times if name.startswith("transformers")), key=lambda n: statistics.median(times[n]))
    print(f"\n| batch {batch_size} | ms a step | tokens/s | to {other} |\n|---|---|---|---|")
    for name, found in times.items():
        took = statistics.median(found)
        ratio = statistics.median(b / a for a, b in zip(found, times[other], strict=True))
        print(
            f"| {name} | {1000 * took / num_codes:.2f} | {batch_size * num_codes / took:.0f} | {ratio:.2f} |",
            flush=True,
        )


def _print_bounds(model: GPT, batch_size: int, rounds: int, clock: Callable[[], float]) -> None:
    """A step reads each matrix once; the head's rows for text and markers are not needed, but small."""
    count = sum(p.numel() for name, p in model.named_parameters() if p.ndim > 1 and name != "head.weight")
    for precision, size in BYTES.items():
        speed = reading_speed(count * size, rounds, clock)
        alone = products_alone(PackedNetwork(model, precision, "no"), batch_size, rounds, clock)
        print(
            f"bound, {precision}: {count * size / 1e6:.1f} MB of weights a step at {speed / 1e9:.1f} GB/s, "
            f"{1000 * count * size / speed:.2f} ms; its matrix products alone {1000 * alone:.2f} ms",
            flush=True,
        )
