"""The pipeline's choice of stages, the cluster jobs' names, and the page that a person watches."""

from __future__ import annotations

import pytest
from corpora import add_recording
from tiny_run import write_release

from triforce.flows.jobs.ray_jobs import job_prefix
from triforce.flows.jobs.run_stage import job_arguments
from triforce.flows.monitor.overview import overview
from triforce.flows.monitor.stage_progress import of_training
from triforce.flows.pipeline import STAGES, PipelineConfig
from triforce.ingest.corpus.store import Corpus
from triforce.tokenize.config import TokenizeConfig
from triforce.train.config import train_config


def test_a_pipeline_starts_from_any_of_its_stages():
    config = PipelineConfig(folder="data", sources="sources.yaml", stages=("gpt", "dvae", "tokenize"))
    assert config.stages_from(None) == ("dvae", "tokenize", "gpt")
    assert config.stages_from("tokenize") == ("tokenize", "gpt")
    assert PipelineConfig(folder="data", sources="s.yaml").stages_from("ingest") == STAGES[:-1]
    assert PipelineConfig(folder="data", sources="s.yaml", stages=STAGES).stages_from("gpt") == STAGES[-3:]
    with pytest.raises(ValueError, match="start_from='diffusion'"):
        config.stages_from("diffusion")


def test_a_job_is_named_after_its_work_alone():
    work = {"corpus": "s3://b/c", "num_workers": 2}
    assert job_prefix("triforce.tokenize", work) == job_prefix("triforce.tokenize", dict(reversed(work.items())))
    assert job_prefix("triforce.tokenize", work) != job_prefix("triforce.tokenize", work | {"num_workers": 3})
    assert job_prefix("triforce.train", work).startswith("train-")


def test_a_job_gets_folders_that_mean_the_same_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TokenizeConfig(corpus="data/corpus", release="r", tokens="s3://b/t")
    arguments = job_arguments(config)
    assert {name: arguments[name] for name in ("corpus", "tokens", "device")} == {
        "corpus": f"{tmp_path}/data/corpus",
        "tokens": "s3://b/t",
        "device": "cpu",
    }
    training = train_config(stage="dvae", corpus="c", release="r", runs="x")
    assert training.max_minutes is None
    assert "max_minutes" not in job_arguments(training)


def test_the_overview_shows_hours_drops_and_losses(tmp_path):
    assert overview(str(tmp_path)) == "nothing is here yet"
    add_recording(Corpus(str(tmp_path / "corpus")), "talks", "one", 4, drop=1)
    write_release(tmp_path / "release", stages=("dvae",))
    page = overview(str(tmp_path))
    assert "| talks | 1 | 0.00 | 4 | 3 | 0.00 | 1: 1 quiet | 0 |" in page
    assert "| 20 | 10 | 0.15 | 0.0001 | 0.155 | 30 |" in page
    progress = of_training(str(tmp_path / "release/dvae/metrics.jsonl"), 40)
    assert progress is not None
    assert (progress.share, progress.sentence) == (0.5, "step 20 of 40; train/loss 0.15; eval/loss 0.155; 10 s")
