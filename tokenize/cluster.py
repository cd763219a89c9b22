"""Where Ray work runs."""

from __future__ import annotations

import logging
import os

import ray

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Starts of Ray that are tried. Assumed."""


def connect(num_cpus: int | None = None) -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, as it does inside a Ray job, or start Ray in this process.

    A cluster that merely happens to run on this machine is left alone: it may be another user's, or end at any time.
    ``num_cpus``, by default all cores, is for the one that is started here.
    """
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        return
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
            return
        except (
            Exception
        ) as error:  # Ray raises a bare Exception when its processes take over 30 s, as on a busy machine
            if attempt == ATTEMPTS or "timed out during startup" not in str(error):
                raise
            log.warning("Ray did not start in time, attempt %d of %d", attempt, ATTEMPTS)
            ray.shutdown()
