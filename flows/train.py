"""The flow ``train``: fits the dVAE, the GPT or the diffusion network with Ray Train, here or as a job on a cluster."""

from __future__ import annotations

import dataclasses

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from triforce.flows import environment, ray_jobs
from triforce.train.config import TrainConfig


@task(name="fit", task_run_name="fit {config.stage} ({config.size})", cache_policy=NO_CACHE, persist_result=False)
def fit(config: TrainConfig, ray_address: str | None) -> dict:
    """The run's summary. No retries here: Ray restarts workers from checkpoints, and running again continues."""
    environment.prepare()
    if ray_address is None:
        from triforce.train import job  # Ray and torch

        return dataclasses.asdict(job.train(config))
    from triforce.models.release import load_card

    arguments = {name: value for name, value in config.model_dump(mode="json").items() if value is not None}
    ray_jobs.run_module(ray_address, "triforce.train", arguments, get_run_logger().info)
    card = load_card(config.release, config.stage)
    if card is None:
        raise RuntimeError(f"{config.release}: the job succeeded, but there is no {config.stage} here; same address?")
    return {key: card[key] for key in ("stage", "run_name", "hash", "steps", "metrics")}


@flow(name="train", flow_run_name="train {config.stage} into {config.release}", persist_result=False)
def train(config: TrainConfig, ray_address: str | None = None) -> dict:
    """Fit one stage and write it into the release; a run that is finished is skipped, one that was stopped continues.

    Args:
        config: stage, where everything lies, and how to train.
        ray_address: the dashboard of a Ray cluster to run it on as a job, as in http://head:8265; left out, Ray starts
        here.
    """
    summary = fit(config, ray_address)
    metrics = {name: f"{value:.4g}" for name, value in summary["metrics"].items()}
    create_table_artifact(
        table=[{"metric": name, "last": value} for name, value in metrics.items()],
        key=f"train-{config.stage}",
        description=f"{config.stage} in {config.release}: {summary['steps']} steps, hash {summary['hash'][:12]}",
    )
    return summary
