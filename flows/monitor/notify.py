"""Failure notifications to a webhook, and the end of a flow's Ray jobs when it is cancelled."""

from __future__ import annotations

import logging
import os
from typing import Any

import httpx

from triforce.flows.jobs.ray_jobs import find_dashboard, stop_jobs_of

log = logging.getLogger(__name__)

SECRET_BLOCK = "triforce-webhook"
"""Name of the Prefect Secret block that holds the webhook's address."""

VARIABLE = "TRIFORCE_WEBHOOK_URL"

TIMEOUT_S = 10.0


def tell_failure(flow: Any, flow_run: Any, state: Any) -> None:
    """Send a failure notification: the hook for ``on_failure`` and ``on_crashed``.

    It is a JSON object with ``text``, as chat programs take it, and details. The webhook's address is a secret: an
    error in sending names only what kind of error it was.
    """
    url = webhook_url()
    if url is None:
        return
    message = {
        "text": f"Flow {flow.name!r}, run {flow_run.name!r}: {state.name}. {state.message or ''}".strip()[:2000],
        "flow": flow.name,
        "flow_run": flow_run.name,
        "flow_run_id": str(flow_run.id),
        "state": state.name,
    }
    try:
        httpx.post(url, json=message, timeout=TIMEOUT_S).raise_for_status()
    except httpx.HTTPStatusError as error:
        log.warning("webhook: refused a failure notification with status %d", error.response.status_code)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        log.warning("webhook: a failure notification was not delivered: %s", type(error).__name__)


def webhook_url() -> str | None:
    """Return the webhook's address from the Secret block or the environment; None where neither has one."""
    from prefect.blocks.system import Secret

    try:
        return str(Secret.load(SECRET_BLOCK).get())  # type: ignore[union-attr]
    except ValueError:  # there is no such block
        return os.environ.get(VARIABLE) or None


def stop_jobs(flow: Any, flow_run: Any, state: Any) -> None:
    """Stop the jobs that the flow run started on a Ray cluster: the hook for ``on_cancellation``."""
    given = flow_run.parameters.get("ray_dashboard") or flow_run.parameters.get("ray_address")
    dashboard = find_dashboard(given)
    if dashboard is not None:
        log.warning("cancelled: stopped the jobs %s on %s", stop_jobs_of(dashboard, str(flow_run.id)), dashboard)
