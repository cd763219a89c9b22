"""The flow ``tokenize``: encodes every clip of the corpus with the dVAE and writes the codes to shards.

The module is not named ``tokenize``: beside a script that is run, it would hide Python's own module of that name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from triforce.flows.jobs import run_stage
from triforce.flows.jobs.ray_jobs import find_dashboard
from triforce.flows.jobs.retry_condition import is_worth_another_try
from triforce.flows.monitor import stage_progress
from triforce.flows.monitor.notify import stop_jobs, tell_failure
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
def tokenize_corpus(config: TokenizeConfig, ray_dashboard: str | None, timeout_minutes: float | None) -> dict[str, Any]:
    """Run `run_stage.run_tokenize` with a progress bar; return its summary."""
    run_id = flow_run.get_root_flow_run_id() or ""
    with stage_progress.shown("tokenize", stage_progress.Shards(config.tokens)):
        log = get_run_logger().info
        return dataclasses.asdict(
            run_stage.run_tokenize(config, find_dashboard(ray_dashboard), timeout_minutes, log, flow_run=run_id)
        )


@flow(
    name="tokenize",
    flow_run_name="tokenize {config.corpus}",
    persist_result=False,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
    on_cancellation=[stop_jobs],
)
def tokenize(
    config: TokenizeConfig,
    ray_dashboard: str | None = None,
    timeout_minutes: float | None = None,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Bring the token shards up to date with the corpus; finished shards are left alone.

    Args:
        config: corpus, release with the dVAE, folder for the shards, and how.
        ray_dashboard: the dashboard of a Ray cluster that runs it as a job, as in http://head:8265; left out, the one
            that TRIFORCE_RAY_ADDRESS names, or else Ray starts here.
        timeout_minutes: a job on a cluster that takes longer is stopped, and tried again from what it finished.
        ray_address: the old name of ray_dashboard.
    """
    totals = tokenize_corpus(config, ray_dashboard or ray_address, timeout_minutes)
    create_table_artifact(table=[totals], key="tokenize-corpus", description=f"Token shards in {config.tokens}")
    return totals
