"""The services of ``infra/docker/compose.yaml`` as plain processes, each on a host of its own.

Commands, environments and secrets are the file's; names resolve as they would there. What comes as a foreign image is
a program of this machine: Debian's PostgreSQL, and any S3-compatible server for the store.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hosts import Host, Network, wait_for

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra/docker/compose.yaml"
POSTGRES_BIN = Path("/usr/lib/postgresql")
START_S = 240.0
IMAGE = {  # as the Dockerfile has it
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}
HOSTS_FILE = {"GRPC_DNS_RESOLVER": "native"}
"""Names are in the hosts' files here; gRPC's own resolver asks a server, which containers have and these hosts not."""


@dataclass
class Placed:
    """A service and the host that it runs on."""

    host: Host
    command: list[str]
    environment: dict[str, str]
    health: list[str] | None


class Cluster:
    """All services of the compose file, workers of Ray twice, and two more hosts: `web` and `user`."""

    def __init__(self, folder: Path, store_command: list[str]) -> None:
        self.folder, self.store_command = folder, store_command
        self.compose = yaml.safe_load(COMPOSE.read_text())
        self.secrets = self._make_secrets()
        names = [name for name in self.compose["services"] if name != "ray-worker"]
        self.network = Network(folder, [*names, "ray-worker-1", "ray-worker-2", "web", "user"])
        self.placed: dict[str, Placed] = {}
        self.restarts: list[str] = []
        """Services that ended and were started again, as ``restart: unless-stopped`` has it."""
        self._killed: set[str] = set()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._over = threading.Event()

    def host(self, name: str) -> Host:
        return self.network.hosts[name]

    def up(self) -> None:
        """Start everything in the order of ``depends_on``, each when what it needs is healthy."""
        self._prepare_postgres()
        self._supervisor.start()
        for name in ("postgres", "store", "prefect", "ray-head", "ray-worker-1", "ray-worker-2", "worker"):
            self.start(name)
            seconds = self.wait_until_healthy(name)
            print(f"    {name} at {self.host(name).address}: healthy after {seconds:.0f} s", flush=True)

    def start(self, name: str) -> None:
        placed = self._place(name)
        placed.host.start(name, placed.command, placed.environment, ROOT)
        self.placed[name] = placed
        self._killed.discard(name)

    def kill(self, name: str) -> None:
        """End a service at once, until `start`."""
        self._killed.add(name)
        self.host(name).stop(name, signal.SIGKILL)

    def down(self) -> None:
        """Let what ends from now on stay ended."""
        self._over.set()
        if self._supervisor.is_alive():
            self._supervisor.join()

    def _supervise(self) -> None:
        while not self._over.wait(1):
            for name, placed in list(self.placed.items()):
                if name not in self._killed and placed.host.restart_the_dead(name):
                    self.restarts.append(name)

    def wait_until_healthy(self, name: str) -> float:
        health = self.placed[name].health
        return wait_for(name, lambda: health is None or self._passes(name, health), START_S)

    def _passes(self, name: str, health: list[str]) -> bool:
        placed = self.placed[name]
        try:
            placed.host.run(health, placed.environment, ROOT, timeout_s=60)
        except (RuntimeError, subprocess.TimeoutExpired):
            return False
        return True

    def user_environment(self) -> dict[str, str]:
        """What a person exports who types `prefect` and `triforce`; the worker's, which reaches everything."""
        return self.placed["worker"].environment

    def _place(self, name: str) -> Placed:
        service = self.compose["services"]["ray-worker" if name.startswith("ray-worker") else name]
        host = self.host(name)
        environment = self._environment(host, service.get("environment", {}))
        command = service.get("command", [])
        words = shlex.split(command) if isinstance(command, str) else command
        health = service.get("healthcheck", {}).get("test", [None])[1:] or None
        if name == "postgres":
            words, health = self._postgres(), ["pg_isready", "-h", "127.0.0.1"]
        elif name == "store":
            health = [sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 8333), 5)"]
            words = self.store_command
        else:
            words = [str(ROOT / "infra/docker/entrypoint.sh"), *words]
        if name.startswith("ray-worker"):
            words = [*words, "--num-cpus", "1"]  # hosts with one core: work has to spread
        return Placed(host, [str(word) for word in words], environment, health)

    def _environment(self, host: Host, named: dict[str, Any]) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), *map(str, self._postgres_bins()), os.environ["PATH"]])
        kept = {name: os.environ[name] for name in ("PYTHONPATH", "LANG") if name in os.environ}
        own = {name: self._local(host, str(value)) for name, value in named.items()}
        return {"HOME": str(host.folder)} | kept | IMAGE | HOSTS_FILE | own | {"PATH": path}

    def _local(self, host: Host, value: str) -> str:
        """The containers' paths as they are here."""
        if value.startswith("/run/secrets/"):
            return str(self.secrets / value.removeprefix("/run/secrets/"))
        for own in ("/tmp", "/home/triforce"):
            if value.startswith(own):
                return str(host.folder) + value.removeprefix(own)
        return value

    def _make_secrets(self) -> Path:
        """By the script that makes the compose file's, in a folder of this run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        script = self.folder / "secrets.sh"
        script.write_text((ROOT / "infra/docker/secrets.sh").read_text())
        subprocess.run(["bash", str(script)], check=True, capture_output=True)
        return self.folder / "secrets"

    def secret_values(self) -> dict[str, str]:
        names = ("postgres-password", "prefect-auth", "ray-token", "store-key", "store-secret")
        return {name: (self.secrets / name).read_text().strip() for name in names}

    @staticmethod
    def _postgres_bins() -> list[Path]:
        return sorted(POSTGRES_BIN.glob("*/bin"))

    def _prepare_postgres(self) -> None:
        """A data folder of PostgreSQL's own user, with the password that the secret says."""
        if not self._postgres_bins():
            raise SystemExit("no PostgreSQL here; apt-get install postgresql")
        self.database = Path(tempfile.mkdtemp(prefix="triforce-postgres-"))
        password = self.database / "password"
        password.write_text((self.secrets / "postgres-password").read_text())
        for path in (self.database, password):
            subprocess.run(["chown", "postgres", str(path)], check=True)
        folder = str(self.database / "data")
        initdb = [str(self._postgres_bins()[-1] / "initdb"), "-D", folder, "-U", "prefect", "-A", "scram-sha-256"]
        self._as_postgres([*initdb, f"--pwfile={password}"])
        password.unlink()
        (self.database / "data/pg_hba.conf").open("a").write("host all all 10.77.0.0/24 scram-sha-256\n")
        single = [str(self._postgres_bins()[-1] / "postgres"), "--single", "-D", folder, "postgres"]
        self._as_postgres(single, "CREATE DATABASE prefect;\n")

    def _as_postgres(self, words: list[str], text: str = "") -> None:
        done = subprocess.run(["setpriv", *AS_POSTGRES, *words], input=text, capture_output=True, text=True, cwd="/")
        if done.returncode:
            raise SystemExit(f"{words[0]}: {done.stderr[-500:]}")

    def _postgres(self) -> list[str]:
        server = [str(self._postgres_bins()[-1] / "postgres"), "-D", str(self.database / "data")]
        sockets = f"unix_socket_directories={self.database}"
        return ["setpriv", *AS_POSTGRES, *server, "-c", "listen_addresses=*", "-c", sockets]


AS_POSTGRES = ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
