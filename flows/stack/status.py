"""The state of this machine's services, as a few lines of text."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx

from triforce.flows.stack.services import Stack

RUNS = 10


def describe(stack: Stack) -> str:
    """Describe the services, then Prefect's latest runs and Ray's jobs where those answer."""
    if not stack.services:
        return f"{stack.folder}: nothing was started here; `triforce up` does"
    lines = []
    for service in stack.services:
        state = f"pid {service.pid}" if service.process() else f"ended; see {stack.log_of(service.name)}"
        lines.append(f"{service.name:15} {state:12} since {datetime.fromtimestamp(service.started):%Y-%m-%d %H:%M:%S}")
    lines += ["", f"Prefect {stack.prefect_url}", *_indent(_prefect(stack))]
    return "\n".join([*lines, f"Ray {stack.ray_url}", *_indent(_ray(stack))])


def _indent(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _prefect(stack: Stack) -> list[str]:
    environment = stack.environment()
    secret = environment.get("PREFECT_API_AUTH_STRING")
    auth = httpx.BasicAuth(*secret.split(":", 1)) if secret else None
    try:
        with httpx.Client(base_url=f"{stack.prefect_url}/api", auth=auth, timeout=20) as client:
            runs = _post(client, "/flow_runs/filter", {"limit": RUNS, "sort": "START_TIME_DESC"})
            deployments = _post(client, "/deployments/count", {})
            workers = _post(client, "/work_pools/local/workers/filter", {})
    except httpx.HTTPError as error:
        return [f"does not answer: {type(error).__name__}"]
    ready = ", ".join(f"{worker['name']} {worker['status'].lower()}" for worker in workers) or "none"
    lines = [f"{deployments} deployments; workers of the pool local: {ready}"]
    return lines + [f"{run['state_name']:10} {run['name']}" for run in runs]


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    return client.post(path, json=body).raise_for_status().json()


def _ray(stack: Stack) -> list[str]:
    token = (stack.folder / "ray-token").read_text().strip()
    try:
        with httpx.Client(base_url=stack.ray_url, headers={"Authorization": f"Bearer {token}"}, timeout=20) as client:
            jobs = client.get("/api/jobs/").raise_for_status().json()
            nodes = client.get("/nodes?view=summary").raise_for_status().json()["data"]["summary"]
    except (httpx.HTTPError, KeyError) as error:
        return [f"does not answer: {type(error).__name__}"]
    lines = [
        f"node {node['ip']}: {node['cpus'][0]} cores, {node.get('cpu', 0):.0f} % busy"
        for node in nodes
        if node.get("cpus")
    ]
    named = [job for job in jobs if job.get("submission_id")]
    named.sort(key=lambda job: job.get("start_time") or 0, reverse=True)
    return lines + [f"{job['status']:10} {job['submission_id']}" for job in named[:RUNS]]
