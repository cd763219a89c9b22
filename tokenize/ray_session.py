"""Join the Ray cluster that the environment names, or start Ray in this process."""

from __future__ import annotations

import logging
import os

import ray
from tenacity import before_sleep_log, retry, retry_if_exception, stop_after_attempt

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Attempts to start Ray. Assumed."""


def connect(num_cpus: int | None = None) -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, as it does inside a Ray job, or start Ray in this process.

    A cluster that merely happens to run on this machine is left alone: it may be another user's, or end at any time.
    ``num_cpus``, by default all cores, is for the one that is started here.
    """
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    else:
        _start(num_cpus)


def _timed_out(error: BaseException) -> bool:
    """Return whether Ray's processes took over 30 s to start, as on a busy machine; Ray raises a bare Exception."""
    return isinstance(error, Exception) and "timed out during startup" in str(error)


@retry(
    retry=retry_if_exception(_timed_out),
    stop=stop_after_attempt(ATTEMPTS),
    before=lambda attempt: ray.shutdown() if attempt.attempt_number > 1 else None,
    before_sleep=before_sleep_log(log, logging.WARNING),
    reraise=True,
)
def _start(num_cpus: int | None) -> None:
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
