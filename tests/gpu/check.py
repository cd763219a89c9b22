"""Correctness and speed on a GPU, or on a CPU as a rehearsal: ``python tests/gpu/check.py OUT --device cuda``.

Writes ``gpu.json`` and ``gpu.md``. Needs torch, NumPy, safetensors, tokenizers, pydantic and einops; transformers,
where it is there, is what sampling is compared with. Each check and each measurement stands alone: one that fails is
written down, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triforce.models.audio.mel import MelConfig
from triforce.models.audio.vocos import Vocos, VocosConfig
from triforce.models.blocks.layers import size_mask
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.gpt import GPT, GPTConfig, KVCache
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.reading.sampling import read_aloud
from triforce.train.data.order import Place
from triforce.train.data.tokens.rows import FlatDocuments, PackedBatch, RowStream, stack
from triforce.train.recipes.diffusion import RECIPES as DIFFUSION
from triforce.train.recipes.dvae import RECIPES as DVAES
from triforce.train.recipes.gpt import RECIPES as GPTS
from triforce.train.tasks.base import Task
from triforce.train.tasks.gpt_loss import packed_loss, speech_vocabulary
from triforce.train.trainer.config import LoopConfig, OptimizerConfig
from triforce.train.trainer.loop import Trainer

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second by the vendor's data sheets."""
FRAMES_PER_S = MelConfig().frames_per_s
NUM_CODES, TEXT_SIZE = 1024, 128


class Checks:
    """What was found so far."""

    def __init__(self, device: torch.device, share: float) -> None:
        self.device, self.share = device, share
        self.results: dict[str, Any] = {}

    def run(self, name: str, check: Callable[[Checks], dict[str, Any]]) -> None:
        started = time.monotonic()
        torch.manual_seed(0)
        try:
            found = check(self)
        except Exception as error:  # the others are to be made all the same
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {error}"[:400]}
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        found["took_s"] = round(time.monotonic() - started, 1)
        self.results[name] = found
        print(name, json.dumps(found), flush=True)

    def count(self, full: int, least: int = 1) -> int:
        """A number, scaled for a rehearsal."""
        return max(least, round(full * self.share))

    def seconds(self, step: Callable[[], Any], budget_s: float) -> float:
        """Median time of a step: after a warm-up, in three blocks."""
        for _ in range(3):
            step()
        self.wait()
        started = time.perf_counter()
        step()
        self.wait()
        once = max(1e-5, time.perf_counter() - started)
        steps = max(1, int(budget_s * min(1.0, self.share) / 3 / once))
        times = []
        for _ in range(3):
            started = time.perf_counter()
            for _ in range(steps):
                step()
            self.wait()
            times.append((time.perf_counter() - started) / steps)
        return sorted(times)[1]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def small_gpt(pointer: bool = True, **settings: Any) -> GPT:
    vocabulary = speech_vocabulary(TEXT_SIZE, NUM_CODES, reading=True)
    fields: dict[str, Any] = {"num_layers": 4, "width": 256, "num_heads": 4, "pointer": pointer, "max_positions": 1024}
    return GPT(GPTConfig(vocabulary=vocabulary, **(fields | settings)))


def documents(vocabulary: Any, count: int, seed: int = 0) -> FlatDocuments:
    """Documents of about 300 tokens, text and then codes."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(count):
        text = vocabulary.offset("text") + rng.integers(0, TEXT_SIZE, rng.integers(40, 120))
        codes = vocabulary.offset("speech") + rng.integers(0, NUM_CODES, rng.integers(80, 320))
        parts.append(
            np.concatenate(
                [[vocabulary.begin("text")], text, [vocabulary.end("text"), vocabulary.begin("speech")], codes,
                 [vocabulary.end("speech"), 1]]
            )
        )  # fmt: skip
    starts = np.cumsum([0, *map(len, parts)])
    ids = np.concatenate(parts).astype(np.int32)
    return FlatDocuments(ids, np.ones(len(ids), np.float32), starts)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Norm of the difference over the norm of the second."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def same_as_cpu(checks: Checks) -> dict[str, Any]:
    """Losses and gradients of each network in float32, on the device and on the CPU."""
    x = torch.randn(4, 100, 96) - 2
    sizes = torch.tensor([[96], [96], [70], [33]])
    found = {}

    def measure(
        name: str, model: torch.nn.Module, loss: Callable[[torch.nn.Module, torch.device], torch.Tensor]
    ) -> None:
        values = []
        for parameter in model.parameters():  # some layers start at zero and would hide what is before them
            parameter.data.add_(0.02 * torch.randn_like(parameter))
        state = {key: value.clone() for key, value in model.state_dict().items()}
        for device in (torch.device("cpu"), checks.device):
            model.load_state_dict(state)
            model = model.to(device)
            model.zero_grad()
            value = loss(model, device)
            value.backward()
            gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
            values.append((value.detach().cpu(), gradient))
        found[f"{name}_loss"] = relative(values[1][0], values[0][0])
        found[f"{name}_gradient"] = relative(values[1][1], values[0][1])

    dvae = DVAE(
        DVAEConfig(channels=100, folded=True, hidden=64, num_blocks=2, quantizer="fsq", fsq_levels=(8, 8, 4, 4))
    )

    def dvae_loss(model: torch.nn.Module, device: torch.device) -> torch.Tensor:
        output = model(x.to(device), sizes.to(device))
        return (output.reconstruction - x.to(device)).abs().mean() + output.quantizer_loss

    noise = torch.randn(4, 100, 96)
    diffusion = Diffusion(DiffusionConfig(channels=100, hidden=64, num_blocks=2))

    def diffusion_loss(model: torch.nn.Module, device: torch.device) -> torch.Tensor:
        times = torch.full((4,), 0.3, device=device)
        mask, shown = size_mask(sizes, (96,)).to(device), torch.ones(4, device=device)
        return model.velocity(noise.to(device), times, x.to(device), mask, shown).square().mean()

    vocos = Vocos(VocosConfig(hidden=64, inner=128, num_blocks=2))

    def vocos_loss(model: torch.nn.Module, device: torch.device) -> torch.Tensor:
        return model(x.to(device)).square().mean()

    gpt = small_gpt()
    flat = documents(gpt.config.vocabulary, 8)
    rows = [[(flat.ids[a:b], flat.weights[a:b])] for a, b in zip(flat.starts[:4], flat.starts[1:5], strict=True)]
    batch = stack(rows, 512)
    with torch.backends.cudnn.flags(allow_tf32=False):
        measure("gpt", gpt, lambda model, device: packed_loss(model, batch.to(device)))
        measure("dvae", dvae, dvae_loss)
        measure("vocoder", vocos, vocos_loss)
        measure("diffusion", diffusion, diffusion_loss)
    found["ok"] = all(
        value < (1e-3 if "loss" in key else 1e-2) for key, value in found.items() if isinstance(value, float)
    )
    return found


def packed_is_unpacked(checks: Checks) -> dict[str, Any]:
    """The loss of packed rows against that of the documents one by one."""
    gpt = small_gpt().to(checks.device).eval()
    flat = documents(gpt.config.vocabulary, 12)
    parts = [(flat.ids[a:b], flat.weights[a:b]) for a, b in zip(flat.starts[:-1], flat.starts[1:], strict=True)]
    stream = RowStream(lambda epoch: flat, 1024, 0)
    packed = stream.batch(0, stream.num_rows(0))
    stream.close()
    found: dict[str, Any] = {}
    alone = stack([[part] for part in parts], 512).to(checks.device)
    with torch.no_grad():
        wanted = float(packed_loss(gpt, alone))
        for name, half in (("float32", False), ("bfloat16", True)):
            with torch.autocast(checks.device.type, torch.bfloat16, enabled=half):
                found[name] = abs(float(packed_loss(gpt, packed.to(checks.device))) - wanted) / wanted
    from triforce.models.blocks.packed_attention import has_varlen

    found["varlen"] = has_varlen(checks.device, 64)
    found["ok"] = found["float32"] < 1e-4 and found["bfloat16"] < 1e-2
    return found


class RowTask(Task):
    """A GPT on packed rows of random documents, as a task."""

    def __init__(self, model: GPT, flat: FlatDocuments, context: int, num_rows: int, device: torch.device) -> None:
        self.model, self.device, self.num_rows, self.place = model.to(device), device, num_rows, Place(0, 1)
        self.rows = RowStream(lambda epoch: flat, context, 0)

    @classmethod
    def make(cls, config: Any, place: Place, device: torch.device) -> Task:
        raise NotImplementedError

    @classmethod
    def input_hashes(cls, config: Any) -> dict[str, str]:
        return {}

    def next_batch(self) -> PackedBatch:
        first = int(self.place.take(self.num_rows)[0])
        batch = self.rows.batch(first, self.num_rows)
        return (batch.pinned() if self.device.type == "cuda" else batch).to(self.device)

    def loss(self, batch: PackedBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return packed_loss(self.model, batch), {}

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        return {}


def make_trainer(checks: Checks, steps: int) -> Trainer:
    torch.manual_seed(0)
    gpt = small_gpt(dropout=0.1)
    task = RowTask(gpt, documents(gpt.config.vocabulary, 64), 512, 4, checks.device)
    loop = LoopConfig(max_steps=steps, log_every=1, optimizer=OptimizerConfig(learning_rate=1e-3))
    return Trainer(task, loop, device=str(checks.device))


def resumes(checks: Checks) -> dict[str, Any]:
    """Twenty steps at once against ten, a checkpoint, and ten more."""
    whole = make_trainer(checks, 20)
    whole.fit(lambda *_: None, lambda _: None)
    first = make_trainer(checks, 20)

    with tempfile.TemporaryDirectory() as folder:
        for _ in range(10):
            first.step(first.share_done())
            first.state.step += 1
        first._places = [first.task.place.state_dict()]
        first.save(Path(folder))
        second = make_trainer(checks, 20)
        second.load(Path(folder))
        second.fit(lambda *_: None, lambda _: None)
    losses = [trainer.state.history[-1]["train/loss"] for trainer in (whole, second)]
    return {"whole": losses[0], "resumed": losses[1], "ok": abs(losses[0] - losses[1]) < 2e-3 * losses[0]}


def one_rank(checks: Checks) -> dict[str, Any]:
    """`torchrun` with one process: NCCL on a GPU, gloo elsewhere."""
    backend = "nccl" if checks.device.type == "cuda" else "gloo"
    code = (
        "import os, torch, torch.distributed as d\n"
        f"device = torch.device('{checks.device.type}')\n"
        f"d.init_process_group('{backend}')\n"
        "m = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4).to(device))\n"
        "m(torch.ones(2, 4, device=device)).sum().backward()\n"
        "print('sum', float(m.module.weight.grad.sum()))\n"
        "d.destroy_process_group()\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "rank.py"
        script.write_text(code)
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--master-port", "29533"]
        done = subprocess.run([*command, str(script)], capture_output=True, text=True, timeout=120, env=os.environ)
    return {"backend": backend, "ok": "sum 32.0" in done.stdout, "error": done.stderr[-200:] if done.returncode else ""}


def codes_are_equal(checks: Checks) -> dict[str, Any]:
    """Codes of clips alone, in a batch, and on the CPU, in float32 with TF32 off."""
    torch.manual_seed(0)
    config = DVAEConfig.model_validate(
        {"channels": 100} | DVAES["tiny"]["model"] | {"quantizer": "fsq", "fsq_levels": (8, 8, 8, 8)}
    )
    dvae = DVAE(config).eval()
    for parameter in dvae.parameters():
        if parameter.ndim > 1:
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    lengths = [400, 256, 131, 97]
    mels = torch.randn(4, 100, 400).cumsum(2) / 8 - 2
    sizes = torch.tensor([[n] for n in lengths])
    on_cpu = dvae.encode(mels, sizes)
    dvae.to(checks.device)
    grids = [-(-n // 4) for n in lengths]
    with torch.backends.cudnn.flags(allow_tf32=False):
        together = dvae.encode(mels.to(checks.device), sizes.to(checks.device)).cpu()
        alone = [dvae.encode(mels[i : i + 1, :, :n].to(checks.device)).cpu()[0] for i, n in enumerate(lengths)]
    pairs = [(together[i, : grids[i]], alone[i], on_cpu[i, : grids[i]]) for i in range(4)]
    total = sum(grids)
    return {
        "codes": total,
        "batch_differs": int(sum((a != b).sum() for a, b, _ in pairs)),
        "cpu_differs": int(sum((a != c).sum() for a, _, c in pairs)),
        "ok": all(torch.equal(a, b) for a, b, _ in pairs),
    }


def sampling_is_equal(checks: Checks) -> dict[str, Any]:
    """Greedy readings on the device and on the CPU, alone and in a batch, and by a CUDA graph."""
    gpt = small_gpt().eval()
    texts = [[np.array([1, 5 + i, 9]), np.array([1, 7, 30 + i, 4])] for i in range(4)]
    config = SamplingConfig(temperature=0, max_codes=60, max_codes_per_word=24)
    on_cpu = read_aloud(gpt, texts, config)
    gpt.to(checks.device)
    together = read_aloud(gpt, texts, config)
    graphed = read_aloud(gpt, texts, config, graph=True)
    alone = [read_aloud(gpt, [text], config)[0] for text in texts]

    def equal(a: Any, b: Any) -> float:
        same = [np.array_equal(x[0].codes, y[0].codes) for x, y in zip(a, b, strict=True)]
        return sum(same) / len(same)

    found = {"cpu": equal(on_cpu, together), "alone": equal(alone, together), "graph": equal(graphed, together)}
    return found | {"ok": min(found["alone"], found["graph"]) == 1}


def gpt_speed(checks: Checks, name: str, rows: int, context: int, *, compiled: bool) -> dict[str, Any]:
    """Training tokens a second of a recipe's GPT, with packed documents."""
    recipe = GPTS[name]["model"]
    vocabulary = speech_vocabulary(1024, 8192, reading=True)
    if checks.share < 1:
        recipe, rows, context = recipe | {"num_layers": 2, "width": 64, "num_heads": 2}, 2, 512
    gpt = GPT(GPTConfig(vocabulary=vocabulary, max_positions=context, pointer=True, **recipe))
    task = RowTask(gpt, documents(vocabulary, 2000 if checks.share == 1 else 50), context, rows, checks.device)
    trainer = Trainer(task, LoopConfig(max_steps=10**6), device=str(checks.device))
    if compiled:
        for block in gpt.blocks:
            block.compile()
    ahead = [task.next_batch() for _ in range(4)]
    task.next_batch = lambda: ahead[trainer.state.step % 4]  # type: ignore[method-assign]

    def step() -> None:
        trainer.step(0.5)
        trainer.state.step += 1

    if checks.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = checks.seconds(step, 4)
    tokens = rows * context
    parameters = gpt.num_parameters()
    lengths = np.diff(task.rows._documents(0).starts)
    attention = 6 * recipe["num_layers"] * recipe["width"] * float((lengths.astype(float) ** 2).sum() / lengths.sum())
    operations = (6 * parameters + attention) * tokens
    task.rows.close()
    found = {"parameters": parameters, "tokens_per_s": tokens / seconds, "tflops": operations / seconds / 1e12}
    if checks.device.type == "cuda":
        found["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        peak = next((rate for card, rate in PEAK_FLOPS.items() if card in torch.cuda.get_device_name()), None)
        found["share_of_peak"] = operations / seconds / peak if peak else None
    return found


def step_speed(
    checks: Checks, make: Callable[[], torch.nn.Module], loss: Callable[..., torch.Tensor], batch: int
) -> dict[str, Any]:
    """Optimizer steps a second of a network on crops of 144 frames."""
    model = make().to(checks.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x = (torch.randn(batch, 100, 144) - 2).to(checks.device)
    sizes = torch.full((batch, 1), 144, device=checks.device)

    def step() -> None:
        with torch.autocast(checks.device.type, torch.bfloat16, enabled=checks.device.type == "cuda"):
            value = loss(model, x, sizes)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = checks.seconds(step, 3)
    return {"steps_per_s": 1 / seconds, "seconds_of_sound_per_s": batch * 144 / FRAMES_PER_S / seconds}


def dvae_speed(checks: Checks, batch: int) -> dict[str, Any]:
    def loss(model: torch.nn.Module, x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        output = model(x, sizes)
        return (output.reconstruction - x).abs().mean() + output.quantizer_loss

    return step_speed(
        checks, lambda: DVAE(DVAEConfig.model_validate({"channels": 100} | DVAES["small"]["model"])), loss, batch
    )


def diffusion_speed(checks: Checks, batch: int) -> dict[str, Any]:
    def make() -> torch.nn.Module:
        return Diffusion(DiffusionConfig.model_validate({"channels": 100} | DIFFUSION["small"]["model"]))

    return step_speed(checks, make, lambda model, x, sizes: model.loss(x, x, sizes), batch)


def tokenize_speed(checks: Checks) -> dict[str, Any]:
    """Encoding of whole clips of 8 s, in float32, TF32 off."""
    dvae = DVAE(DVAEConfig.model_validate({"channels": 100} | DVAES["small"]["model"])).to(checks.device).eval()
    clips = checks.count(256, 4)
    x = (torch.randn(clips, 100, 750) - 2).to(checks.device)
    with torch.backends.cudnn.flags(allow_tf32=False):
        seconds = checks.seconds(lambda: dvae.encode(x), 3)
    return {"times_real_time": clips * 750 / FRAMES_PER_S / seconds}


def sampling_speed(checks: Checks, rows: int, *, graph: bool) -> dict[str, Any]:
    """Codes a second of the `small` GPT reading texts aloud, in bfloat16."""
    recipe = GPTS["small"]["model"]
    gpt = GPT(
        GPTConfig(
            vocabulary=speech_vocabulary(TEXT_SIZE, NUM_CODES, reading=True), pointer=True, max_positions=1024, **recipe
        )
    )
    gpt = gpt.to(checks.device).eval()
    length = checks.count(256, 16)
    texts = [[np.array([1, 5, 9])] for _ in range(rows)]
    config = SamplingConfig(max_codes=length, min_codes_per_word=length, max_codes_per_word=length)
    read_aloud(gpt, texts, config, half=checks.device.type == "cuda", graph=graph)
    checks.wait()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        read_aloud(gpt, texts, config, half=checks.device.type == "cuda", graph=graph)
        checks.wait()
        times.append(time.perf_counter() - started)
    return {"tokens_per_s": rows * length / sorted(times)[1]}


def transformers_speed(checks: Checks, rows: int) -> dict[str, Any]:
    """Tokens a second of Hugging Face transformers with a network of the same shape, in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    recipe = GPTS["small"]["model"]
    config = LlamaConfig(
        vocab_size=TEXT_SIZE + NUM_CODES + 10,
        hidden_size=recipe["width"],
        intermediate_size=1024,
        num_hidden_layers=recipe["num_layers"],
        num_attention_heads=recipe["num_heads"],
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(checks.device, torch.bfloat16).eval()
    length = checks.count(128, 16)
    ids = torch.randint(10, 100, (rows, 16), device=checks.device)

    def draw() -> None:
        model.generate(
            ids, max_new_tokens=length, min_new_tokens=length, do_sample=True, pad_token_id=0, eos_token_id=1
        )

    with torch.inference_mode():
        draw()
        times = []
        for _ in range(2):
            started = time.perf_counter()
            draw()
            checks.wait()
            times.append(time.perf_counter() - started)
    return {"tokens_per_s": rows * length / min(times)}


def cached_decode(checks: Checks) -> dict[str, Any]:
    """Whether drawing with a cache scores as a whole forward pass does."""
    gpt = small_gpt().to(checks.device).eval()
    ids = torch.randint(2, 1000, (1, 40), device=checks.device)
    with torch.inference_mode():
        whole = gpt(ids)
        cache = KVCache.empty(gpt.config, 1, 64, gpt.embedding.weight)
        parts = torch.cat(
            [gpt(ids[:, :20], cache=cache), *(gpt(ids[:, i : i + 1], cache=cache) for i in range(20, 40))], 1
        )
    error = relative(parts, whole)
    return {"relative": error, "ok": error < 1e-3}


def table(results: dict[str, Any], about: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        f"{about['device']}, torch {about['torch']}, commit {about['commit']}",
        "",
        "| what | result |",
        "|---|---|",
    ]
    for name, found in results.items():
        shown = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items() if k != "took_s"
        )
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines) + "\n"


def commit() -> str:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return os.environ.get("COMMIT") or done.stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--share", type=float, default=1.0, help="under 1: a rehearsal")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    checks = Checks(torch.device(options.device), options.share)
    on_gpu = checks.device.type == "cuda"
    about = {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "commit": commit(),
        "share": options.share,
    }
    batch = 64 if options.share == 1 else 2
    plan: list[tuple[str, Callable[[Checks], dict[str, Any]]]] = [
        ("losses as on the CPU", same_as_cpu),
        ("packed = unpacked", packed_is_unpacked),
        ("cache = no cache", cached_decode),
        ("resumes", resumes),
        ("codes equal", codes_are_equal),
        ("sampling equal", sampling_is_equal),
        ("one rank", one_rank),
        ("train gpt medium", lambda c: gpt_speed(c, "medium", 16, 2048, compiled=False)),
        ("train gpt medium, compiled", lambda c: gpt_speed(c, "medium", 16, 2048, compiled=on_gpu)),
        ("train gpt small, compiled", lambda c: gpt_speed(c, "small", 64, 1024, compiled=on_gpu)),
        ("train dvae small", lambda c: dvae_speed(c, batch)),
        ("train diffusion small", lambda c: diffusion_speed(c, batch)),
        ("tokenize, dvae small", tokenize_speed),
        ("sample 1, small", lambda c: sampling_speed(c, 1, graph=on_gpu)),
        ("sample 64, small", lambda c: sampling_speed(c, 64 if on_gpu else 2, graph=on_gpu)),
        ("sample 1, transformers", lambda c: transformers_speed(c, 1)),
        ("sample 64, transformers", lambda c: transformers_speed(c, 64 if on_gpu else 2)),
    ]
    for name, check in plan:
        checks.run(name, check)
        (options.out / "gpu.json").write_text(json.dumps({"about": about, "results": checks.results}, indent=1))
        (options.out / "gpu.md").write_text(table(checks.results, about))
    wrong = [name for name, found in checks.results.items() if "failed" in found or found.get("ok") is False]
    print((options.out / "gpu.md").read_text())
    print("not right:", ", ".join(wrong) or "nothing")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
