"""The flow ``tokenize``: every clip of the corpus through the dVAE, into shards.

The module has another name: ``tokenize`` beside a script that is run would hide Python's own.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from triforce.flows.jobs import environment, ray_jobs
from triforce.flows.jobs.retries import everywhere, is_worth_another_try
from triforce.flows.monitor import stage_progress
from triforce.flows.monitor.notify import stop_jobs, tell_failure
from triforce.ingest import storage
from triforce.tokenize.config import TokenizeConfig


@task(
    name="tokenize corpus",
    task_run_name="tokenize {config.corpus}",
    retries=2,
    retry_delay_seconds=[20, 120],
    retry_jitter_factor=0.5,
    retry_condition_fn=is_worth_another_try,
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["compute"],
)
def tokenize_corpus(config: TokenizeConfig, ray_address: str | None, timeout_minutes: float | None) -> dict[str, Any]:
    """The shards' totals."""
    with stage_progress.shown("tokenize", stage_progress.Shards(config.tokens)):
        if ray_address is None:
            environment.prepare()
            from triforce.tokenize import job  # Ray and torch

            return dataclasses.asdict(job.tokenize_corpus(config))
        arguments = everywhere(config.model_dump(mode="json"))
        ray_jobs.run_module(
            ray_address,
            "triforce.tokenize",
            arguments,
            get_run_logger().info,
            flow_run=flow_run.get_root_flow_run_id() or "",
            timeout_s=None if timeout_minutes is None else timeout_minutes * 60,
        )
    return dict(json.loads(storage.read_bytes(storage.join(config.tokens, "index.json")))["totals"])


@flow(
    name="tokenize",
    flow_run_name="tokenize {config.corpus}",
    persist_result=False,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
    on_cancellation=[stop_jobs],
)
def tokenize(
    config: TokenizeConfig, ray_address: str | None = None, timeout_minutes: float | None = None
) -> dict[str, Any]:
    """Bring the token shards up to date with the corpus; finished shards are left alone.

    Args:
        config: corpus, release with the dVAE, folder for the shards, and how.
        ray_address: the dashboard of a Ray cluster to run it on as a job, as in http://head:8265; left out, the one
            that TRIFORCE_RAY_ADDRESS names, or else Ray starts here.
        timeout_minutes: a job on a cluster that takes longer is stopped, and tried again from what it finished.
    """
    totals = tokenize_corpus(config, ray_jobs.cluster_address(ray_address), timeout_minutes)
    create_table_artifact(table=[totals], key="tokenize-corpus", description=f"Token shards in {config.tokens}")
    return totals
