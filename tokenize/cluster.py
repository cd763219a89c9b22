"""Where Ray work runs."""

from __future__ import annotations

import logging
import os

import ray


def connect() -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, as it does inside a Ray job, or start Ray in this process.

    A cluster that merely happens to run on this machine is left alone: it may be another user's, or end at any time.
    """
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    else:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
