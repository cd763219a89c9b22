"""How many cores this process may use: a container or ``taskset`` may leave it fewer than the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows the groups of processes whose use is limited."""


def num_cores() -> int:
    """Return how many cores this process may use, at least 1: those that it may run on, or fewer where a container's
    share of processor time, as of a Kubernetes pod with a limit, is worth fewer.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (cores for folder in cgroups("cpu") if (cores := _quota(folder)) is not None)
    return max(1, min([allowed, *map(math.ceil, quotas)]))


def cgroups(controller: str, root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> Iterator[Path]:
    """Yield the folders of this process's groups for ``controller``, from its own to the outermost; none where there
    are no groups. Both versions of Linux's control groups are read.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:  # "0::/path" of version 2, "4:cpu,cpuacct:/path" of version 1
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root
        folder = base / path.strip("/")
        # A container sees its own group at the root, whatever the path says.
        yield from (place for place in (folder, *folder.parents) if place.is_relative_to(base) and place.is_dir())


def _quota(folder: Path) -> float | None:
    """Processor time over time that a group may use, in cores; None where it is not limited."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
