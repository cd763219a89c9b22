"""The steps of an example: timed over all runs of it, and skipped where their result is stored already."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triforce.ingest import storage


@dataclass
class Step:
    """What a step reports when it ends."""

    line: str = ""
    """Sentence for the reader."""
    done_before: bool = False
    """Whether there was nothing left to do, so that its time does not count."""


class Timings:
    """Prints and times the steps of a run; ``timings.json`` in the run's folder adds up the times of all its runs."""

    def __init__(self, folder: Path, names: Sequence[str], say: Callable[[str], None]) -> None:
        self._folder, self._names, self._say = folder, list(names), say

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time the block as the step ``name``; whatever it raises goes on, with its time written down."""
        label = f"[{self._names.index(name) + 1}/{len(self._names)}] {name}"
        self._say(f"{label} ...")
        step, started, finished = Step(), time.monotonic(), False
        wall_s = 0.0
        try:
            yield step
            finished = True
        finally:
            if not step.done_before:
                wall_s = self._add(name, time.monotonic() - started, finished)
        self._say(
            f"{label}: done before: {step.line}" if step.done_before else f"{label}: {step.line} ({wall_s:.0f} s)"
        )

    def stored(self, name: str, path: Path, key: Callable[[], Any], make: Callable[[], str]) -> None:
        """Run a step whose result is expensive: `make` writes ``path``, unless it is there and was made for this key.

        ``key`` returns what decides the result, as plain JSON values. It is called before, to compare, and after
        ``make``, to store a hash of it in ``stages/<name>.json`` with the line that ``make`` returned: so it may name
        files that ``make`` writes.
        """
        note = self._folder / "stages" / f"{name}.json"
        with self.step(name) as step:
            before = _read(note)
            if path.exists() and before.get("key") == _hash(key()):
                step.line, step.done_before = before["line"], True
                return
            step.line = make()
            storage.write_bytes(note, json.dumps({"key": _hash(key()), "line": step.line}, indent=1).encode())

    def _add(self, name: str, wall_s: float, finished: bool) -> float:
        """Add to a step's time and return its total over all runs, in seconds."""
        path = self._folder / "timings.json"
        timings = _read(path) or {"machine": machine(), "stages": {}}
        entry = timings["stages"].setdefault(name, {"wall_s": 0.0, "runs": 0, "finished": False})
        entry["wall_s"] = round(entry["wall_s"] + wall_s, 2)
        entry["runs"] += 1
        entry["finished"] = finished
        timings["total_s"] = round(sum(stage["wall_s"] for stage in timings["stages"].values()), 2)
        storage.write_bytes(path, json.dumps(timings, indent=1).encode())
        return entry["wall_s"]


def release_hashes(release: Path) -> dict[str, str]:
    """Return the hash of each network that the release has."""
    from triforce.models.release_files import STAGES, VOCODER, load_card  # torch

    cards = {stage: load_card(str(release), stage) for stage in (*STAGES, VOCODER)}
    return {stage: card["hash"] for stage, card in cards.items() if card is not None}


def file_hash(path: Path) -> str:
    """Return a file's SHA-256, "" where there is none."""
    return storage.sha256_of(path) if path.exists() else ""


def _hash(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def machine() -> dict[str, str | int]:
    """Return the machine that the times were measured on: processor, cores, Python and system."""
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
