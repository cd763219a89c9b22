"""What Ray says of its nodes, and what it offers to Prometheus while it works."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

Typed = Callable[[Sequence[str]], str]
"""Runs a command on the host of a user; returns what it prints, and raises RuntimeError where it fails."""

EVERY_S = 2.0
"""Time between two looks at the metrics in seconds: Ray renews them every 10 s, and takes those of a stage away some
time after its end."""
ASK = """
import sys, urllib.request as u
asked = u.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + sys.argv[2]})
print(u.urlopen(asked, timeout=20).read().decode())
"""
ASK_ALL = """
import sys, urllib.request as u
for name in sys.argv[1:]:
    try:
        print(u.urlopen(f'http://{name}:8090/metrics', timeout=5).read().decode())
    except OSError:
        pass
"""


def node_states(answer: str, address: str) -> Counter[str]:
    """Count the nodes that Ray has had at ``address`` by their state, from its dashboard's list of nodes."""
    rows = json.loads(answer)["data"]["result"]["result"]
    return Counter(row["state"] for row in rows if row["node_ip"] == address)


def metric_names(page: str) -> set[str]:
    """Return the names of the metrics on pages as Prometheus reads them."""
    lines = page.splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if line and not line.startswith("#")}


class Nodes:
    """The states of Ray's nodes, by the dashboard of its head."""

    def __init__(self, typed: Typed, token: str) -> None:
        self._typed, self._token = typed, token

    def count(self, address: str, state: str) -> int:
        """How many of the nodes that were ever at ``address`` are in a state: ALIVE or DEAD."""
        url = "http://ray-head:8265/api/v0/nodes?limit=1000"
        return node_states(self._typed([sys.executable, "-c", ASK, url, self._token]), address)[state]


class MetricsWatch:
    """Every name of a metric that some host has offered since the watch began; a host that is cut off is left out."""

    def __init__(self, typed: Typed, hosts: Iterable[str]) -> None:
        self.seen: set[str] = set()
        self._typed, self._hosts, self._ended = typed, list(hosts), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MetricsWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            with contextlib.suppress(RuntimeError):
                self.seen |= metric_names(self._typed([sys.executable, "-c", ASK_ALL, *self._hosts]))
