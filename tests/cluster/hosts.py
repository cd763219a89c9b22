"""Hosts on one machine: network namespaces with addresses of their own on a bridge that none but they can reach.

Needs root and Linux's ``ip``. Nothing of the machine's own network is touched.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

SUBNET = "10.77.0"
PREFIX = "triforce-"
SWITCH = f"{PREFIX}switch"
END_S = 10.0
"""How long what runs on a host may take to end before it is killed."""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Network:
    """The bridge and the hosts on it, each under its name; all of it goes with the context."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.hosts = {
            name: Host(name, f"{SUBNET}.{number}", folder / "hosts" / name) for number, name in enumerate(names, 2)
        }

    def __enter__(self) -> Network:
        self._clear()
        _ip("netns", "add", SWITCH)
        _ip("-n", SWITCH, "link", "add", "bridge", "type", "bridge")
        _ip("-n", SWITCH, "link", "set", "bridge", "up")
        names = "".join(f"{host.address} {host.name}\n" for host in self.hosts.values())
        for number, host in enumerate(self.hosts.values()):
            host.attach(number, "127.0.0.1 localhost\n" + names)
        return self

    def __exit__(self, *_) -> None:
        for host in self.hosts.values():
            host.end()
        self._clear()

    def _clear(self) -> None:
        listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
        for name in (line.split()[0] for line in listed.splitlines() if line.startswith(PREFIX)):
            _ip("netns", "del", name)


class Host:
    """One host: a namespace, a folder for its own files, and what runs on it."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        self.namespace = f"{PREFIX}{name}"
        self._port = ""
        self._services: dict[str, tuple[list[str], dict[str, str], Path]] = {}
        self._running: dict[str, subprocess.Popen] = {}

    def attach(self, number: int, names: str) -> None:
        """Make the namespace, plug it into the switch and tell it the others' names."""
        self.folder.mkdir(parents=True, exist_ok=True)
        own = Path("/etc/netns") / self.namespace  # `ip netns exec` puts these files over the machine's
        own.mkdir(parents=True, exist_ok=True)
        (own / "hosts").write_text(names)
        self._port = f"port{number}"
        _ip("netns", "add", self.namespace)
        _ip("-n", SWITCH, "link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        _ip("-n", SWITCH, "link", "set", self._port, "master", "bridge", "up")
        _ip("-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.namespace, "link", "set", device, "up")
        # Leads nowhere, but Ray asks the routes which address is its own.
        _ip("-n", self.namespace, "route", "add", "default", "via", f"{SUBNET}.1")

    def cut(self) -> None:
        """Pull the cable: nothing reaches the host any more, and nobody is told."""
        _ip("-n", SWITCH, "link", "set", self._port, "down")

    def mend(self) -> None:
        _ip("-n", SWITCH, "link", "set", self._port, "up")

    def command(self, words: Sequence[str]) -> list[str]:
        """``words`` as run here: with a ``/tmp/ray`` that no other host sees, and with the host's name, where gloo
        listens.
        """
        (self.folder / "ray").mkdir(exist_ok=True)
        Path("/tmp/ray").mkdir(exist_ok=True)
        own = f'hostname {self.name} && mount --bind "{self.folder / "ray"}" /tmp/ray && exec "$@"'
        return ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts", "sh", "-c", own, "sh", *words]

    def start(self, service: str, words: Sequence[str], environment: dict[str, str], cwd: Path) -> None:
        """Run ``words`` as a service; its log is ``<service>.log`` in the host's folder."""
        self._services[service] = (list(words), environment, cwd)
        with (self.folder / f"{service}.log").open("ab") as log:
            self._running[service] = subprocess.Popen(
                self.command(words),
                env=environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, words: Sequence[str], environment: dict[str, str], cwd: Path, timeout_s: float = 600) -> str:
        """What a command that is run here prints; RuntimeError with its last words where it fails."""
        done = subprocess.run(
            self.command(words), env=environment, cwd=cwd, capture_output=True, text=True, timeout=timeout_s
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(words)[:200]}: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout

    def restart_the_dead(self, service: str) -> bool:
        """Start the service again if it has ended, as a supervisor does; whether it had."""
        if self._running[service].poll() is None:
            return False
        self.start(service, *self._services[service])
        return True

    def stop(self, service: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a service and all that came of it."""
        child = self._running[service]
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        for process in family[:1] if number == signal.SIGTERM else family:
            with contextlib.suppress(psutil.NoSuchProcess):  # a parent's end may have ended it already
                process.send_signal(number)
        _, alive = psutil.wait_procs(family, timeout=20)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        child.wait()

    def end(self) -> None:
        """End everything that runs here, whoever started it."""
        listed = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True).stdout
        alive = []
        for pid in map(int, listed.split()):
            with contextlib.suppress(psutil.NoSuchProcess):
                alive.append(psutil.Process(pid))
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            _, alive = psutil.wait_procs(alive, timeout=END_S)


def wait_for(what: str, is_so: Callable[[], bool], timeout_s: float, every_s: float = 0.5) -> float:
    """Seconds until ``is_so``; TimeoutError that says what was waited for."""
    started = time.monotonic()
    while not is_so():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(every_s)
    return time.monotonic() - started
