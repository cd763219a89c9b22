"""Stages one after the other, each done once: what is finished is skipped, what was stopped goes on, all is timed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triforce.ingest import storage


@dataclass(frozen=True)
class Stage:
    """A step of the run. ``work`` continues what an earlier call left half done, and returns a line for the reader."""

    name: str
    work: Callable[[], str]
    settings: Any = field(default=None)
    """What decides the result, beside the stages before; plain JSON values."""
    artifacts: tuple[str, ...] = ()
    """Files or folders below the run's folder without which the stage counts as not done."""


def run_stages(stages: Sequence[Stage], folder: Path, say: Callable[[str], None]) -> None:
    """Run the stages that are not done; raises what a stage raises, with its time written down.

    A stage is done when ``stages/<name>.json`` in ``folder`` was written for the same settings of it and of all before
    it.
    """
    key = ""
    for number, stage in enumerate(stages, 1):
        key = _key(key, stage)
        marker = folder / "stages" / f"{stage.name}.json"
        label = f"[{number}/{len(stages)}] {stage.name}"
        done = _read(marker)
        if done.get("key") == key and all((folder / name).exists() for name in stage.artifacts):
            say(f"{label}: done before: {done['line']}")
            continue
        say(f"{label} ...")
        started = time.monotonic()
        finished = False
        try:
            line = stage.work()
            finished = True
        finally:
            wall_s = _add_time(folder / "timings.json", stage.name, time.monotonic() - started, finished)
        storage.write_bytes(marker, json.dumps({"key": key, "line": line}, indent=1).encode())
        say(f"{label}: {line} ({wall_s:.0f} s)")


def _key(before: str, stage: Stage) -> str:
    text = json.dumps([before, stage.name, stage.settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def _add_time(path: Path, name: str, wall_s: float, finished: bool) -> float:
    """Add to a stage's time, over all runs that worked on it; its new total in seconds."""
    timings = _read(path) or {"machine": machine(), "stages": {}}
    entry = timings["stages"].setdefault(name, {"wall_s": 0.0, "runs": 0, "finished": False})
    entry["wall_s"] = round(entry["wall_s"] + wall_s, 2)
    entry["runs"] += 1
    entry["finished"] = finished
    timings["total_s"] = round(sum(stage["wall_s"] for stage in timings["stages"].values()), 2)
    storage.write_bytes(path, json.dumps(timings, indent=1).encode())
    return entry["wall_s"]


def machine() -> dict[str, str | int]:
    """What the times were measured on."""
    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
