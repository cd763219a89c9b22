"""Train a stage: choose who starts the workers, show progress, resume, and find the stage in the release."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from triforce.ingest import storage
from triforce.models.release_files import load_card
from triforce.train.config import TrainConfig, with_absolute_paths
from triforce.train.launch import here
from triforce.train.launch.worker import Run
from triforce.train.tasks.registry import TASKS, input_hashes

log = logging.getLogger(__name__)

SHOWN = ("train/loss", "eval/loss", "eval/l1_nats", "eval/l1_levels", "eval/perplexity", "eval/speech_bits")
"""Metrics that the progress bar shows, where a stage has them."""


@dataclass(frozen=True)
class TrainSummary:
    """What a run came to."""

    stage: str
    run_name: str
    hash: str
    steps: int
    wall_s: float
    metrics: dict[str, float]
    skipped: bool
    """Whether the release already held the result of this run."""


def train(config: TrainConfig, *, progress: bool = True) -> TrainSummary:
    """Fit a stage, or continue where an earlier call of the same config was stopped, and write it into the release."""
    started = time.monotonic()
    config = with_absolute_paths(config)  # Ray puts workers into a folder of theirs
    inputs = input_hashes(config)
    run = Run(config, config.run_name(inputs), inputs)
    card = _finished(run)
    if card is not None:
        return _summary(card, run.name, time.monotonic() - started, skipped=True)
    if about := TASKS[config.stage].describe(config):
        log.info("train %s: %s", config.stage, about)
    with _progress_bar(run) if progress and not _is_other_rank() else contextlib.nullcontext():
        if trains_here(config):
            here.launch(run)
        else:
            from triforce.train.launch import on_ray  # takes seconds to import

            on_ray.launch(run)
    if _is_other_rank():
        return TrainSummary(config.stage, run.name, "", 0, time.monotonic() - started, {}, skipped=False)
    card = _finished(run)
    if card is None:
        raise RuntimeError(
            f"{config.release}/{config.stage}: the workers ended without writing it; their logs are in {run.uri}"
        )
    return _summary(card, run.name, time.monotonic() - started, skipped=False)


def trains_here(config: TrainConfig) -> bool:
    """Whether this process trains, or Ray's workers do: what the config says or, where it leaves the choice, here for
    one worker that no cluster was named for.
    """
    if config.launcher != "auto":
        return config.launcher == "here"
    if here.under_torchrun():
        return True
    streams = getattr(config, "readers_per_worker", 0) > 0  # Ray Data's actors
    return config.num_workers == 1 and not streams and not os.environ.get("RAY_ADDRESS")


def _is_other_rank() -> bool:
    return here.under_torchrun() and os.environ["RANK"] != "0"


def _finished(run: Run) -> dict[str, Any] | None:
    """The card of the release's stage, where this run made it."""
    card = load_card(run.config.release, run.config.stage)
    return card if card is not None and card.get("run_name") == run.name else None


def _summary(card: dict[str, Any], run_name: str, wall_s: float, *, skipped: bool) -> TrainSummary:
    return TrainSummary(card["stage"], run_name, card["hash"], card["steps"], wall_s, card["metrics"], skipped)


@contextlib.contextmanager
def _progress_bar(run: Run) -> Iterator[None]:
    """Follow the run's ``metrics.jsonl``, wherever the workers are."""
    uri, config = storage.join(run.uri, "metrics.jsonl"), run.config
    stop = threading.Event()
    with tqdm(total=config.max_steps, desc=f"train {config.stage}", unit="step", dynamic_ncols=True) as bar:
        thread = threading.Thread(target=_follow, args=(uri, bar, stop.wait), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            _show(uri, bar)


def _follow(uri: str, bar: tqdm, wait: Callable[[float], bool]) -> None:
    while not wait(2.0):
        _show(uri, bar)


def _show(uri: str, bar: tqdm) -> None:
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        lines = storage.read_bytes(uri).decode().splitlines()
        latest = {key: value for line in lines for key, value in json.loads(line).items()}
        bar.n = int(latest["step"])
        bar.set_postfix({key: latest[key] for key in SHOWN if key in latest})
