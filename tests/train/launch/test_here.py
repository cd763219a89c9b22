"""Training in this process: without Ray and its like, in several processes, and in turns with Ray Train."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch
from corpora import add_recording

from triforce.ingest import storage
from triforce.ingest.corpus.store import Corpus
from triforce.models.release_files import load_card
from triforce.train.config import TrainConfig, train_config
from triforce.train.data.order import Place
from triforce.train.job import train, trains_here
from triforce.train.launch import checkpoints
from triforce.train.launch.worker import Run, Worker, work
from triforce.train.tasks.registry import input_hashes, make_task
from triforce.train.trainer.loop import Trainer
from triforce.train.trainer.snapshot import CHECKPOINT_FILES, Snapshot

HEAVY = ("ray", "prefect", "pyarrow", "av", "soundfile", "soxr", "webdataset", "tensorboardX", "jiwer")
BLOCKED = f"""
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
import triforce.train.job, triforce.train.launch.here, triforce.train.tasks.registry, triforce.models.release
import triforce.train.data.tokens.token_store, triforce.train.data.packed.crops, triforce.train.__main__
"""
BLOCKING = """
import os, sys, torch
from pathlib import Path
from triforce.train import __main__ as command
blocked, save = Path(sys.argv.pop(1)), torch.save
def save_or_block(value, file):
    if Path(file) == blocked:
        os.mkfifo(file)
    save(value, file)
torch.save = save_or_block
command.main()
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    corpus = Corpus(str(tmp_path_factory.mktemp("here") / "corpus"))
    add_recording(corpus, "feed", "a", 12)
    return corpus


def make_config(folder: Path, corpus: Corpus, **settings) -> TrainConfig:
    fields = {"batch_size": 4, "crop_frames": 32, "threads_per_worker": 1, "precision": "float32", "max_steps": 12}
    fields |= {"eval_every": 1000, "log_every": 1, "checkpoint_every_s": 1e-6}
    places = {"release": str(folder / "release"), "runs": str(folder / "runs"), "corpus": corpus.uri}
    model = {"hidden": 16, "num_blocks": 1, "quantizer": "fsq"}
    return train_config(stage="dvae", model=model, **(places | fields | settings))


def stopped_after(config: TrainConfig, steps: int) -> None:
    """Train here up to a checkpoint after ``steps`` steps, and no further."""

    class Stop(Exception):
        pass

    inputs = input_hashes(config)
    run = Run(config, config.run_name(inputs), inputs)

    def report(trainer, metrics, save):
        checkpoints.write(trainer.snapshot(), run.uri)
        if trainer.state.step == steps:
            raise Stop

    with pytest.raises(Stop):
        work(run, Worker(0, 1, 1, torch.device("cpu")), contextlib.nullcontext(report))


def test_training_imports_nothing_heavy():
    subprocess.run([sys.executable, "-c", BLOCKED], check=True)


def test_one_worker_trains_here_unless_ray_is_asked_for(tmp_path, corpus, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert trains_here(make_config(tmp_path, corpus))
    assert not trains_here(make_config(tmp_path, corpus, launcher="ray"))
    assert not trains_here(make_config(tmp_path, corpus, num_workers=2))
    assert not trains_here(make_config(tmp_path, corpus, readers_per_worker=1))
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere")
    assert not trains_here(make_config(tmp_path, corpus))


@pytest.mark.slow
def test_here_and_ray_continue_each_other(tmp_path, corpus):
    whole = train(make_config(tmp_path / "whole", corpus, launcher="here"), progress=False)
    config = make_config(tmp_path / "parts", corpus, launcher="ray")
    stopped_after(config, 5)
    by_ray = train(config, progress=False)
    ray.shutdown()
    assert (by_ray.steps, by_ray.hash) == (12, whole.hash)
    lines = (Path(config.runs) / by_ray.run_name / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 13))

    # And back: what Ray kept of its end is enough to write the release again.
    (Path(config.release) / "dvae" / "config.json").unlink()
    for own in Path(config.runs).glob("*/checkpoint-*"):
        (own / "state.json").unlink()
    again = train(make_config(tmp_path / "parts", corpus, launcher="here"), progress=False)
    assert (again.steps, again.hash) == (12, whole.hash)


def test_half_a_checkpoint_is_none(tmp_path, corpus):
    config = make_config(tmp_path, corpus)
    stopped_after(config, 4)
    run_uri = str(next((tmp_path / "runs").iterdir()))
    assert checkpoints.newest(run_uri)[0] == 4
    assert len(list(Path(run_uri).glob("checkpoint-*"))) == checkpoints.KEPT
    (Path(run_uri) / "checkpoint-00000004" / "optimizer.pt").unlink()
    assert checkpoints.newest(run_uri)[0] == 3
    assert train(config, progress=False).steps == 12


def test_a_snapshot_is_of_its_step(tmp_path, corpus):
    config = make_config(tmp_path, corpus)
    trainer = Trainer(make_task(config, Place(0, 1), torch.device("cpu")), config)
    for step in range(3):
        trainer.step(0.0)
        trainer.state.step = step + 1
    at_once, later = tmp_path / "at_once", tmp_path / "later"
    for folder in (at_once, later):
        folder.mkdir()
    trainer.save(at_once)
    snapshot = trainer.snapshot()
    trainer.step(0.0)
    trainer.state.step = 4
    snapshot.write(later)
    for name in CHECKPOINT_FILES:
        assert (later / name).read_bytes() == (at_once / name).read_bytes(), name


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path):
    tensors = {"model": {"weight": torch.rand(1 << 25)}, "ema": {"weight": torch.rand(8)}}
    started = time.perf_counter()
    with checkpoints.Writer(str(tmp_path)) as writer:
        writer.submit(Snapshot(tensors, {}, {"step": 3}))
        submitted_s = time.perf_counter() - started
        assert checkpoints.newest(str(tmp_path)) is None
    assert submitted_s < 0.5 * (time.perf_counter() - started)
    assert checkpoints.newest(str(tmp_path))[0] == 3


def test_a_failed_write_is_said(tmp_path, corpus):
    config = make_config(tmp_path, corpus)
    run = Path(config.runs) / config.run_name(input_hashes(config))
    stopped_after(config, 2)
    (run / f"{storage.TEMPORARY_PREFIX}{checkpoints.PREFIX}").write_text("a file where a folder is to be")
    with pytest.raises(checkpoints.CheckpointError, match="checkpoint of step 3 was not written") as said:
        train(config, progress=False)
    assert isinstance(said.value.__cause__, NotADirectoryError)
    assert load_card(config.release, "dvae") is None
    assert checkpoints.newest(str(run))[0] == 2


def test_killed_while_writing_the_last_whole_one_is_left(tmp_path, corpus):
    whole = train(make_config(tmp_path / "whole", corpus), progress=False)
    config = make_config(tmp_path / "killed", corpus, max_steps=12)
    (tmp_path / "run.json").write_text(json.dumps(config.model_dump(mode="json", exclude_none=True)))
    command = [sys.executable, "-m", "triforce.train", "--config", str(tmp_path / "run.json")]
    run = Path(config.runs) / config.run_name(input_hashes(config))
    run.mkdir(parents=True)
    # The third checkpoint's optimizer never ends to be written: its file is a pipe that nobody reads.
    blocked = run / f"{storage.TEMPORARY_PREFIX}{checkpoints.PREFIX}-00000003" / "optimizer.pt"
    child = subprocess.Popen([sys.executable, "-c", BLOCKING, str(blocked), *command[3:]], stderr=subprocess.PIPE)
    try:
        for _ in range(1200):
            if blocked.exists() or child.poll() is not None:
                break
            time.sleep(0.05)
        assert blocked.exists(), child.communicate()[1].decode()[-2000:]
    finally:
        child.kill()
        child.wait()
    assert checkpoints.newest(str(run))[0] == 2
    again = train(config, progress=False)
    assert (again.steps, again.hash) == (12, whole.hash)
    assert not list(run.glob(f"{storage.TEMPORARY_PREFIX}{checkpoints.PREFIX}*"))


def test_threads_are_shares_of_the_cores_where_a_worker_is(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr("triforce.train.launch.worker.num_cores", lambda: 12)
    config = make_config(tmp_path, corpus, num_workers=4, threads_per_worker=None)
    assert [Worker(0, 4, local, torch.device("cpu")).num_threads(config) for local in (1, 4, 64)] == [12, 3, 1]
    fixed = make_config(tmp_path, corpus, num_workers=4, threads_per_worker=5)
    assert Worker(0, 4, 4, torch.device("cpu")).num_threads(fixed) == 5


@pytest.mark.slow
def test_torchrun_starts_several(tmp_path, corpus):
    fields = make_config(tmp_path, corpus, num_workers=2).model_dump(mode="json", exclude_none=True)
    (tmp_path / "run.json").write_text(json.dumps(fields))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517"]
    command += ["-m", "triforce.train", "--config", str(tmp_path / "run.json")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert load_card(str(tmp_path / "release"), "dvae")["steps"] == 12


def test_too_few_processes_are_said(tmp_path, corpus):
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 2"):
        train(make_config(tmp_path, corpus, num_workers=2, launcher="here"), progress=False)
