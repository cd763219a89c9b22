"""Training that goes on with the workers it has left when a node dies."""

import contextlib
import json
import os
import threading
import time
from pathlib import Path

import pytest
import ray
from corpora import add_recording
from ray.cluster_utils import Cluster

from triforce.flows.jobs import environment
from triforce.ingest.corpus.store import Corpus
from triforce.models.release import Release
from triforce.train.config import train_config
from triforce.train.job import train


@contextlib.contextmanager
def two_nodes(monkeypatch):
    """A head with one core, and a node with another that can be taken away."""
    environment.prepare()
    os.environ |= {"RAY_raylet_start_wait_time_s": "240"}  # 30 s by default, too little on a busy machine
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    # For so long Ray waits for a node that it takes to be there still; a minute by default
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster, node
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
def test_a_node_that_dies_costs_no_step_and_the_rest_go_on(tmp_path, monkeypatch):
    corpus = Corpus(str(tmp_path / "corpus"))
    add_recording(corpus, "feed", "a", 12)
    config = train_config(
        stage="dvae",
        release=str(tmp_path / "release"),
        runs=str(tmp_path / "runs"),
        corpus=corpus.uri,
        model={"hidden": 16, "num_blocks": 1, "quantizer": "fsq"},
        batch_size=4,
        crop_frames=32,
        num_workers=2,
        min_workers=1,
        threads_per_worker=1,
        max_steps=2000,
        eval_every=1000,
        log_every=10,
        checkpoint_every_s=2.0,
    )
    with two_nodes(monkeypatch) as (cluster, node):

        def take_away_after_the_second_checkpoint() -> None:
            for _ in range(1200):
                time.sleep(0.1)
                if len(list(Path(config.runs).glob("*/checkpoint_*"))) > 2:  # of which one is an index
                    cluster.remove_node(node, allow_graceful=False)
                    return

        taker = threading.Thread(target=take_away_after_the_second_checkpoint)
        taker.start()
        summary = train(config, progress=False)
        taker.join()
    assert summary.steps == 2000
    lines = (Path(config.runs) / summary.run_name / "metrics.jsonl").read_text().splitlines()
    curve = [json.loads(line) for line in lines]
    assert [entry["step"] for entry in curve] == [1, *range(10, 2001, 10)]
    workers = [entry["data/workers"] for entry in curve]
    assert [workers[0], workers[-1]] == [2, 1]
    assert Release.load(config.release).dvae.config.hidden == 16


def test_fewer_workers_share_the_nearest_batch_that_they_can():
    config = train_config(stage="dvae", release="r", runs="x", corpus="c", num_workers=8, min_workers=2, batch_size=64)
    assert config.for_workers(8).batch_size == 64
    assert [config.for_workers(n).batch_size for n in (6, 5, 3)] == [66, 65, 63]
    assert config.model_copy(update={"batch_size": 8, "accumulation": 4}).for_workers(8).batch_size == 32
