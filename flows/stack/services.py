"""A Prefect server, a worker and a Ray head on this machine, on loopback: start them, and stop exactly these.

All state is in one folder: Prefect's home, logs, secrets, and `stack.json` with every process's id and the moment it
began. An id alone would not do: it may be another process's by the time ours is stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from pydantic import BaseModel, ConfigDict, Field

from triforce.flows.jobs.environment import SETTINGS
from triforce.flows.jobs.ray_jobs import ADDRESS_VARIABLE
from triforce.ingest import storage

START_S = 300.0
"""Time allowed for a server or a head to start on a busy machine; 7 to 20 s on an idle one."""

STOP_S = 30.0

HOST = "127.0.0.1"


class StackConfig(BaseModel):
    """Ports of the services of one project, and how many cores Ray offers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefect_port: int = Field(4200, ge=1024, le=65_535, description="Port of Prefect's API and dashboard.")
    ray_port: int = Field(6379, ge=1024, le=65_535, description="Port of Ray's own address.")
    dashboard_port: int = Field(8265, ge=1024, le=65_535, description="Port of Ray's dashboard and job server.")
    metrics_port: int = Field(8080, ge=1024, le=65_535, description="Port of Ray's metrics for Prometheus.")
    client_port: int = Field(10_001, ge=1024, le=65_535, description="Port for `ray://` clients.")
    agent_port: int = Field(52_365, ge=1024, le=65_535, description="Port of the agent beside Ray's dashboard.")
    num_cpus: int | None = Field(None, ge=1, description="Cores that Ray offers; none: all.")
    password: bool = Field(False, description="Guard Prefect's API with an authentication string.")

    def ports(self) -> tuple[int, ...]:
        """Return all ports."""
        return tuple(value for name, value in self if name.endswith("_port"))


@dataclass(frozen=True)
class Service:
    """One process that `up` started."""

    name: str
    pid: int
    started: float
    """Start time in seconds since the epoch, from the operating system."""

    def process(self) -> psutil.Process | None:
        """Return the process while it runs and is the one that was started, else None."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


class StackError(RuntimeError):
    """A service did not start, or the request does not fit what runs."""


class Stack:
    """The services whose state is in ``folder``."""

    def __init__(self, folder: Path, config: StackConfig | None = None) -> None:
        self.folder = folder.absolute()
        saved = self._saved()
        self.config = config or StackConfig.model_validate(saved.get("config", {}))
        self.services = [Service(**entry) for entry in saved.get("services", [])]

    @property
    def prefect_url(self) -> str:
        """Address of Prefect's server."""
        return f"http://{HOST}:{self.config.prefect_port}"

    @property
    def ray_url(self) -> str:
        """Address of Ray's dashboard."""
        return f"http://{HOST}:{self.config.dashboard_port}"

    @property
    def ray_folder(self) -> Path:
        """Folder of Ray's sockets, which need a path under 107 bytes; a project's own may be longer."""
        name = hashlib.sha256(str(self.folder).encode()).hexdigest()[:10]
        return Path(tempfile.gettempdir()) / f"triforce-ray-{name}"

    def environment(self) -> dict[str, str]:
        """Return the environment of programs that use these services.

        Secrets are in files but for Prefect's, which takes no file.
        """
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RAY_"))}
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "ray-token"),
            ADDRESS_VARIABLE: self.ray_url,
        }
        if (password := self._password()) is not None:
            own |= {"PREFECT_API_AUTH_STRING": password, "PREFECT_SERVER_API_AUTH_STRING": password}
        return keep | SETTINGS | own

    def up(self, project: Path, say: Callable[[str], None]) -> None:
        """Start what does not run, and register the deployments of ``project``'s prefect.yaml."""
        running = {service.name for service in self.services if service.process()}
        if not running:
            self._check_ports()
        self._prepare()
        start = Path(sys.executable).parent
        prefect = [str(start / "prefect"), "--no-prompt"]
        if "prefect server" not in running:
            command = [*prefect, "server", "start", "--host", HOST, "--port", str(self.config.prefect_port)]
            self._start("prefect server", command)
            self._wait("prefect server", f"{self.prefect_url}/api/health")
        if "ray head" not in running:
            self._start("ray head", self._ray_command(str(start / "ray")))
            self._wait("ray head", f"{self.ray_url}/api/version")
        if "prefect worker" not in running:
            self._run([*prefect, "work-pool", "create", "local", "--type", "process", "--overwrite"])
            worker = [*prefect, "worker", "start", "--pool", "local", "--name", "local", "--limit", "2"]
            self._start("prefect worker", worker, cwd=project)
        if (project / "prefect.yaml").is_file():
            self._run([*prefect, "deploy", "--all"], cwd=project)
        else:
            say(f"{project}: no prefect.yaml here, so no deployment was registered")

    def down(self) -> list[str]:
        """Stop what `up` started and its child processes, the last first; return the names of what ran."""
        stopped = []
        for service in reversed(self.services):
            if (process := service.process()) is not None:
                _stop(process)
                stopped.append(service.name)
        self.services = []
        if self.folder.exists():
            self._save()
        shutil.rmtree(self.ray_folder, ignore_errors=True)
        return stopped

    def _ray_command(self, ray: str) -> list[str]:
        options = {
            "--node-ip-address": HOST,
            "--port": self.config.ray_port,
            "--dashboard-host": HOST,
            "--dashboard-port": self.config.dashboard_port,
            "--metrics-export-port": self.config.metrics_port,
            "--ray-client-server-port": self.config.client_port,
            "--dashboard-agent-listen-port": self.config.agent_port,
            # Otherwise the workers' are 10 002 to 19 999, and Ray refuses to have any of the above among them.
            "--min-worker-port": 0,
            "--max-worker-port": 0,
            "--temp-dir": self.ray_folder,
            "--num-cpus": self.config.num_cpus,
        }
        words = [str(word) for name, value in options.items() if value is not None for word in (name, value)]
        return [ray, "start", "--head", "--block", "--disable-usage-stats", *words]

    def _prepare(self) -> None:
        for name in ("prefect", "logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n")
        _write_secret(self.folder / "ray-token")
        if self.config.password:
            _write_secret(self.folder / "prefect-password")

    def _password(self) -> str | None:
        file = self.folder / "prefect-password"
        return f"triforce:{file.read_text().strip()}" if self.config.password and file.is_file() else None

    def _check_ports(self) -> None:
        for port in self.config.ports():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError as error:
                    raise StackError(f"port {port} is taken on {HOST}; choose another, see --help") from error

    def _start(self, name: str, command: list[str], cwd: Path | None = None) -> None:
        with self.log_of(name).open("ab") as log:
            child = subprocess.Popen(
                command,
                env=self.environment(),
                cwd=cwd or self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        others = [service for service in self.services if service.name != name]
        self.services = [*others, Service(name, child.pid, psutil.Process(child.pid).create_time())]
        self._save()

    def _wait(self, name: str, url: str) -> None:
        """Wait until the service answers; 401 is an answer."""
        [service] = [service for service in self.services if service.name == name]
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if service.process() is None:
                break
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(url, timeout=10).status_code < 500:
                    return
            time.sleep(0.5)
        log = self.log_of(name)
        raise StackError(f"{name} did not start; {log} ends with: {log.read_text(errors='replace')[-500:]}")

    def _run(self, command: list[str], cwd: Path | None = None) -> None:
        done = subprocess.run(
            command, env=self.environment(), cwd=cwd or self.folder, capture_output=True, text=True, timeout=600
        )
        if done.returncode:
            raise StackError(f"{' '.join(command[1:])}: {(done.stdout + done.stderr)[-800:]}")

    def log_of(self, name: str) -> Path:
        """Return the path of a service's log."""
        return self.folder / "logs" / f"{name.replace(' ', '-')}.log"

    def _saved(self) -> dict[str, Any]:
        file = self.folder / "stack.json"
        return dict(json.loads(file.read_text())) if file.is_file() else {}

    def _save(self) -> None:
        state = {"config": self.config.model_dump(), "services": [asdict(service) for service in self.services]}
        storage.write_bytes(self.folder / "stack.json", json.dumps(state, indent=1).encode())


def _write_secret(file: Path) -> None:
    """Write a random secret that only its owner may read; one that is there stays."""
    if not file.is_file():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as secret:
            secret.write(secrets.token_hex(32))


def _stop(process: psutil.Process) -> None:
    """End a process and its descendants, which are listed first: orphans cannot be found by their parent."""
    family = [process]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    _, alive = psutil.wait_procs([process], timeout=STOP_S)
    for child in [*alive, *family[1:]]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(alive, timeout=10)
