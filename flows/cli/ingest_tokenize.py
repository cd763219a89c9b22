"""``triforce ingest`` and ``triforce tokenize``: from sources to clips, from clips to codes."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Annotated

import typer

from triforce.flows.cli.options import CorpusUri, Panel, RayDashboard, ReleaseUri, Settings, TokensUri, example
from triforce.flows.cli.settings import merged
from triforce.ingest.config import KINDS

app = typer.Typer()

Kind = StrEnum("Kind", [(kind, kind) for kind in KINDS])  # type: ignore[misc]  # mypy wants the list written out


@app.command(rich_help_panel=Panel.STAGES, epilog=example("ingest podcast --sources sources.yaml --corpus data/corpus"))
def ingest(
    kind: Annotated[Kind, typer.Argument(help="Which of the file's sources to visit.")],
    corpus: CorpusUri,
    sources: Annotated[str, typer.Option(help="The list of sources.")] = "sources.yaml",
    only: Annotated[list[str] | None, typer.Option(help="Only the source of this name; repeatable.")] = None,
    whisper: Annotated[
        str, typer.Option(help="Whisper model that transcribes: a name, or a folder of weights.")
    ] = "tiny.en",
    ray: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster to cut and transcribe on: host:6379, or ray://host:10001."),
    ] = None,
    settings: Settings = None,
) -> None:
    """Fetch what is new, cut it, transcribe it: recordings become clips in the corpus."""
    from triforce.flows.jobs.source_choice import choose_sources
    from triforce.flows.monitor.ingest_summary import as_text
    from triforce.ingest.clips.clip_recording import ClipConfig

    clips = ClipConfig.model_validate(merged({"transcribe": {"model": whisper}}, settings))
    choose_sources(sources, kind.value, only)  # a bad file fails before Prefect is started, which takes ten seconds
    from triforce.flows.ingest import ingest as flow

    _show_progress()
    typer.echo(as_text(flow(kind.value, sources, corpus, clips, only, ray)))


@app.command(
    rich_help_panel=Panel.STAGES,
    epilog=example("tokenize --corpus data/corpus --release data/release --tokens data/tokens"),
)
def tokenize(
    corpus: CorpusUri, release: ReleaseUri, tokens: TokensUri, ray: RayDashboard = None, settings: Settings = None
) -> None:
    """Encode every clip of the corpus with the release's dVAE, into WebDataset shards."""
    from triforce.flows.jobs.ray_jobs import find_dashboard
    from triforce.flows.jobs.run_stage import run_tokenize
    from triforce.tokenize.config import TokenizeConfig

    config = TokenizeConfig.model_validate(merged({"corpus": corpus, "release": release, "tokens": tokens}, settings))
    _show_progress()
    total = run_tokenize(config, find_dashboard(ray), log=lambda lines: typer.echo(lines, err=True))
    typer.echo(
        f"{total.num_shards} shards, {total.num_new_shards} of them new: {total.num_clips} clips, "
        f"{total.num_codes} codes, {total.hours:.2f} h in {total.wall_s:.0f} s"
    )


def _show_progress() -> None:
    """Show what our own stages log on the terminal."""
    logging.getLogger("triforce").setLevel(logging.INFO)
