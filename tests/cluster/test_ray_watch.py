"""What the cluster run waits for is read rightly from a real Ray head: its nodes' states, and its metrics."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile

import pytest
import ray
from hosts import wait_for
from ray_watch import MetricsWatch, Nodes, metric_names, node_states


def test_states_are_counted_by_address():
    answer = (
        '{"result": true, "data": {"result": {"total": 3, "result": ['
        '{"node_id": "a", "node_ip": "10.77.0.6", "state": "DEAD"}, {"node_id": "b", "node_ip": "10.77.0.6", "state": '
        '"ALIVE"}, {"node_id": "c", "node_ip": "10.77.0.5", "state": "ALIVE"}]}}}'
    )
    assert node_states(answer, "10.77.0.6") == {"DEAD": 1, "ALIVE": 1}
    assert node_states(answer, "10.77.0.9")["DEAD"] == 0


def test_names_of_metrics_are_read_from_a_page():
    page = '# HELP ray_tasks x\nray_tasks{State="RUNNING"} 2\nray_node_mem_used 3.0\n\n'
    assert metric_names(page) == {"ray_tasks", "ray_node_mem_used"}


def test_a_watch_keeps_what_has_come_and_gone(monkeypatch):
    monkeypatch.setattr("ray_watch.EVERY_S", 0.01)
    pages = iter(["ray_short 1", "ray_long 1"])

    def typed(words):
        page = next(pages, None)
        if page is None:
            raise RuntimeError("the host is cut off")
        return page

    with MetricsWatch(typed, ["ray-head"]) as watch:
        wait_for("both", lambda: {"ray_short", "ray_long"} <= watch.seen, 10, every_s=0.01)


@pytest.mark.slow
def test_a_real_head_tells_of_its_nodes():
    folder = tempfile.mkdtemp(prefix="ray-")  # short, as a socket's path may have 107 bytes
    address = ray.util.get_node_ip_address()
    port = 20_000 + os.getpid() % 10_000
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 32, "RAY_TMPDIR": folder}
    words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "0"]
    words += ["--port", str(port), "--dashboard-port", str(port + 1)]
    head = subprocess.Popen([*words, "--disable-usage-stats"], env=environment, stdout=subprocess.DEVNULL)
    try:

        def typed(command):
            command = [word.replace("ray-head:8265", f"127.0.0.1:{port + 1}") for word in command]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr)
            return done.stdout

        def is_alive() -> bool:
            assert head.poll() is None, "it ended as it started"
            with contextlib.suppress(RuntimeError):
                return Nodes(typed, "t" * 32).count(address, "ALIVE") == 1
            return False

        wait_for("the head's node", is_alive, 120, every_s=1)
        with pytest.raises(RuntimeError, match=r"40[13]"):
            Nodes(typed, "wrong" * 8).count(address, "ALIVE")
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
