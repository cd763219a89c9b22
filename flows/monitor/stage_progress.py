"""The progress of tokenizing and training: read from the files they write, shown as a bar among Prefect's artifacts."""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from triforce.ingest import storage

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
"""Time between two updates: each is a request to the store and one to the server. Assumed."""


@dataclass(frozen=True)
class StageProgress:
    """A share of the work from 0 to 1, and a sentence about it."""

    share: float
    sentence: str


@contextlib.contextmanager
def shown(key: str, look: Callable[[], StageProgress | None]) -> Iterator[None]:
    """Update the artifact ``progress-<key>`` with what ``look`` returns while the block runs; None: nothing yet."""
    artifact = create_progress_artifact(0.0, key=f"progress-{key}", description="begins")
    done = threading.Event()

    def show() -> None:
        # A store or a server that is out of reach for a while must not stop the work.
        with contextlib.suppress(httpx.HTTPError, OSError, ValueError):
            if (progress := look()) is not None:
                update_progress_artifact(artifact, round(100 * progress.share, 1), description=progress.sentence)  # type: ignore[arg-type]

    def follow() -> None:
        while not done.wait(INTERVAL_S):
            show()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(follow,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=60)
        show()


class Shards:
    """Counts finished shards among the planned; the plan is read again only when a run has added to it."""

    def __init__(self, tokens: str) -> None:
        self._tokens = tokens
        self._parts: list[str] = []
        self._planned = 0

    def __call__(self) -> StageProgress | None:
        from triforce.tokenize.planning.plan_files import num_planned_shards
        from triforce.tokenize.shards import list_shards

        parts = storage.list_files(storage.join(self._tokens, "plan"), ".parquet")
        if parts != self._parts:
            self._parts, self._planned = parts, num_planned_shards(self._tokens)
        if not self._planned:
            return None
        finished = min(len(list_shards(self._tokens)), self._planned)
        return StageProgress(finished / self._planned, f"{finished} of {self._planned} shards")


def of_training(metrics_uri: str, max_steps: int) -> StageProgress | None:
    """Return the last step of a run, its losses and its time."""
    if not storage.exists(metrics_uri):
        return None
    history = [json.loads(line) for line in storage.read_bytes(metrics_uri).decode().splitlines()]
    latest = {name: value for entry in history for name, value in entry.items()}
    if "step" not in latest:
        return None
    step = int(latest["step"])
    parts = [f"step {step} of {max_steps}"]
    parts += [f"{name} {latest[name]:.4g}" for name in ("train/loss", "eval/loss") if name in latest]
    if latest.get("wall_s"):
        parts.append(f"{latest['wall_s']:.0f} s")
    return StageProgress(min(1.0, step / max_steps), "; ".join(parts))


def curve_table(metrics_uri: str, rows: int = 20) -> str:
    """Return a Markdown table of about ``rows`` of a run's evaluations, the last among them."""
    if not storage.exists(metrics_uri):
        return "no metrics were written"
    history = [json.loads(line) for line in storage.read_bytes(metrics_uri).decode().splitlines()]
    points = [entry for entry in history if any(name.startswith("eval/") for name in entry)] or history
    points = points[:: max(1, len(points) // rows)] + ([points[-1]] if len(points) > rows else [])
    names = list(dict.fromkeys(name for entry in points for name in entry))
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(f"{entry[name]:.4g}" if name in entry else "" for name in names) for entry in points]
    return "\n".join(f"| {line} |" for line in lines)
