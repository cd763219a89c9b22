"""How many cores this process may use, and work that is shared by them: a container or ``taskset`` may leave it fewer
than the machine has.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

AHEAD = 4
"""Results a thread that are made before they are asked for. Assumed."""

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


def map_ahead(work: Callable[[ItemT], ResultT], items: Iterable[ItemT], num_threads: int) -> Iterator[ResultT]:
    """Yield what ``work`` makes of each item, in order, made by threads; no more than `AHEAD` a thread are held.

    What it raises is raised in its turn. With one thread all is done in the caller's.
    """
    if num_threads == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > AHEAD * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
