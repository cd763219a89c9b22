"""Tokenizing that is killed again and again makes the same shards as an undisturbed run, each once.

As a program it does the same with more kills: ``python tests/tokenize/test_tokenize_kill.py --kills 20``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch
from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).parents[1]))
from corpora import add_recording
from tiny_run import tokenize_here

from triforce.flows.jobs import environment
from triforce.ingest import storage
from triforce.ingest.corpus.store import Corpus
from triforce.models.audio.mel import MelConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.release_files import stage_files
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.inspect.verify import verify_tokens

TARGETS = {"worker": "EncodeActor", "reader": "ReadActor", "writer": "WriteActor"}
"""Name of each kind of process while it works."""
LONGEST_RUN_S = 300


def make_config(folder: Path, num_clips: int) -> TokenizeConfig:
    """Make a corpus of many small shards, and a dVAE slow enough that kills interrupt its work."""
    corpus = Corpus(str(folder / "corpus"))
    for number in range(4):
        add_recording(corpus, "feed", str(number), num_clips // 4, drop=1, seed=number)
    torch.manual_seed(0)
    model = DVAE(DVAEConfig(hidden=384, stem=192, num_blocks=16))
    model.set_statistics(torch.full((100,), -3.0), torch.full((100,), 2.0))
    for name, data in stage_files("dvae", model, {"mel": MelConfig().model_dump()}).items():
        storage.write_bytes(folder / "release/dvae" / name, data)
    places = {name: str(folder / name) for name in ("corpus", "release", "tokens")}
    return TokenizeConfig(clips_per_shard=2, num_workers=2, **places)


def undisturbed(config: TokenizeConfig, tokens: Path) -> dict[str, str]:
    """The shards as one process makes them, without Ray: hashes by name."""
    tokenize_here(config.model_copy(update={"tokens": str(tokens)}))
    return {path.name: digest(path) for path in tokens.glob("shard-*")}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def finished(tokens: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every shard that is there."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tokens.glob("shard-*.tar")}


def start(config: TokenizeConfig, address: str, log: Path) -> subprocess.Popen:
    words = [
        word
        for name, value in config.model_dump(exclude_none=True).items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    command = [sys.executable, "-m", "triforce.tokenize", *words]
    with log.open("ab") as output:
        return subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": address}, stdout=output, stderr=output)


def kill_one(cluster: Cluster, driver: subprocess.Popen, target: str, generator: random.Random) -> bool:
    """SIGKILL a process of this kind, or a node with all its processes; whether there was one."""
    if target == "driver":
        driver.kill()
        return True
    if target == "node":
        node = generator.choice(sorted(cluster.worker_nodes, key=lambda node: node.unique_id))
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        return True
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # processes come and go
            if TARGETS[target] in " ".join(process.cmdline()):
                found.append(process)
    if not found:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        generator.choice(found).send_signal(signal.SIGKILL)
    return True


def run_under_kills(
    cluster: Cluster, config: TokenizeConfig, expected: dict[str, str], targets: list[str], generator: random.Random
) -> list[str]:
    """Tokenize with a kill for each of ``targets``, and again until it ends well; the kills that met a run at work.

    All the while, what stands under a final name is whole, and what is finished is not made again.
    """
    tokens, log, met, pending = Path(config.tokens), Path(config.tokens).with_suffix(".log"), [], list(targets)
    seen: dict[str, tuple[int, int]] = {}
    for _ in range(len(targets) + 1):
        driver, begun, due = start(config, cluster.address, log), len(finished(tokens)), None
        deadline = time.monotonic() + LONGEST_RUN_S
        while driver.poll() is None:
            assert time.monotonic() < deadline, f"no end in sight; the driver's log ends with {log.read_text()[-2000:]}"
            time.sleep(0.02)
            now = finished(tokens)
            assert {name: now.get(name) for name in seen} == seen, "a finished shard was made again"
            seen = now
            if due is None and len(now) > begun:
                due = time.monotonic() + generator.uniform(0, 0.6)
            if pending and due and time.monotonic() > due:
                target = pending.pop(0)
                (met if kill_one(cluster, driver, target, generator) else pending).append(target)  # or in its turn
                begun, due = len(now), None  # the next once another shard is there
        for path in tokens.glob("shard-*.tar"):
            assert digest(path) == expected[path.name], f"{path.name} is not what an undisturbed run makes"
        if driver.returncode == 0:
            return met
    raise AssertionError(log.read_text()[-2000:])


def check(config: TokenizeConfig, expected: dict[str, str]) -> None:
    tokens = Path(config.tokens)
    assert {path.name: digest(path) for path in tokens.glob("shard-*")} == expected
    proof = verify_tokens(config.tokens, config.corpus, config.release, recompute=5)
    assert proof.faults == []
    assert proof.num_clips == sum(1 for _ in Corpus(config.corpus).clips(["clip_id"], kept_only=True)["clip_id"])


@contextlib.contextmanager
def two_nodes():
    """A head that only schedules, and two nodes of one core each."""
    environment.prepare()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_kills_of_driver_and_worker_cost_nothing(tmp_path):
    config = make_config(tmp_path, 40)
    expected = undisturbed(config, tmp_path / "undisturbed")
    with two_nodes() as cluster:
        met = run_under_kills(cluster, config, expected, ["driver", "worker"], random.Random(0))
    assert "driver" in met
    check(config, expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    kinds = [*TARGETS, "driver", "node"]
    with tempfile.TemporaryDirectory() as folder, two_nodes() as cluster:
        config = make_config(Path(folder), arguments.clips)
        expected = undisturbed(config, Path(folder) / "undisturbed")
        targets = [generator.choice(kinds) for _ in range(arguments.kills)]
        met = run_under_kills(cluster, config, expected, targets, generator)
        check(config, expected)
        counts = ", ".join(f"{kind} {met.count(kind)}" for kind in kinds)
        print(
            f"{len(met)} kills met a run at work ({counts}); {len(expected) // 2} shards, each made once, all the same"
        )


if __name__ == "__main__":
    main()
