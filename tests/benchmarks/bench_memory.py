"""What training steps add to the peak of resident memory, beside what is estimated before a run; each case is a process
of its own, since a peak never falls.

Usage: python tests/benchmarks/bench_memory.py [CASE ...] [--dtype bfloat16]
"""

import argparse
import copy
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from triforce.models.audio.vocos import Vocos, VocosConfig
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.footprint import HALF_SHARE, footprint
from triforce.models.gpt import GPT, GPTConfig
from triforce.models.memory import reuse_freed_memory
from triforce.train.data.tokens.rows import PackedBatch
from triforce.train.tasks.gpt_loss import packed_loss, speech_vocabulary
from triforce.train.tasks.vocoder_losses import (
    RESOLUTIONS,
    PeriodDiscriminator,
    SpectrogramDiscriminator,
    adversarial_losses,
)
from triforce.train.trainer.memory import kept_bytes, state_bytes

Loss = Callable[[int], torch.Tensor]
"""Takes the number of samples."""
MIB = 2**20


def make_dvae() -> tuple[nn.Module, Loss]:
    shape = {"folded": True, "hidden": 320, "num_blocks": 6, "dropout": 0.2}
    model = DVAE(DVAEConfig(quantizer="ema-vq", codebook_size=8192, **shape))

    def loss(count: int) -> torch.Tensor:
        x = torch.randn(count, 100, 144)
        output = model(x, torch.full((count, 1), 144))
        return (output.reconstruction - x).abs().mean() + output.quantizer_loss

    return model, loss


def make_diffusion() -> tuple[nn.Module, Loss]:
    model = Diffusion(DiffusionConfig(channels=100, num_dims=1, hidden=320, num_blocks=14))

    def loss(count: int) -> torch.Tensor:
        x = torch.randn(count, 100, 144)
        return model.loss(x, x, torch.full((count, 1), 144))

    return model, loss


def make_vocoder() -> tuple[nn.Module, Loss]:
    vocoder = Vocos(VocosConfig(hidden=192, inner=576, num_blocks=6))
    judges: list[nn.Module] = [SpectrogramDiscriminator(*resolution) for resolution in RESOLUTIONS]
    judges += [PeriodDiscriminator(period) for period in (2, 3, 5)]

    def loss(count: int) -> torch.Tensor:
        made = vocoder(torch.randn(count, 100, 64))
        return torch.stack(list(adversarial_losses(judges, made, torch.randn(count, 63 * 256)).values())).sum()

    return nn.ModuleList([vocoder, *judges]), loss


def make_gpt(context: int = 1024) -> tuple[GPT, Loss]:
    shape = {"num_layers": 8, "width": 384, "num_heads": 6, "max_positions": context}
    model = GPT(GPTConfig(vocabulary=speech_vocabulary(500, 8192), **shape))

    def loss(count: int) -> torch.Tensor:
        ids = torch.randint(3, model.config.vocabulary.size, (count, context + 1))
        places = (torch.arange(context) % 256).expand(count, context)
        documents = (torch.arange(context) // 256 + 1).expand(count, context).contiguous()
        weights = torch.ones(count, context)
        return packed_loss(model, PackedBatch(ids[:, :-1], ids[:, 1:], weights, places, documents, None))

    return model, loss


CASES: dict[str, tuple[Callable[[], tuple[nn.Module, Loss]], int]] = {
    "dvae": (make_dvae, 64),
    "diffusion": (make_diffusion, 32),
    "vocoder": (make_vocoder, 16),
    "gpt": (make_gpt, 4),
}
"""Networks with the number of samples of a step."""


def measure(case: str, half: bool) -> None:
    """Print the estimate and what two steps add to the peak."""
    reuse_freed_memory()
    make, count = CASES[case]
    nn.Linear(64, 64)(torch.randn(64, 64)).sum().backward()  # libraries set themselves up
    before = peak_bytes()
    model, make_loss = make()

    def loss(count: int) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return make_loss(count)

    state = state_bytes(model, torch.device("cuda"), half=half)  # no checkpoint is written here, so nothing is copied
    if isinstance(model, GPT):
        kept = int(footprint(model.config, 1024, count).activation_bytes * (HALF_SHARE if half else 1))
    else:
        one, two = (kept_bytes(model, partial(loss, n)) for n in (1, 2))
        kept = count * (two - one)
    optimizer, average = torch.optim.AdamW(model.parameters(), fused=True), copy.deepcopy(model)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        loss(count).backward()
        optimizer.step()
    del average
    estimate, measured = (state + kept) / MIB, (peak_bytes() - before) / MIB
    print(f"{case:>10}: {estimate:6.0f} MiB estimated, {measured:6.0f} measured, {measured / estimate:.2f} times")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; none: all")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="float32")
    parser.add_argument("--alone", action="store_true", help="measure the one case in this process")
    args = parser.parse_args()
    if args.alone:
        measure(args.cases[0], args.dtype == "bfloat16")
        return
    for case in args.cases or CASES:
        command = [sys.executable, __file__, case, "--alone", "--dtype", args.dtype]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
