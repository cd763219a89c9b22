"""The flow ``tokenize``: every clip of the corpus through the dVAE, into shards.

The module has another name: ``tokenize`` beside a script that is run would hide Python's own.
"""

from __future__ import annotations

import dataclasses
import json

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from triforce.flows import environment, ray_jobs
from triforce.ingest import storage
from triforce.tokenize.config import TokenizeConfig


@task(name="tokenize corpus", task_run_name="tokenize {config.corpus}", cache_policy=NO_CACHE, persist_result=False)
def tokenize_corpus(config: TokenizeConfig, ray_address: str | None) -> dict:
    """The shards' totals."""
    if ray_address is None:
        environment.prepare()
        from triforce.tokenize import job  # Ray and torch

        return dataclasses.asdict(job.tokenize_corpus(config))
    ray_jobs.run_module(ray_address, "triforce.tokenize", config.model_dump(mode="json"), get_run_logger().info)
    return json.loads(storage.read_bytes(storage.join(config.tokens, "index.json")))["totals"]


@flow(name="tokenize", flow_run_name="tokenize {config.corpus}", persist_result=False)
def tokenize(config: TokenizeConfig, ray_address: str | None = None) -> dict:
    """Bring the token shards up to date with the corpus; finished shards are left alone.

    Args:
        config: corpus, release with the dVAE, folder for the shards, and how.
        ray_address: the dashboard of a Ray cluster to run it on as a job, as in http://head:8265; left out, Ray starts
        here.
    """
    totals = tokenize_corpus(config, ray_address)
    create_table_artifact(table=[totals], key="tokenize-corpus", description=f"Token shards in {config.tokens}")
    return totals
