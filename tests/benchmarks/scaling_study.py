"""The scaling claim put to the test: dVAEs against diffusion networks, each at several sizes, for equal computation.

    python tests/benchmarks/scaling_study.py --corpus data/corpus --heldout data/heldout --out study --petaflops 20

Compute is counted, not timed: floating-point operations of one training step (PyTorch's counter, forward and backward)
times steps. Every dVAE gets the whole budget. Diffusion at every size gets the same budget on top of one dVAE, the
``--base``, so a row says what another budget buys if it is spent on that network. What is done is kept: stopped, the
study goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from triforce.ingest.text_tables import format_table
from triforce.train.config import TrainConfig, train_config
from triforce.train.data.order import Place
from triforce.train.evaluate.evaluate import EvaluateConfig, evaluate
from triforce.train.evaluate.judge import JudgeConfig
from triforce.train.job import train
from triforce.train.tasks.registry import make_task

DVAES = {
    "S": {"hidden": 96, "stem": 48, "num_blocks": 4},
    "M": {"hidden": 144, "stem": 72, "num_blocks": 4},
    "L": {"hidden": 216, "stem": 108, "num_blocks": 4},
    "XL": {"hidden": 324, "stem": 162, "num_blocks": 4},
}
DIFFUSIONS = {
    "S": {"hidden": 64, "num_blocks": 6},
    "M": {"hidden": 96, "num_blocks": 6},
    "L": {"hidden": 144, "num_blocks": 6},
    "XL": {"hidden": 216, "num_blocks": 6},
}
"""Each size has about twice the operations of the one before."""


def step_operations(config: TrainConfig) -> int:
    """Floating-point operations of a training step, forward and backward."""
    task = make_task(config, Place(0, 1), torch.device("cpu"))
    batch = task.next_batch()
    with FlopCounterMode(display=False) as counter:
        task.loss(batch)[0].backward()
    return counter.get_total_flops()


def fitted(arguments: argparse.Namespace, stage: str, release: Path, model: dict[str, Any]) -> dict[str, Any]:
    """Train ``stage`` into ``release`` for the budget; what it took."""
    fields: dict[str, Any] = {"stage": stage, "release": str(release), "runs": str(arguments.out / "runs")}
    fields |= {"corpus": arguments.corpus, "model": model, "batch_size": arguments.batch, "seed": arguments.seed}
    fields |= {"threads_per_worker": arguments.threads}
    operations = step_operations(train_config(**fields))
    steps = max(1, round(arguments.petaflops * 1e15 / operations))
    summary = train(train_config(**fields | {"max_steps": steps, "eval_every": steps}))
    return {"steps": summary.steps, "gigaflops_a_step": operations / 1e9, "wall_s": round(summary.wall_s, 1)}


def judged(arguments: argparse.Namespace, release: Path, name: str) -> dict[str, Any]:
    """What the system called ``name`` loses on held-out clips."""
    config = EvaluateConfig(tts=False, limit=arguments.limit, num_samples=0, judge=JudgeConfig(model=arguments.judge))
    evaluation = evaluate(str(release), arguments.heldout, f"{release}-evaluation", config=config)
    system = evaluation.system(name)
    assert system is not None
    figures = {"log_mel_l1": system.log_mel_l1, "sharpness": system.sharpness, "frechet": system.frechet}
    differences = [c for c in evaluation.comparisons if (c.system, c.reference) == (name, "dvae")]
    against = list(differences[0].wer_difference) if differences else None
    return {"wer": list(system.wer), "against_dvae": against} | figures


def copied_dvae(source: Path, release: Path) -> None:
    """The middle dVAE as the ground that every diffusion network stands on."""
    (release / "dvae").mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "config.json"):
        (release / "dvae" / name).write_bytes((source / "dvae" / name).read_bytes())


def study(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for size in arguments.dvaes:
        release = arguments.out / f"dvae-{size}"
        about = fitted(arguments, "dvae", release, DVAES[size])
        rows.append({"network": "dvae", "size": size} | about | judged(arguments, release, "dvae"))
    for size in arguments.diffusions:
        release = arguments.out / f"diffusion-{size}"
        copied_dvae(arguments.out / f"dvae-{arguments.base}", release)
        about = fitted(arguments, "diffusion", release, DIFFUSIONS[size])
        rows.append({"network": "diffusion", "size": size} | about | judged(arguments, release, "diffusion"))
    return rows


def shown(difference: Sequence[float] | None) -> str:
    """A difference of WERs with its interval, in per cent."""
    return "" if difference is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * value for value in difference))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="to train on")
    parser.add_argument("--heldout", required=True, help="to judge by")
    parser.add_argument("--out", type=Path, default=Path("study"))
    parser.add_argument("--petaflops", type=float, default=20.0, help="10^15 operations of training for each network")
    parser.add_argument("--dvaes", nargs="*", default=["S", "M", "L"], choices=list(DVAES), help="sizes")
    parser.add_argument(
        "--diffusions", nargs="*", default=["S", "M", "L", "XL"], choices=list(DIFFUSIONS), help="sizes"
    )
    parser.add_argument("--base", default="M", choices=list(DVAES), help="the dVAE under every diffusion network")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--limit", type=int, help="held-out clips at most")
    parser.add_argument("--judge", default="base", help="Whisper model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads of the training; none: all cores")
    arguments = parser.parse_args()
    arguments.out = arguments.out.absolute()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = study(arguments)
    (arguments.out / "study.json").write_text(json.dumps({"petaflops": arguments.petaflops, "rows": rows}, indent=1))
    head = ("network", "size", "steps", "GFLOP/step", "WER %", "against the dVAE", "mel L1", "sharp", "Fréchet")
    lines = [
        (
            row["network"],
            row["size"],
            row["steps"],
            f"{row['gigaflops_a_step']:.2f}",
            f"{100 * row['wer'][0]:.1f}",
            shown(row["against_dvae"]),
            f"{row['log_mel_l1']:.3f}",
            f"{row['sharpness']:.2f}",
            f"{row['frechet'] or 0:.1f}",
        )
        for row in rows
    ]
    print(format_table(head, lines, left=(0, 1, 5)))


if __name__ == "__main__":
    main()
