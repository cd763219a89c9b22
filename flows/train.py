"""The flow ``train``: fits the dVAE, the GPT or the diffusion network with Ray Train, here or as a job on a cluster."""

from __future__ import annotations

import dataclasses
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from triforce.flows.jobs import environment, ray_jobs
from triforce.flows.jobs.retries import everywhere, is_worth_another_try
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
def fit(config: TrainConfig, ray_address: str | None, timeout_minutes: float | None) -> dict[str, Any]:
    """The run's summary. Ray restarts lost workers from checkpoints; another try of the task continues as well."""
    environment.prepare()
    from triforce.train import job  # Ray and torch

    config = config.anywhere()
    metrics_uri = storage.join(config.runs, config.run_name(job.input_hashes(config)), "metrics.jsonl")
    with stage_progress.shown(
        f"train-{config.stage}", lambda: stage_progress.of_training(metrics_uri, config.max_steps)
    ):
        if ray_address is None:
            return dataclasses.asdict(job.train(config))
        ray_jobs.run_module(
            ray_address,
            "triforce.train",
            everywhere(config.model_dump(mode="json")),
            get_run_logger().info,
            flow_run=flow_run.get_root_flow_run_id() or "",
            timeout_s=None if timeout_minutes is None else timeout_minutes * 60,
        )
    return _card(config)


def _card(config: TrainConfig) -> dict[str, Any]:
    from triforce.models.release_files import load_card

    card = load_card(config.release, config.stage)
    if card is None:
        raise RuntimeError(f"{config.release}: the job succeeded, but there is no {config.stage} here; same address?")
    return {key: card[key] for key in ("stage", "run_name", "hash", "steps", "metrics")}


@flow(
    name="train",
    flow_run_name="train {config.stage} into {config.release}",
    persist_result=False,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
    on_cancellation=[stop_jobs],
)
def train(config: TrainConfig, ray_address: str | None = None, timeout_minutes: float | None = None) -> dict[str, Any]:
    """Fit one stage and write it into the release; a run that is finished is skipped, one that was stopped continues.

    Args:
        config: stage, where everything lies, and how to train.
        ray_address: the dashboard of a Ray cluster to run it on as a job, as in http://head:8265; left out, the one
            that TRIFORCE_RAY_ADDRESS names, or else Ray starts here.
        timeout_minutes: a job on a cluster that takes longer is stopped, and tried again from its last checkpoint.
    """
    summary = fit(config, ray_jobs.cluster_address(ray_address), timeout_minutes)
    about = f"{config.stage} in {config.release}: {summary['steps']} steps, hash {summary['hash'][:12]}"
    create_table_artifact(
        table=[{"metric": name, "last": f"{value:.4g}"} for name, value in summary["metrics"].items()],
        key=f"train-{config.stage}",
        description=about,
    )
    curves = stage_progress.curve_table(storage.join(config.runs, summary["run_name"], "metrics.jsonl"))
    create_markdown_artifact(f"### {about}\n\n{curves}\n", key=f"curves-{config.stage}", description=about)
    return summary
