"""How many cores this process may use: a container or ``taskset`` may leave it fewer than the machine has."""

from __future__ import annotations

import os


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
