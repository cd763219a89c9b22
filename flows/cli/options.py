"""Options that several commands share, and how a command's help ends."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from triforce.models.voice.bundled import VOICE


class Panel(StrEnum):
    """Kinds of commands, as the help groups them."""

    STAGES = "Make a release"
    SPEECH = "Use a release"
    RESULTS = "Judge and report"
    DATA = "Look at data"
    EXAMPLES = "Examples, each in one go"
    SERVICES = "Services on this machine"


CorpusUri = Annotated[str, typer.Option("--corpus", help="The corpus: a folder, or an address such as s3://bucket/x.")]
ReleaseUri = Annotated[str, typer.Option("--release", help="The release: networks are read from and written to here.")]
SpokenRelease = Annotated[
    str, typer.Option("--release", help="The release whose networks speak; voice is the one that comes along.")
]
TokensUri = Annotated[str, typer.Option("--tokens", help="The folder of the token shards.")]
RunsUri = Annotated[str, typer.Option("--runs", help="The folder for checkpoints and training curves.")]
RayDashboard = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Dashboard of a Ray cluster that runs it as a job, as in http://head:8265; by default the one that "
        "TRIFORCE_RAY_ADDRESS names, or else this machine.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of text for a person.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE ...", help="Any other settings, as in max_steps=2000 optimizer.learning_rate=3e-4."
    ),
]


def say_which(release: str) -> None:
    """Tell on stderr where the voice that comes along speaks: nobody may take it for one of theirs."""
    if release == VOICE:
        typer.echo("voice: the one that comes along; --release names another", err=True)


def example(arguments: str) -> str:
    """Return the last line of a command's help."""
    return f"Example: triforce {arguments}"
