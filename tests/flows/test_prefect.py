"""The deployments on a real Prefect server, run by a real worker, against a site on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from triforce.flows.demo.serve import serve
from triforce.flows.environment import SETTINGS
from triforce.ingest.corpus import Corpus

ROOT = Path(__file__).resolve().parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))
START_S = 300.0
"""For the server on a machine that is busy with other things; 7 to 20 s on an idle one."""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Prefect:
    """A server and a worker with a home of their own."""

    def __init__(self, home: Path) -> None:
        self.port = _free_port()
        self.home = home
        keep = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        own = {"PREFECT_HOME": str(home), "PREFECT_API_URL": self.url, "PREFECT_WORKER_QUERY_SECONDS": "2"}
        self.environment = keep | SETTINGS | own
        self.processes: list[subprocess.Popen] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self, name: str, *arguments: str) -> None:
        log = (self.home / f"{name}.log").open("wb")
        process = subprocess.Popen(
            [PREFECT, *arguments], env=self.environment, cwd=ROOT, stdout=log, stderr=log, process_group=0
        )
        self.processes.append(process)

    def run(self, *arguments: str, timeout_s: float = 400) -> str:
        done = subprocess.run(
            [PREFECT, "--no-prompt", *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        logs = "".join(f"\n{path.name}: {path.read_text()[-1500:]}" for path in self.home.glob("*.log"))
        assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}{logs}"
        return done.stdout

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health", timeout=10).status_code == 200:
                    return
            time.sleep(0.5)
        pytest.fail(f"no Prefect server within {START_S:.0f} s: {(self.home / 'server.log').read_text()[-2000:]}")

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory) -> Iterator[Prefect]:
    prefect = Prefect(tmp_path_factory.mktemp("prefect"))
    try:
        prefect.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(prefect.port))
        prefect.wait_until_healthy()
        prefect.run("work-pool", "create", "local", "--type", "process")
        prefect.start("worker", "worker", "start", "--pool", "local", "--name", "test")
        yield prefect
    finally:
        prefect.stop()


@pytest.mark.slow
def test_a_worker_runs_a_deployment_that_fills_the_corpus(prefect, sites, tmp_path):
    prefect.run("deploy", "--all")
    listed = {row["name"] for row in httpx.post(f"{prefect.url}/deployments/filter", json={}).json()}
    assert listed == {row["name"] for row in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}

    with serve(sites) as base_url:
        source = {"name": "talks", "kind": "youtube", "urls": [f"{base_url}/videos/talk-01.html"]}
        config = {"contact": "test@example.org", "allow_private_hosts": True, "tries": 1, "sources": [source]}
        (tmp_path / "sources.yaml").write_text(yaml.safe_dump(config))
        parameters = {
            "kind": "youtube",
            "sources": str(tmp_path / "sources.yaml"),
            "corpus": str(tmp_path / "corpus"),
            "clips": {"transcribe": {"model": "tiny.en", "beam_size": 1, "language": "en"}},
        }
        watch = ["deployment", "run", "ingest/youtube", "--watch", "--watch-interval", "2"]
        prefect.run(*watch, "--params", json.dumps(parameters))

    corpus = Corpus(str(tmp_path / "corpus"))
    [recording] = corpus.recordings("talks")
    assert (recording.status, recording.title) == ("fetched", "Talks at the Exchange, talk 1")
    clips = corpus.clips().to_pylist()
    assert clips
    assert all(clip["recording_id"] == recording.recording_id for clip in clips)
    assert any(clip["text"] for clip in clips)

    artifacts = httpx.post(f"{prefect.url}/artifacts/filter", json={}).json()
    [row] = json.loads(next(item["data"] for item in artifacts if item["key"] == "ingest-youtube"))
    assert (row["source"], row["fetched"], row["clips"]) == ("talks", 1, len(clips))
    names = {run["name"] for run in httpx.post(f"{prefect.url}/task_runs/filter", json={}).json()}
    assert any(name.startswith("clip talks: ") for name in names)
