"""The deployments on what ``triforce up`` starts: a real Prefect server with a password, a worker, a Ray head."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from corpora import add_recording
from tiny_run import write_release

from triforce.flows.examples.demo.serve_sites import serve
from triforce.flows.jobs.ray_jobs import FLOW_RUN
from triforce.flows.stack.services import Stack, StackConfig
from triforce.flows.stack.status import describe
from triforce.ingest.corpus.store import Corpus

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 300.0
"""For what takes 10 to 40 s on an idle machine."""

pytestmark = pytest.mark.slow


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _until(what: str, holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (value := holds()):
        assert time.monotonic() < deadline, f"not within {WAIT_S:.0f} s: {what}"
        time.sleep(1)
    return value


class Services(Stack):
    """The stack, and what a test asks it."""

    def prefect(self, *arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("prefect")), "--no-prompt", *arguments]
        done = subprocess.run(
            command, env=self.environment(), cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
        )
        logs = "".join(f"\n{path.name}: {path.read_text()[-2500:]}" for path in self.folder.glob("logs/*.log"))
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}{logs}"
        return done.stdout

    def run(self, deployment: str, parameters: dict[str, Any], *options: str) -> str:
        return self.prefect("deployment", "run", deployment, "--params", json.dumps(parameters), *options)

    def ask(self, path: str, **body: Any) -> Any:
        secret = self.environment()["PREFECT_API_AUTH_STRING"].split(":", 1)
        answer = httpx.post(f"{self.prefect_url}/api/{path}", json=body, auth=tuple(secret), timeout=60)
        return answer.raise_for_status().json() if answer.content else None

    def jobs(self) -> list[dict[str, Any]]:
        token = (self.folder / "ray-token").read_text()
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{self.ray_url}/api/jobs/", headers=headers, timeout=60).raise_for_status().json()

    def processes(self) -> list[psutil.Process]:
        own = [process for service in self.services if (process := service.process())]
        return own + [child for process in own for child in process.children(recursive=True)]


@pytest.fixture(scope="module")
def failures() -> Iterator[list[dict]]:
    """What a webhook is told; its address is in the list's first entry."""
    told: list[dict] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told.append({"url": f"http://127.0.0.1:{server.server_port}/webhook-secret-8c1f"})
        yield told
        server.shutdown()


@pytest.fixture(scope="module")
def stack(tmp_path_factory, failures) -> Iterator[Services]:
    ports = {name: _free_port() for name in StackConfig.model_fields if name.endswith("_port")}
    folder = tmp_path_factory.mktemp("stack")
    stack = Services(folder, StackConfig(num_cpus=2, password=True, **ports))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIFORCE_WEBHOOK_URL", failures[0]["url"])
        try:
            stack.up(ROOT, print)
            yield stack
        finally:
            family = stack.processes()
            stack.down()
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not stack.ray_folder.exists()


@pytest.fixture(scope="module")
def small_run(tmp_path_factory) -> dict[str, str]:
    """Where a tiny corpus and a release with an untrained dVAE lie."""
    folder = tmp_path_factory.mktemp("run")
    add_recording(Corpus(str(folder / "corpus")), "talks", "one", 6)
    write_release(folder / "release", stages=("dvae",))
    return {name: str(folder / name) for name in ("corpus", "release", "tokens", "runs")}


def test_a_worker_runs_a_deployment_that_fills_the_corpus(stack, sites, tmp_path):
    listed = {row["name"] for row in stack.ask("deployments/filter")}
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
        stack.run("ingest/youtube", parameters, "--watch", "--watch-interval", "2")

    corpus = Corpus(str(tmp_path / "corpus"))
    [recording] = corpus.recordings("talks")
    assert (recording.status, recording.title) == ("fetched", "Talks at the Exchange, talk 1")
    clips = corpus.clips().to_pylist()
    assert clips
    assert all(clip["recording_id"] == recording.recording_id for clip in clips)
    assert any(clip["text"] for clip in clips)

    artifacts = stack.ask("artifacts/filter")
    [row] = json.loads(next(item["data"] for item in artifacts if item["key"] == "ingest-youtube"))
    assert (row["source"], row["fetched"], row["clips"]) == ("talks", 1, len(clips))
    names = {run["name"] for run in stack.ask("task_runs/filter")}
    assert any(name.startswith("clip talks: ") for name in names)


def test_tokenize_is_a_ray_job_whose_log_and_progress_are_the_flows(stack, small_run):
    config = {name: small_run[name] for name in ("corpus", "release", "tokens")} | {"clips_per_shard": 3}
    stack.run("tokenize/corpus", {"config": config}, "--watch", "--watch-interval", "2")
    index = json.loads((Path(small_run["tokens"]) / "index.json").read_text())
    assert (index["totals"]["num_clips"], len(index["shards"])) == (6, 2)
    [job] = [job for job in stack.jobs() if (job["submission_id"] or "").startswith("tokenize-")]
    [run] = [run for run in stack.ask("flow_runs/filter") if run["name"] == f"tokenize {config['corpus']}"]
    assert (job["status"], job["metadata"][FLOW_RUN]) == ("SUCCEEDED", run["id"])
    log = "\n".join(entry["message"] for entry in stack.ask("logs/filter"))
    assert "2 of 2" in log
    [bar] = stack.ask("artifacts/filter", artifacts={"key": {"any_": ["progress-tokenize"]}})
    assert (bar["data"], bar["description"]) == (100.0, "2 of 2 shards")
    assert "SUCCEEDED  tokenize-" in describe(stack)


def test_a_cancelled_flow_stops_its_job(stack, small_run):
    config = {name: small_run[name] for name in ("corpus", "runs")}
    config |= {"stage": "dvae", "release": f"{small_run['runs']}/new", "max_steps": 100_000}
    stack.run("train/dvae", {"config": config})

    def jobs(status: str) -> list[str]:
        return [job["submission_id"] for job in stack.jobs() if job["submission_id"] and job["status"] == status]

    def runs() -> dict[str, dict]:
        return {run["name"]: run for run in stack.ask("flow_runs/filter")}

    name = f"train dvae into {config['release']}"
    [job] = _until("the training job runs", lambda: jobs("RUNNING"))
    stack.ask(f"flow_runs/{runs()[name]['id']}/set_state", state={"type": "CANCELLING"})
    _until("the job is stopped", lambda: job in jobs("STOPPED"))
    _until("the flow run is cancelled", lambda: runs()[name]["state_type"] == "CANCELLED")


def test_a_failure_is_told_to_the_webhook_and_not_tried_again(stack, failures, tmp_path):
    config = {"stage": "dvae", "corpus": str(tmp_path), "release": str(tmp_path / "r"), "runs": str(tmp_path / "x")}
    stack.run("train/dvae", {"config": config})
    [told] = _until("the webhook is called", lambda: failures[1:])
    assert (told["flow"], told["state"]) == ("train", "Failed")
    assert "triforce ingest" in told["text"]
    [run] = [run for run in stack.ask("task_runs/filter") if run["flow_run_id"] == told["flow_run_id"]]
    assert run["run_count"] == 1


def test_prefect_and_the_dashboard_are_on_loopback_and_every_door_is_locked(stack):
    """Ray binds its own ports to all interfaces, whatever address it is given: its token is what guards those."""
    open_to_all = {}
    for process in stack.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.ip not in ("127.0.0.1", "::1"):
                    open_to_all[connection.laddr.port] = " ".join(process.cmdline())
    assert all("ray" in command for command in open_to_all.values()), open_to_all
    assert not {stack.config.prefect_port, stack.config.dashboard_port} & set(open_to_all)
    assert httpx.post(f"{stack.prefect_url}/api/flows/filter", json={}).status_code == 401
    assert httpx.get(f"{stack.ray_url}/api/jobs/").status_code in (401, 403)
    for environment, locked in (
        (stack.environment(), False),
        (stack.environment() | {"RAY_AUTH_MODE": "disabled"}, True),
    ):
        ray = str(Path(sys.executable).with_name("ray"))
        check = [ray, "health-check", "--address", f"127.0.0.1:{stack.config.ray_port}"]
        done = subprocess.run(check, env=environment, capture_output=True, timeout=120, check=False)
        assert bool(done.returncode) == locked, done


def test_secrets_are_in_no_log_and_no_artifact(stack, failures):
    """After all that ran above: their own files hold them, readable by their owner alone, and nothing else does."""
    names = ("ray-token", "prefect-password")
    secrets = [(stack.folder / name).read_bytes().strip() for name in names] + [failures[0]["url"].encode()]
    assert all((stack.folder / name).stat().st_mode & 0o077 == 0 for name in names)
    stores = [path for folder in (stack.folder, stack.ray_folder) for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in stores)
    assert any("job-driver" in path.name for path in stores)

    def reveals(path: Path) -> bool:
        try:
            text = path.read_bytes()
        except FileNotFoundError:  # a lock that the server has let go of since
            return False
        return any(secret in text for secret in secrets)

    assert reveals(stack.folder / "ray-token")
    assert not {path.name for path in stores if path.name not in names and reveals(path)}
