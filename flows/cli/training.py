"""``triforce train``: fits one network of a release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from triforce.flows.cli.options import CorpusUri, RayDashboard, ReleaseUri, RunsUri, Settings, TokensUri, example
from triforce.flows.cli.settings import merged

PLACES = "--corpus data/corpus --release data/release --runs data/runs"

app = typer.Typer(
    help="Fit a network with Ray Train: dvae, then gpt and diffusion; vocoder at any time.",
    epilog=example(f"train dvae {PLACES}"),
    no_args_is_help=True,
)

Modality = Annotated[str | None, typer.Option(help="Which of the corpus's clips: speech, music, image or video.")]


@app.command(epilog=example(f"train dvae {PLACES} --size small"))
def dvae(
    corpus: CorpusUri,
    release: ReleaseUri,
    runs: RunsUri = "runs",
    size: Annotated[str, typer.Option(help="Recipe; `triforce train sizes` lists them.")] = "tiny",
    modality: Modality = None,
    ray: RayDashboard = None,
    settings: Settings = None,
) -> None:
    """The discrete VAE: sound, images or video to codes and back, trained on the corpus."""
    from triforce.train.config import DVAETrainConfig
    from triforce.train.recipes.sizes import describe

    fields = {"stage": "dvae", "corpus": corpus, "release": release, "runs": runs, "size": size}
    fields |= {"modality": modality} if modality else {}
    config = DVAETrainConfig.model_validate(merged(fields, settings))
    preset = describe(config.size, config.modality, config.model_settings)
    typer.echo(f"dvae {preset.name} for {preset.modality}: {preset.num_parameters:,} parameters", err=True)
    _train(fields, settings, ray)


@app.command(epilog=example("train sizes"))
def sizes() -> None:
    """List the dVAE's named sizes with their parameters."""
    from triforce.train.recipes.sizes import dvae_presets, presets_table

    typer.echo(presets_table(dvae_presets()))


@app.command(epilog=example("train gpt --tokens data/tokens --release data/release --runs data/runs"))
def gpt(
    tokens: TokensUri,
    release: ReleaseUri,
    runs: RunsUri = "runs",
    init_from: Annotated[
        str | None,
        typer.Option(help="A release whose GPT to go on from; voice is the one that comes along."),
    ] = None,
    ray: RayDashboard = None,
    settings: Settings = None,
) -> None:
    """The transformer: text to codes, trained on the token shards."""
    fields = {"stage": "gpt", "tokens": tokens, "release": release, "runs": runs}
    _train(fields | ({"init_from": init_from} if init_from else {}), settings, ray)


@app.command(epilog=example(f"train diffusion {PLACES}"))
def diffusion(
    corpus: CorpusUri,
    release: ReleaseUri,
    runs: RunsUri = "runs",
    modality: Modality = None,
    ray: RayDashboard = None,
    settings: Settings = None,
) -> None:
    """The diffusion network: restores the detail that the dVAE lost, trained on the corpus."""
    fields = {"stage": "diffusion", "corpus": corpus, "release": release, "runs": runs}
    _train(fields | ({"modality": modality} if modality else {}), settings, ray)


@app.command(epilog=example(f"train vocoder {PLACES}"))
def vocoder(
    corpus: CorpusUri, release: ReleaseUri, runs: RunsUri = "runs", ray: RayDashboard = None, settings: Settings = None
) -> None:
    """A vocoder for the corpus's own voices, to speak instead of Griffin-Lim."""
    _train({"stage": "vocoder", "corpus": corpus, "release": release, "runs": runs}, settings, ray)


@app.command(epilog=example("train export bundle --corpus data/corpus --release data/release"))
def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    corpus: Annotated[str | None, typer.Option(help="Corpus whose clips are packed, as many as fit.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Token shards to copy.")] = None,
    release: Annotated[str | None, typer.Option(help="Release whose networks are copied.")] = None,
    max_mib: Annotated[float, typer.Option(min=1, help="Size of everything at most, MiB.")] = 64.0,
    sound: Annotated[bool, typer.Option(help="Pack the sound too, as a vocoder needs it.")] = False,
) -> None:
    """What a machine with torch alone needs to train, as one folder: a pack is a corpus for train dvae and vocoder."""
    from triforce.train import export as exporting

    max_bytes = int(max_mib * 2**20)
    found = exporting.export(folder, corpus=corpus, tokens=tokens, release=release, max_bytes=max_bytes, samples=sound)
    clips = (
        "" if found.num_clips is None else f", {found.num_clips} clips" + ("" if found.whole else " (no room for all)")
    )
    typer.echo(f"{found.folder}: {found.num_bytes / 2**20:.1f} MiB{clips}")


def _train(fields: dict[str, Any], settings: list[str] | None, ray: str | None) -> None:
    from triforce.flows.jobs.ray_jobs import find_dashboard
    from triforce.flows.jobs.run_stage import run_train
    from triforce.train.config import train_config

    config = train_config(**merged(fields, settings))
    summary = run_train(config, find_dashboard(ray), log=lambda lines: typer.echo(lines, err=True))
    done = "was trained before" if summary.skipped else f"trained in {summary.wall_s:.0f} s"
    typer.echo(f"{summary.stage} {summary.hash[:12]} in {config.release}: {summary.steps} steps, {done}")
