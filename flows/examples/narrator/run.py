"""Train the voice that comes along on one device: ``python -m triforce.flows.examples.narrator.run PREPARED WORK``.

``PREPARED`` is what `piper.prepare` makes: a synthesiser's weights, and sentences as phonemes. Speech is made from it
on the device, then the networks are trained: on a GPU some beside each other, with ``--cpu`` in turn, on two cores in
two hours. Needs torch, NumPy, safetensors, tokenizers and pydantic alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from triforce.flows.examples.narrator.config import CPU, NarratorConfig

STAGES = ("speech", "texts", "dvae", "gpt", "diffusion", "vocoder")
"""Processes that are started together, each waits for what it needs; or in this order."""
NEEDED = ("speech", "texts", "dvae")
"""Those without which the others have nothing to learn from."""
PLAIN = ("dvae", "vocoder", "gpt", "diffusion")
"""Those that are tried once more when they fail, without graphs and compilers, which may be what failed."""
SLACK_S = 15.0
"""Time kept free at the end, to write what was trained."""


def run(prepared: Path, folder: Path, config: NarratorConfig) -> None:
    """Make speech and train all networks into ``folder / "release"``. Raises RuntimeError where a stage fails: at once,
    where the others need it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ends = time.time() + 60 * config.minutes - SLACK_S
    (folder / "config.json").write_text(config.model_dump_json(indent=1))
    (folder / "ends").write_text(str(ends))
    link = folder / "prepared"
    if not link.exists():
        link.symlink_to(prepared.absolute())
    stages = [name for name in STAGES if name != "diffusion" or config.diffusion]
    failed = _in_turn(folder, stages) if config.in_turn else _side_by_side(folder, stages, ends)
    if failed:
        raise RuntimeError(f"{', '.join(failed)} failed; the logs are in {folder}")


def _in_turn(folder: Path, stages: Sequence[str]) -> list[str]:
    """Run the stages one after another; return the one that failed, if any."""
    for name in stages:
        for options in ((), ("plain",))[: 1 + (name in PLAIN)]:
            started = time.monotonic()
            status = _start(name, folder, *options).wait()
            print(json.dumps({"stage": name, "status": status, "took_s": round(time.monotonic() - started, 1)}))
            if not status:
                break
        else:
            return [name]
    return []


def _side_by_side(folder: Path, stages: Sequence[str], ends: float) -> list[str]:
    """Run the stages at once, as far as they need not wait for each other; return those that failed."""
    started = time.monotonic()
    running = {name: _start(name, folder) for name in stages}
    failed: list[str] = []
    again = set(PLAIN)
    while running and not set(failed) & set(NEEDED):
        time.sleep(0.2)
        for name, process in list(running.items()):
            status = process.poll()
            if status is None:
                continue
            print(json.dumps({"stage": name, "status": status, "after_s": round(time.monotonic() - started, 1)}))
            del running[name]
            if status and name in again and time.time() < ends:
                again.discard(name)
                running[name] = _start(name, folder, "plain")
            elif status:
                failed.append(name)
    for process in running.values():
        process.kill()
    return failed


def _start(name: str, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    log = (folder / f"{name}.log").open("ab")
    command = [sys.executable, "-m", "triforce.flows.examples.narrator.stages", name, str(folder), *more]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--cpu", action="store_true", help="settings for two cores and two hours instead of a GPU")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="fields of NarratorConfig, as JSON")
    options = parser.parse_args()
    fields = dict(entry.split("=", 1) for entry in options.set)
    given = {name: _value(text) for name, text in fields.items()}
    config = NarratorConfig.model_validate((CPU if options.cpu else {}) | given)
    run(options.prepared, options.work, config)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
