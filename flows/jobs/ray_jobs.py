"""A stage as a job on a Ray cluster: submitted or joined, its log followed, its end checked; stopped with its flow.

A job's name is a hash of what it is told, and a number. So the cluster itself says what runs: a flow that is retried,
or started a second time, joins the job that is under way instead of starting another beside it.
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

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

log = logging.getLogger(__name__)

ADDRESS_VARIABLE = "TRIFORCE_RAY_ADDRESS"
"""The dashboard of the cluster that jobs go to where a flow names none."""

FLOW_RUN = "triforce_flow_run"
"""Key in a job's metadata: the flow run at the root of the one that started it."""

UNREACHABLE_S = 300.0
"""How long a head that does not answer is waited for before a job counts as lost. A restart takes under a minute."""

BAD_INPUT = 2
"""The exit code of our modules for what no repetition mends."""


class RayJobError(RuntimeError):
    """A job ended without success; another attempt may go better."""


class RayJobRefused(ValueError):
    """A job said that its input is bad."""


def cluster_address(address: str | None) -> str | None:
    """``address``, or the one the environment names; None where work is to be done in this process."""
    return address or os.environ.get(ADDRESS_VARIABLE) or None


def run_module(
    address: str,
    module: str,
    arguments: dict[str, object],
    on_lines: Callable[[str], None],
    *,
    flow_run: str = "",
    timeout_s: float | None = None,
) -> str:
    """Run ``python -m module --name value ...`` on the cluster whose dashboard is at ``address``, to its end; its id.

    The cluster's machines have the project installed. ``on_lines`` gets the log as it comes. ``flow_run`` is noted with
    the job, for `stop_jobs_of`. Raises RayJobRefused where the job exits with 2, and RayJobError where it fails, is
    stopped, takes over ``timeout_s`` or its cluster cannot be reached for `UNREACHABLE_S`.
    """
    client = _connect(address)
    job = _submit(client, module, arguments, flow_run)
    try:
        asyncio.run(_follow(client, job, on_lines, timeout_s))
    except (KeyboardInterrupt, TimeoutError) as error:
        client.stop_job(job)
        if isinstance(error, TimeoutError):
            raise RayJobError(f"job {job} on {address}: not done within {timeout_s:.0f} s, and stopped") from error
        raise
    _check(client, job, address)
    return job


def stop_jobs_of(address: str, flow_run: str) -> list[str]:
    """Stop every job that the flow run, or one below it, started; their ids."""
    client = _connect(address)
    jobs = [
        job.submission_id
        for job in client.list_jobs()
        if job.submission_id and (job.metadata or {}).get(FLOW_RUN) == flow_run and not job.status.is_terminal()
    ]
    for job in jobs:
        client.stop_job(job)
    return jobs


def job_prefix(module: str, arguments: dict[str, object]) -> str:
    """What the ids of all jobs with this work begin with."""
    text = json.dumps([module, arguments], sort_keys=True, default=str)
    return f"{module.rpartition('.')[2]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}-"


def _connect(address: str) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + UNREACHABLE_S
    while True:
        try:
            return JobSubmissionClient(address)
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(2)


def _submit(client: JobSubmissionClient, module: str, arguments: dict[str, object], flow_run: str) -> str:
    """The job with this work that is under way, or else a new one."""
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
    """Pass on the log beyond its first ``seen`` characters; how long it is now. It always comes from its beginning."""
    position = 0
    async for text in client.tail_job_logs(job):
        fresh = text[max(0, seen - position) :]
        position += len(text)
        if fresh.strip():
            on_lines(fresh.rstrip())
        seen = max(seen, position)
    return seen


def _check(client: JobSubmissionClient, job: str, address: str) -> None:
    """Following a log ends the same way for a job that failed."""
    from ray.job_submission import JobStatus

    info = client.get_job_info(job)
    if info.status == JobStatus.SUCCEEDED:
        return
    tail = " / ".join(client.get_job_logs(job).splitlines()[-3:])
    error = RayJobRefused if info.driver_exit_code == BAD_INPUT else RayJobError
    raise error(f"job {job} on {address} ended as {info.status}: {tail}")
