"""``triforce evaluate``, ``evaluate-pictures``, ``sweep``, ``listen`` and ``report``: what a release can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triforce.flows.cli.options import CorpusUri, Panel, ReleaseUri, Settings, SpokenRelease, example, say_which
from triforce.flows.cli.settings import merged
from triforce.models.voice.bundled import VOICE

app = typer.Typer()

HeldoutUri = Annotated[str, typer.Option(help="A corpus of clips that no network trained on.")]


@app.command(
    rich_help_panel=Panel.RESULTS,
    epilog=example("evaluate --release data/release --heldout data/heldout -o evaluation"),
)
def evaluate(
    heldout: HeldoutUri,
    release: SpokenRelease = VOICE,
    out: Annotated[str, typer.Option("--out", "-o", help="The folder for the figures and samples.")] = "evaluation",
    corpus: Annotated[
        str | None, typer.Option(help="The training corpus, for texts that were read in training.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Again, although it is there.")] = False,
    settings: Settings = None,
) -> None:
    """Judge by Whisper: word error rates of original, vocoder, dVAE, diffusion and speech from text."""
    from triforce.train.evaluate.evaluate import EvaluateConfig
    from triforce.train.evaluate.evaluate import evaluate as run_evaluation

    config = EvaluateConfig.model_validate(merged({}, settings))
    say_which(release)
    typer.echo(run_evaluation(release, heldout, out, corpus_uri=corpus, config=config, force=force).table())


@app.command(
    "evaluate-pictures",
    rich_help_panel=Panel.RESULTS,
    epilog=example("evaluate-pictures --release data/release --corpus data/corpus -o evaluation"),
)
def evaluate_pictures(
    release: ReleaseUri,
    corpus: CorpusUri,
    out: Annotated[str, typer.Option("--out", "-o", help="The folder for the figures and the sheet.")] = "evaluation",
    settings: Settings = None,
) -> None:
    """Judge pictures that no network trained on: original, dVAE and diffusion, by pixels and by a classifier."""
    from triforce.train.evaluate import pictures

    config = pictures.PictureConfig.model_validate(merged({}, settings))
    typer.echo(pictures.evaluate_pictures(release, corpus, out, config))


@app.command(
    rich_help_panel=Panel.RESULTS, epilog=example("sweep --release data/release --heldout data/heldout -o sweep")
)
def sweep(
    release: ReleaseUri,
    heldout: HeldoutUri,
    out: Annotated[str, typer.Option("--out", "-o", help="The folder for the figures.")] = "sweep",
    settings: Settings = None,
) -> None:
    """Sample the diffusion network in many ways and judge by Whisper: starts, samplers, steps, guidance, mean."""
    from triforce.train.evaluate.sweep import SweepConfig
    from triforce.train.evaluate.sweep import sweep as run_sweep

    typer.echo(run_sweep(release, heldout, out, SweepConfig.model_validate(merged({}, settings))))


@app.command(rich_help_panel=Panel.RESULTS, epilog=example("listen evaluation --systems vocoder,griffin_lim"))
def listen(
    folders: Annotated[
        list[str], typer.Argument(help="Evaluations, or a folder of sounds for each system, named as the sentences.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="The page.")] = "listen.html",
    systems: Annotated[str, typer.Option(help="The systems to compare, by commas; by default all.")] = "",
    trials: Annotated[int, typer.Option(min=1, help="Pairs to judge, at most; a minute takes some five.")] = 24,
    seed: Annotated[int, typer.Option(help="Which pairs, and in which order.")] = 0,
) -> None:
    """Write a page to compare systems by ear, blind and by the keyboard alone; it saves the judgements as JSON."""
    from triforce.flows.report.listening import write_listening_page

    chosen = [name.strip() for name in systems.split(",") if name.strip()]
    typer.echo(write_listening_page(folders, out, systems=chosen, trials=trials, seed=seed))


@app.command(rich_help_panel=Panel.RESULTS, epilog=example("report demo-run -o report.html"))
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run: corpus/, release/, evaluation/ and so on.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="By default report.html in the folder.")] = None,
) -> None:
    """Write one HTML file with a run's data, curves, figures and sounds; it opens without a network."""
    from triforce.flows.report.report import write_report

    typer.echo(write_report(folder, out))
