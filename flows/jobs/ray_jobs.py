"""Run a module as a job on a Ray cluster: submit or join it, follow its log, check its end, stop it with its flow.

A job's name is a hash of its arguments, and a number. So the cluster itself says what runs: a flow that is retried, or
started a second time, joins the job that is under way instead of starting another beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

log = logging.getLogger(__name__)

ADDRESS_VARIABLE = "TRIFORCE_RAY_ADDRESS"
"""Environment variable with the dashboard of the cluster that jobs go to where none is given."""

FLOW_RUN = "triforce_flow_run"
"""Key in a job's metadata of the id of the flow run at the root of the one that started it."""

UNREACHABLE_S = 300.0
"""Time without an answer from the head after which a job counts as lost. A restart takes under a minute."""

BAD_INPUT = 2
"""Exit code of our modules for bad input, which another attempt does not change."""


class RayJobError(RuntimeError):
    """A job ended without success; another attempt may go better."""


class RayJobRefused(ValueError):
    """A job exited with `BAD_INPUT`."""


def find_dashboard(given: str | None) -> str | None:
    """Return ``given``, or the dashboard that the environment names; None where the work is done in this process."""
    return given or os.environ.get(ADDRESS_VARIABLE) or None


def run_module(
    dashboard: str,
    module: str,
    arguments: dict[str, object],
    on_lines: Callable[[str], None],
    *,
    flow_run: str = "",
    timeout_s: float | None = None,
) -> str:
    """Run ``python -m module --name value ...`` to its end as a job on a cluster; return the job's id.

    ``dashboard`` is the URL of the cluster's dashboard. The cluster's machines have the project installed. ``on_lines``
    gets the log as it comes. ``flow_run`` is noted with the job, for `stop_jobs_of`.

    Raises RayJobRefused where the job exits with 2, and RayJobError where it fails, is stopped, takes over
    ``timeout_s`` or its cluster cannot be reached for `UNREACHABLE_S`.
    """
    client = _connect(dashboard)
    job = _submit(client, module, arguments, flow_run)
    try:
        asyncio.run(_follow(client, job, on_lines, timeout_s))
    except (KeyboardInterrupt, TimeoutError) as error:
        client.stop_job(job)
        if isinstance(error, TimeoutError):
            raise RayJobError(f"job {job} on {dashboard}: not done within {timeout_s:.0f} s, and stopped") from error
        raise
    _check(client, job, dashboard)
    return job


def stop_jobs_of(dashboard: str, flow_run: str) -> list[str]:
    """Stop every job that the flow run, or one below it, started; return their ids."""
    client = _connect(dashboard)
    jobs = [
        job.submission_id
        for job in client.list_jobs()
        if job.submission_id and (job.metadata or {}).get(FLOW_RUN) == flow_run and not job.status.is_terminal()
    ]
    for job in jobs:
        client.stop_job(job)
    return jobs


def job_prefix(module: str, arguments: dict[str, object]) -> str:
    """Return what the ids of all jobs with this module and these arguments begin with."""
    text = json.dumps([module, arguments], sort_keys=True, default=str)
    return f"{module.rpartition('.')[2]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}-"


def _connect(dashboard: str) -> JobSubmissionClient:
    """Return a client of the cluster's job server, waiting up to `UNREACHABLE_S` for a head that does not answer."""
    from ray.job_submission import JobSubmissionClient

    patiently = retry(
        retry=retry_if_exception_type(ConnectionError),
        stop=stop_after_delay(UNREACHABLE_S),
        wait=wait_fixed(2),
        reraise=True,
    )
    return patiently(JobSubmissionClient)(dashboard)


def _submit(client: JobSubmissionClient, module: str, arguments: dict[str, object], flow_run: str) -> str:
    """Return the job with this work that is under way, or else submit a new one."""
    prefix = job_prefix(module, arguments)
    earlier = {
        int(job.submission_id.removeprefix(prefix)): job
        for job in client.list_jobs()
        if job.submission_id and job.submission_id.startswith(prefix)
    }
    for job in earlier.values():
        if not job.status.is_terminal():
            log.info("joining job %s, which does this already", job.submission_id)
            return str(job.submission_id)
    words = [word for name, value in arguments.items() for word in (f"--{name.replace('_', '-')}", _as_text(value))]
    job_id = f"{prefix}{max(earlier, default=0) + 1}"
    with contextlib.suppress(RuntimeError):  # another run was quicker with this very id: then it is ours as well
        client.submit_job(
            entrypoint=shlex.join(["python", "-m", module, *words]),
            submission_id=job_id,
            metadata={FLOW_RUN: flow_run},
        )
        return job_id
    client.get_job_info(job_id)
    return job_id


def _as_text(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


async def _follow(
    client: JobSubmissionClient, job: str, on_lines: Callable[[str], None], timeout_s: float | None
) -> None:
    async with asyncio.timeout(timeout_s):
        seen = 0
        reached = time.monotonic()
        while True:
            try:
                seen = await _tail(client, job, on_lines, seen)
                if client.get_job_status(job).is_terminal():
                    return
                reached = time.monotonic()
            except (ConnectionError, OSError, RuntimeError) as error:
                # The log's connection breaks with the head's network; the job itself may be well.
                if time.monotonic() - reached > UNREACHABLE_S:
                    raise RayJobError(f"job {job}: its cluster does not answer: {error}") from error
            await asyncio.sleep(2)


async def _tail(client: JobSubmissionClient, job: str, on_lines: Callable[[str], None], seen: int) -> int:
    """Pass on the log beyond its first ``seen`` characters; return its length. Ray sends it from its beginning."""
    position = 0
    async for text in client.tail_job_logs(job):
        fresh = text[max(0, seen - position) :]
        position += len(text)
        if fresh.strip():
            on_lines(fresh.rstrip())
        seen = max(seen, position)
    return seen


def _check(client: JobSubmissionClient, job: str, dashboard: str) -> None:
    """Raise unless the job succeeded: following its log does not tell."""
    from ray.job_submission import JobStatus

    info = client.get_job_info(job)
    if info.status == JobStatus.SUCCEEDED:
        return
    tail = " / ".join(client.get_job_logs(job).splitlines()[-3:])
    error = RayJobRefused if info.driver_exit_code == BAD_INPUT else RayJobError
    raise error(f"job {job} on {dashboard} ended as {info.status}: {tail}")
