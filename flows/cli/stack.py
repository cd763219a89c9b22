"""``triforce up``, ``status`` and ``down``: a Prefect server, a worker and a Ray head on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triforce.flows.cli.options import Panel, example
from triforce.flows.cli.settings import merged

app = typer.Typer()

Folder = Annotated[Path, typer.Option("--state", help="The folder for logs, secrets and Prefect's database.")]
STATE = Path(".triforce")


@app.command(rich_help_panel=Panel.SERVICES, epilog=example("up --set num_cpus=4"))
def up(
    state: Folder = STATE,
    project: Annotated[Path, typer.Option(help="The folder with prefect.yaml; flows run in it.")] = Path("."),
    password: Annotated[bool, typer.Option("--password", help="Guard Prefect's API with a password.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="prefect_port, ray_port, dashboard_port, num_cpus, ..."),
    ] = None,
) -> None:
    """Start a Prefect server, a worker and a Ray head on loopback, and register the deployments."""
    from triforce.flows.stack.services import Stack, StackConfig

    fields = merged({"password": True} if password else {}, settings)
    if any(service.process() for service in Stack(state).services) and fields:
        raise ValueError(f"{state}: runs with settings of its own; `triforce down` first to change them")
    stack = Stack(state) if not fields else Stack(state, StackConfig.model_validate(fields))
    try:
        stack.up(project.absolute(), typer.echo)
    except BaseException:
        typer.echo("what was started stays until `triforce down`", err=True)
        raise
    typer.echo(addresses(stack))


@app.command(rich_help_panel=Panel.SERVICES, epilog=example("down"))
def down(state: Folder = STATE) -> None:
    """Stop what `triforce up` started, and nothing else."""
    from triforce.flows.stack.services import Stack

    typer.echo(f"stopped: {', '.join(Stack(state).down()) or 'nothing ran'}")


@app.command(rich_help_panel=Panel.SERVICES, epilog=example("status"))
def status(state: Folder = STATE) -> None:
    """Show what runs where: services, flow runs, Ray jobs."""
    from triforce.flows.stack.services import Stack
    from triforce.flows.stack.status import describe

    typer.echo(describe(Stack(state)))


def addresses(stack) -> str:
    """Return the dashboards' addresses and what to export for one's own commands."""
    names = ("PREFECT_API_URL", "PREFECT_HOME", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "TRIFORCE_RAY_ADDRESS")
    environment = stack.environment()
    lines = [
        f"Prefect   {stack.prefect_url}",
        f"Ray       {stack.ray_url}   (token: {stack.folder / 'ray-token'})",
        "",
        "For your own commands:",
        *(f"  export {name}={environment[name]}" for name in names),
    ]
    if stack.config.password:
        lines.append(f'  export PREFECT_API_AUTH_STRING="triforce:$(cat {stack.folder / "prefect-password"})"')
    return "\n".join([*lines, "", "Then, for example: prefect deployment run ingest/podcasts"])
