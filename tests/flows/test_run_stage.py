"""Tokenizing and training as a job on a cluster give the summaries that they give in this process."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from corpora import add_recording
from tiny_run import write_release

from triforce.flows.jobs import ray_jobs, run_stage
from triforce.flows.monitor import notify
from triforce.ingest.corpus.store import Corpus
from triforce.tokenize.config import TokenizeConfig
from triforce.train.config import train_config

DASHBOARD = "http://head:8265"


@pytest.fixture
def jobs(monkeypatch):
    """Modules and arguments that were sent to a cluster; `work` is called in place of each job."""
    sent = SimpleNamespace(calls=[], work=lambda arguments: None)

    def run_module(dashboard, module, arguments, on_lines, *, flow_run="", timeout_s=None):
        sent.calls.append((dashboard, module, arguments, flow_run, timeout_s))
        on_lines("a line")
        sent.work(arguments)
        return "job-1"

    monkeypatch.setattr(ray_jobs, "run_module", run_module)
    monkeypatch.delenv(ray_jobs.ADDRESS_VARIABLE, raising=False)
    return sent


def _write_index(tokens: Path, hashes: dict[str, str]) -> None:
    totals = {"num_shards": len(hashes), "num_clips": 7, "num_codes": 90, "num_failed": 1, "duration_s": 7200.0}
    shards = [{"shard": name, "sha256": sha256} for name, sha256 in hashes.items()]
    tokens.mkdir(parents=True, exist_ok=True)
    (tokens / "index.json").write_text(json.dumps({"totals": totals, "shards": shards}))


def test_a_tokenize_job_counts_the_shards_that_it_made(jobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TokenizeConfig(corpus="corpus", release="release", tokens="tokens")
    _write_index(tmp_path / "tokens", {"a": "1", "b": "2"})
    jobs.work = lambda _: _write_index(tmp_path / "tokens", {"a": "1", "b": "3", "c": "4"})
    lines: list[str] = []
    summary = run_stage.run_tokenize(config, DASHBOARD, 2.0, lines.append, flow_run="run-1")
    assert (summary.num_shards, summary.num_new_shards, summary.num_clips, summary.hours) == (3, 2, 7, 2.0)
    [(dashboard, module, arguments, flow_run, timeout_s)] = jobs.calls
    assert (dashboard, module, flow_run, timeout_s) == (DASHBOARD, "triforce.tokenize", "run-1", 120.0)
    assert arguments["tokens"] == str(tmp_path / "tokens")
    assert lines == ["a line"]


def test_a_train_job_is_found_in_the_release(jobs, tmp_path):
    add_recording(Corpus(str(tmp_path / "corpus")), "talks", "one", 4)
    names = ("corpus", "release", "runs")
    config = train_config(stage="dvae", **{name: str(tmp_path / name) for name in names})
    with pytest.raises(RuntimeError, match="the job succeeded, but there is no dvae here"):
        run_stage.run_train(config, DASHBOARD)
    card_file = tmp_path / "release/dvae/config.json"

    def train(_):
        write_release(tmp_path / "release", stages=("dvae",))
        card_file.write_text(json.dumps(json.loads(card_file.read_text()) | {"run_name": "dvae-1", "metrics": {}}))

    jobs.work = train
    summary = run_stage.run_train(config, DASHBOARD)
    card = json.loads(card_file.read_text())
    assert (summary.hash, summary.steps, summary.skipped) == (card["hash"], card["steps"], False)
    jobs.work = lambda _: None
    assert run_stage.run_train(config, DASHBOARD).skipped
    assert [call[:2] for call in jobs.calls] == [(DASHBOARD, "triforce.train")] * 3


@pytest.mark.parametrize("name", ["ray_dashboard", "ray_address"])
def test_a_cancelled_flow_stops_its_jobs_by_the_new_name_and_the_old(name, monkeypatch):
    stopped = []
    monkeypatch.setattr(notify, "stop_jobs_of", lambda dashboard, run: stopped.append((dashboard, run)))
    notify.stop_jobs(None, SimpleNamespace(id="run-1", parameters={name: DASHBOARD}), None)
    assert stopped == [(DASHBOARD, "run-1")]


def test_flows_take_the_old_name_of_a_parameter():
    from triforce.flows.ingest import ingest
    from triforce.flows.pipeline import pipeline
    from triforce.flows.tokens import tokenize
    from triforce.flows.train import train

    for flow, new in ((ingest, "ray_cluster"), (tokenize, "ray_dashboard"), (train, "ray_dashboard")):
        assert {new, "ray_address"} <= set(flow.parameters.properties)
    assert {"ray_dashboard", "ray_cluster", "ray_address"} <= set(pipeline.parameters.properties)
