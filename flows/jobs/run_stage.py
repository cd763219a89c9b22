"""Tokenize and train by plain functions, in this process or as a job on a Ray cluster.

The commands `triforce tokenize` and `triforce train`, the flows' tasks and the examples all call these two.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from triforce.flows.jobs import environment, ray_jobs
from triforce.ingest import storage
from triforce.tokenize.config import TokenizeConfig
from triforce.train.config import TrainConfig, with_absolute_paths

if TYPE_CHECKING:
    from triforce.tokenize.job import TokenizeSummary
    from triforce.train.job import TrainSummary

logger = logging.getLogger(__name__)


def run_tokenize(
    config: TokenizeConfig,
    ray_dashboard: str | None = None,
    timeout_minutes: float | None = None,
    log: Callable[[str], None] = logger.info,
    *,
    flow_run: str = "",
) -> TokenizeSummary:
    """Bring the token shards up to date with the corpus; finished shards are left alone.

    Args:
        config: corpus, release with the dVAE, folder for the shards, and how.
        ray_dashboard: dashboard of the Ray cluster that runs it as a job, as in ``http://head:8265``; None: this
            process.
        timeout_minutes: time after which a job is stopped; None: no limit.
        log: receives the lines that a job logs.
        flow_run: id of the flow run that is noted with a job.
    """
    environment.prepare()
    from triforce.tokenize import job  # Ray and torch

    if ray_dashboard is None:
        return job.tokenize_corpus(config)
    started, before = time.monotonic(), _shard_hashes(config.tokens)
    arguments = job_arguments(config)
    timeout_s = None if timeout_minutes is None else timeout_minutes * 60
    ray_jobs.run_module(ray_dashboard, "triforce.tokenize", arguments, log, flow_run=flow_run, timeout_s=timeout_s)
    totals = _read_index(config.tokens)["totals"]
    return job.TokenizeSummary(
        num_shards=totals["num_shards"],
        num_new_shards=len(_shard_hashes(config.tokens) - before),
        num_clips=totals["num_clips"],
        num_codes=totals["num_codes"],
        num_failed=totals["num_failed"],
        num_refined=totals.get("num_refined", 0),  # none in indices from before
        hours=totals["duration_s"] / 3600,
        wall_s=time.monotonic() - started,
    )


def run_train(
    config: TrainConfig,
    ray_dashboard: str | None = None,
    timeout_minutes: float | None = None,
    log: Callable[[str], None] = logger.info,
    *,
    flow_run: str = "",
) -> TrainSummary:
    """Train one network and write it into the release; skip a finished run, continue one that was stopped.

    Args:
        config: network, folders, and how to train.
        ray_dashboard: as for `run_tokenize`.
        timeout_minutes: time after which a job is stopped; None: no limit.
        log: receives the lines that a job logs.
        flow_run: id of the flow run that is noted with a job.

    Raises RuntimeError where a job succeeded and the release has no such network: it wrote to another place.
    """
    environment.prepare()
    from triforce.models.release_files import load_card
    from triforce.train import job  # Ray and torch

    if ray_dashboard is None:
        return job.train(config)
    config = with_absolute_paths(config)
    started, before = time.monotonic(), load_card(config.release, config.stage)
    arguments = job_arguments(config)
    timeout_s = None if timeout_minutes is None else timeout_minutes * 60
    ray_jobs.run_module(ray_dashboard, "triforce.train", arguments, log, flow_run=flow_run, timeout_s=timeout_s)
    card = load_card(config.release, config.stage)
    if card is None:
        raise RuntimeError(
            f"{config.release}: the job succeeded, but there is no {config.stage} here; give an address that means the "
            "same folder on the cluster's machines"
        )
    return job.TrainSummary(
        stage=card["stage"],
        run_name=card["run_name"],
        hash=card["hash"],
        steps=card["steps"],
        wall_s=time.monotonic() - started,
        metrics=card["metrics"],
        skipped=before is not None and before["hash"] == card["hash"],
    )


def metrics_uri(config: TrainConfig) -> str:
    """URI of the ``metrics.jsonl`` that a run of ``config`` writes as it trains."""
    environment.prepare()
    from triforce.train.tasks.registry import input_hashes  # torch

    config = with_absolute_paths(config)
    return storage.join(config.runs, config.run_name(input_hashes(config)), "metrics.jsonl")


def job_arguments(config: BaseModel) -> dict[str, Any]:
    """Return the fields of a config that are set, with absolute local folders, as a job on another machine needs."""
    fields = with_absolute_paths(config).model_dump(mode="json")
    return {name: value for name, value in fields.items() if value is not None}


def _read_index(tokens: str) -> dict[str, Any]:
    return dict(json.loads(storage.read_bytes(storage.join(tokens, "index.json"))))


def _shard_hashes(tokens: str) -> set[tuple[str, str]]:
    """Name and SHA-256 of every shard in the index; empty where nothing was tokenized yet."""
    if not storage.exists(storage.join(tokens, "index.json")):
        return set()
    return {(row["shard"], row["sha256"]) for row in _read_index(tokens)["shards"]}
