"""``triforce demo``, ``digits``, ``emoji``, ``demo-media`` and ``reading``: whole runs, each in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triforce.flows.cli.options import Panel, Settings, example
from triforce.flows.cli.settings import merged

app = typer.Typer()

Folder = Annotated[Path, typer.Argument(help="Where everything goes; run again to continue.")]


@app.command(rich_help_panel=Panel.EXAMPLES, epilog=example("demo demo-run --set minutes=8"))
def demo(
    folder: Folder = Path("demo-run"),
    speech: Annotated[
        Path | None, typer.Option(help="Your own folder of audio files, texts beside them as .txt.")
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--from", help="Release that goes on to learn this speaker: voice, which comes along, or scratch: none."
        ),
    ] = None,
    settings: Settings = None,
) -> None:
    """The whole pipeline on real speech, on loopback: the path of the report is the last line."""
    from triforce.flows.examples.demo.run import DemoConfig, run_demo

    fields = {"init_from": init_from} if init_from else {}
    run_demo(folder, speech, DemoConfig.model_validate(merged(fields, settings)))


@app.command(rich_help_panel=Panel.EXAMPLES, epilog=example("digits digits-run --set gpt_steps=4000"))
def digits(folder: Folder = Path("digits-run"), settings: Settings = None) -> None:
    """One network between text, images and speech: digits, judged in every direction; the report is the last line."""
    from triforce.flows.examples.digits.run import DigitsConfig, run_digits

    run_digits(folder, DigitsConfig.model_validate(merged({}, settings)), typer.echo)


@app.command(rich_help_panel=Panel.EXAMPLES, epilog=example("emoji emoji-run --set minutes=55"))
def emoji(folder: Folder = Path("emoji-run"), settings: Settings = None) -> None:
    """Pictures drawn by name and described, with an upsampling diffusion network, judged: an hour on 2 cores."""
    from triforce.flows.examples.emoji.run import EmojiConfig, run_emoji

    run_emoji(folder, EmojiConfig.model_validate(merged({}, settings)), typer.echo)


@app.command("demo-media", rich_help_panel=Panel.EXAMPLES, epilog=example("demo-media demo-run --set minutes=3"))
def demo_media(folder: Folder = Path("demo-run"), settings: Settings = None) -> None:
    """Music, photographs and video through the commands that speech goes through, and into the report."""
    from triforce.flows.examples.media import MediaConfig, run_media
    from triforce.flows.report.report import write_report

    folder.mkdir(parents=True, exist_ok=True)
    run_media(folder, MediaConfig.model_validate(merged({}, settings)), typer.echo)
    typer.echo(write_report(folder))


@app.command(rich_help_panel=Panel.EXAMPLES, epilog=example("reading reading-run --set share=0.05"))
def reading(folder: Folder = Path("reading-run"), settings: Settings = None) -> None:
    """Train on hours of a synthetic voice and judge unseen sentences by Whisper: 2 h on 2 cores."""
    from triforce.flows.examples.reading.run import ReadingConfig, run_reading

    run_reading(folder, ReadingConfig.model_validate(merged({}, settings)), typer.echo)
