"""A stage as a job on a Ray cluster: submitted, its log followed, its end checked."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable


class RayJobError(RuntimeError):
    """A job ended without success."""


def run_module(
    address: str, module: str, arguments: dict[str, object], on_lines: Callable[[str], None], job_id: str | None = None
) -> None:
    """Run ``python -m module --name value ...`` on the cluster whose dashboard is at ``address``, to its end.

    The cluster's machines have the project installed. ``on_lines`` gets the log as it comes. Raises `RayJobError`, with
    the log's end, where the job fails or is stopped.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    words = [word for name, value in arguments.items() for word in (f"--{name.replace('_', '-')}", _as_text(value))]
    client = JobSubmissionClient(address)
    job = client.submit_job(entrypoint=shlex.join(["python", "-m", module, *words]), submission_id=job_id)
    asyncio.run(_follow(client, job, on_lines))
    # Following a log ends the same way for a job that failed.
    if (status := client.get_job_status(job)) != JobStatus.SUCCEEDED:
        tail = " / ".join(client.get_job_logs(job).splitlines()[-3:])
        raise RayJobError(f"job {job} on {address} ended as {status}: {tail}")


def _as_text(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


async def _follow(client, job: str, on_lines: Callable[[str], None]) -> None:
    async for lines in client.tail_job_logs(job):
        on_lines(lines.rstrip())
