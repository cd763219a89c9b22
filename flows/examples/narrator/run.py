"""Train the voice that comes along on one device: ``python -m triforce.flows.examples.narrator.run PREPARED WORK``.

``PREPARED`` is what `piper.prepare` makes: a synthesiser's weights, and sentences as phonemes. Speech is made from it
on the device, then the networks are trained, some beside each other. Needs torch, NumPy, safetensors, tokenizers and
pydantic alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from triforce.flows.examples.narrator.config import NarratorConfig

STAGES = ("speech", "texts", "dvae", "vocoder", "gpt")
"""Processes that are started together; each waits for what it needs."""
SLACK_S = 8.0
"""Time kept free at the end, to write what was trained."""


def run(prepared: Path, folder: Path, config: NarratorConfig) -> None:
    """Make speech and train all networks into ``folder / "release"``. Raises RuntimeError where a stage fails."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config.model_dump_json(indent=1))
    (folder / "ends").write_text(str(time.time() + 60 * config.minutes - SLACK_S))
    link = folder / "prepared"
    if not link.exists():
        link.symlink_to(prepared.absolute())
    started = time.monotonic()
    running = {name: _start(name, folder) for name in STAGES}
    failed = []
    for name, process in running.items():
        status = process.wait()
        if status and name in ("dvae", "vocoder", "gpt"):
            status = _start(name, folder, "plain").wait()  # without graphs and compilers, which may be what failed
        print(
            json.dumps({"stage": name, "status": status, "after_s": round(time.monotonic() - started, 1)}), flush=True
        )
        failed += [name] if status else []
    if failed:
        raise RuntimeError(f"{', '.join(failed)} failed; the logs are in {folder}")


def _start(name: str, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    log = (folder / f"{name}.log").open("ab")
    command = [sys.executable, "-m", "triforce.flows.examples.narrator.stages", name, str(folder), *more]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="fields of NarratorConfig, as JSON")
    options = parser.parse_args()
    fields = dict(entry.split("=", 1) for entry in options.set)
    config = NarratorConfig.model_validate({name: _value(text) for name, text in fields.items()})
    run(options.prepared, options.work, config)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
