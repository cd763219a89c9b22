"""The flow ``train``: fits the dVAE, the GPT, the diffusion network or the vocoder with Ray Train."""

from __future__ import annotations

import dataclasses
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from triforce.flows.jobs import run_stage
from triforce.flows.jobs.ray_jobs import find_dashboard
from triforce.flows.jobs.retry_condition import is_worth_another_try
from triforce.flows.monitor import stage_progress
from triforce.flows.monitor.notify import stop_jobs, tell_failure
from triforce.ingest import storage
from triforce.train.config import TrainConfig


@task(
    name="fit",
    task_run_name="fit {config.stage} ({config.size})",
    retries=2,
    retry_delay_seconds=[20, 120],
    retry_jitter_factor=0.5,
    retry_condition_fn=is_worth_another_try,
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["compute"],
)
def fit(config: TrainConfig, ray_dashboard: str | None, timeout_minutes: float | None) -> dict[str, Any]:
    """Run `run_stage.run_train` with a progress bar; return its summary.

    Ray restarts lost workers from checkpoints; another try of the task continues from them as well.
    """
    metrics, run_id = run_stage.metrics_uri(config), flow_run.get_root_flow_run_id() or ""
    with stage_progress.shown(f"train-{config.stage}", lambda: stage_progress.of_training(metrics, config.max_steps)):
        log = get_run_logger().info
        return dataclasses.asdict(
            run_stage.run_train(config, find_dashboard(ray_dashboard), timeout_minutes, log, flow_run=run_id)
        )


@flow(
    name="train",
    flow_run_name="train {config.stage} into {config.release}",
    persist_result=False,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
    on_cancellation=[stop_jobs],
)
def train(
    config: TrainConfig,
    ray_dashboard: str | None = None,
    timeout_minutes: float | None = None,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Fit one network and write it into the release; skip a finished run, continue one that was stopped.

    Args:
        config: network, folders, and how to train.
        ray_dashboard: the dashboard of a Ray cluster that runs it as a job, as in http://head:8265; left out, the one
            that TRIFORCE_RAY_ADDRESS names, or else Ray starts here.
        timeout_minutes: a job on a cluster that takes longer is stopped, and tried again from its last checkpoint.
        ray_address: the old name of ray_dashboard.
    """
    summary = fit(config, ray_dashboard or ray_address, timeout_minutes)
    about = f"{config.stage} in {config.release}: {summary['steps']} steps, hash {summary['hash'][:12]}"
    create_table_artifact(
        table=[{"metric": name, "last": f"{value:.4g}"} for name, value in summary["metrics"].items()],
        key=f"train-{config.stage}",
        description=about,
    )
    curves = stage_progress.curve_table(storage.join(config.runs, summary["run_name"], "metrics.jsonl"))
    create_markdown_artifact(f"### {about}\n\n{curves}\n", key=f"curves-{config.stage}", description=about)
    return summary
