"""Time and memory of the GPT's loss, all scores at once and in chunks, forward and backward on random hidden states.

Each line is a process of its own, since a process's peak of memory never falls.

Usage: python tests/benchmarks/bench_loss.py --tokens 16384 --vocabulary 9000 --width 384 [--chunk 1048576 ...]
"""

import argparse
import resource
import subprocess
import sys
import time

import torch
from torch.nn import functional as F

from triforce.models.blocks.chunked_loss import CHUNK_LOGITS, summed_cross_entropy
from triforce.models.memory import reuse_freed_memory


def measure(tokens: int, vocabulary: int, width: int, scores: int, repeats: int, dtype: torch.dtype) -> None:
    """Print milliseconds, best of the repeats, and the peak of memory over what the inputs take, in MiB."""
    reuse_freed_memory()
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width).requires_grad_()
    head = (0.05 * torch.randn(vocabulary, width)).requires_grad_()
    targets, weights = torch.randint(0, vocabulary, (tokens,)), torch.full((tokens,), 1 / tokens)

    def step(count: int) -> None:
        part, wanted, weighing = hidden[:count], targets[:count], weights[:count]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            if scores:
                loss = summed_cross_entropy(part, head, wanted, weighing, chunk=max(1, scores // vocabulary))
            else:
                loss = (F.cross_entropy(F.linear(part, head).float(), wanted, reduction="none") * weighing).sum()
        loss.backward()
        hidden.grad = head.grad = None

    step(16)  # libraries set themselves up
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(repeats):
        started = time.perf_counter()
        step(tokens)
        times.append(1000 * (time.perf_counter() - started))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{scores or 'all':>10} scores at once: {min(times):8.1f} ms, {peak:8.1f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("tokens", 16384), ("vocabulary", 9000), ("width", 384), ("repeats", 2), ("alone", -1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--chunk", type=int, nargs="+", default=[CHUNK_LOGITS["cpu"]], help="scores held at once")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    args = parser.parse_args()
    if args.alone >= 0:
        dtype = getattr(torch, args.dtype)
        measure(args.tokens, args.vocabulary, args.width, args.alone, args.repeats, dtype)
        return
    for scores in (0, *args.chunk):
        subprocess.run([sys.executable, *sys.argv, "--alone", str(scores)], check=True)


if __name__ == "__main__":
    main()
