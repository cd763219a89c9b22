"""The ``triforce`` command: one subcommand for each stage. Heavy imports wait until a stage runs: help is quick."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from triforce.flows.cli import speech as cli_speech
from triforce.flows.cli.settings import each_set, merged
from triforce.flows.jobs import environment
from triforce.models.memory import reuse_freed_memory

app = typer.Typer(
    name="triforce",
    help="From raw internet audio to a voice: ingest, train the dVAE, tokenize, train the rest, speak.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train_app = typer.Typer(
    help="Fit a network with Ray Train: dvae, then gpt and diffusion; vocoder at any time.", no_args_is_help=True
)
app.add_typer(train_app, name="train")

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

CorpusUri = Annotated[str, typer.Option("--corpus", help="The corpus: a folder, or an address such as s3://bucket/x.")]
ReleaseUri = Annotated[str, typer.Option("--release", help="The release: networks are read from and written to here.")]
TokensUri = Annotated[str, typer.Option("--tokens", help="The folder of the token shards.")]
RunsUri = Annotated[str, typer.Option("--runs", help="The folder for checkpoints and training curves.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE ...", help="Any other settings, as in max_steps=2000 optimizer.learning_rate=3e-4."
    ),
]


class Kind(StrEnum):
    """The kinds of source."""

    PODCAST = "podcast"
    AUDIOBOOK = "audiobook"
    YOUTUBE = "youtube"


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the libraries log.")] = False,
) -> None:
    os.environ["TRIFORCE_DEBUG"] = "1" if debug else os.environ.get("TRIFORCE_DEBUG", "")
    if not verbose and not debug:  # Prefect logs a failed run's whole traceback; the error itself becomes our one line
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    environment.prepare()
    reuse_freed_memory()


@app.command()
def ingest(
    kind: Annotated[Kind, typer.Argument(help="Which of the file's sources to visit.")],
    corpus: CorpusUri,
    sources: Annotated[str, typer.Option(help="The list of sources.")] = "sources.yaml",
    only: Annotated[list[str] | None, typer.Option(help="Only the source of this name; repeatable.")] = None,
    whisper: Annotated[
        str, typer.Option(help="Whisper model that transcribes: a name, or a folder of weights.")
    ] = "tiny.en",
    ray: Annotated[
        str | None, typer.Option(help="Ray cluster to cut and transcribe on: host:6379, or ray://host:10001.")
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


@app.command()
def tokenize(corpus: CorpusUri, release: ReleaseUri, tokens: TokensUri, settings: Settings = None) -> None:
    """Run the release's dVAE over every clip of the corpus, into WebDataset shards."""
    from triforce.tokenize.config import TokenizeConfig

    config = TokenizeConfig.model_validate(merged({"corpus": corpus, "release": release, "tokens": tokens}, settings))
    from triforce.tokenize.job import tokenize_corpus

    _show_progress()
    total = tokenize_corpus(config)
    typer.echo(
        f"{total.num_shards} shards, {total.num_new_shards} of them new: {total.num_clips} clips, "
        f"{total.num_codes} codes, {total.hours:.2f} h in {total.wall_s:.0f} s"
    )


Modality = Annotated[str | None, typer.Option(help="Which of the corpus's clips: speech, music, image or video.")]


@train_app.command()
def dvae(
    corpus: CorpusUri,
    release: ReleaseUri,
    runs: RunsUri = "runs",
    size: Annotated[str, typer.Option(help="Recipe; `triforce train sizes` lists them.")] = "tiny",
    modality: Modality = None,
    settings: Settings = None,
) -> None:
    """The discrete VAE: sound, images or films to codes and back, learnt from the corpus."""
    from triforce.train.config import TrainConfig
    from triforce.train.recipes.sizes import describe

    fields = {"stage": "dvae", "corpus": corpus, "release": release, "runs": runs, "size": size}
    fields |= {"modality": modality} if modality else {}
    config = TrainConfig.model_validate(merged(fields, settings))
    preset = describe(config.size, config.modality, config.model)
    typer.echo(f"dvae {preset.name} for {preset.modality}: {preset.num_parameters:,} parameters", err=True)
    _train(fields, settings)


@train_app.command()
def sizes() -> None:
    """List the dVAE's named sizes with their parameters."""
    from triforce.train.recipes.sizes import dvae_presets, presets_table

    typer.echo(presets_table(dvae_presets()))


@train_app.command()
def gpt(tokens: TokensUri, release: ReleaseUri, runs: RunsUri = "runs", settings: Settings = None) -> None:
    """The transformer: text to codes, learnt from the token shards."""
    _train({"stage": "gpt", "tokens": tokens, "release": release, "runs": runs}, settings)


@train_app.command()
def diffusion(
    corpus: CorpusUri,
    release: ReleaseUri,
    runs: RunsUri = "runs",
    modality: Modality = None,
    settings: Settings = None,
) -> None:
    """The diffusion network: what the dVAE blurs, made sharp again; learnt from the corpus."""
    fields = {"stage": "diffusion", "corpus": corpus, "release": release, "runs": runs}
    _train(fields | ({"modality": modality} if modality else {}), settings)


@train_app.command()
def vocoder(corpus: CorpusUri, release: ReleaseUri, runs: RunsUri = "runs", settings: Settings = None) -> None:
    """A vocoder for the corpus's own voices, to speak instead of Griffin-Lim."""
    _train({"stage": "vocoder", "corpus": corpus, "release": release, "runs": runs}, settings)


def _train(fields: dict[str, Any], settings: list[str] | None) -> None:
    from triforce.train.config import TrainConfig

    config = TrainConfig.model_validate(merged(fields, settings))
    from triforce.train.job import train

    summary = train(config)
    done = "was trained before" if summary.skipped else f"trained in {summary.wall_s:.0f} s"
    typer.echo(f"{summary.stage} {summary.hash[:12]} in {config.release}: {summary.steps} steps, {done}")


for _command in (cli_speech.speak, cli_speech.read, cli_speech.serve):
    app.command()(_command)


@app.command()
def evaluate(
    release: ReleaseUri,
    heldout: Annotated[str, typer.Option(help="A corpus of clips that no network trained on.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The folder for the figures and samples.")] = "evaluation",
    corpus: Annotated[
        str | None, typer.Option(help="The training corpus, for texts that were read in training.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Again, although it is there.")] = False,
    settings: Settings = None,
) -> None:
    """Let Whisper listen: word error rates of original, vocoder, dVAE, diffusion and speech from text."""
    from triforce.train.evaluate.evaluate import EvaluateConfig
    from triforce.train.evaluate.evaluate import evaluate as run_evaluation

    config = EvaluateConfig.model_validate(merged({}, settings))
    typer.echo(run_evaluation(release, heldout, out, corpus_uri=corpus, config=config, force=force).table())


@app.command("evaluate-pictures")
def evaluate_pictures(
    release: ReleaseUri,
    corpus: CorpusUri,
    out: Annotated[str, typer.Option("--out", "-o", help="The folder for the figures and the sheet.")] = "evaluation",
    settings: Settings = None,
) -> None:
    """Pictures that no network trained on: original, dVAE and diffusion, by their pixels and by a classifier."""
    from triforce.train.evaluate import pictures

    config = pictures.PictureConfig.model_validate(merged({}, settings))
    typer.echo(pictures.evaluate_pictures(release, corpus, out, config))


@app.command()
def sweep(
    release: ReleaseUri,
    heldout: Annotated[str, typer.Option(help="A corpus of clips that no network trained on.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The folder for the figures.")] = "sweep",
    settings: Settings = None,
) -> None:
    """Sample the diffusion network in many ways, and let Whisper listen: starts, samplers, steps, guidance, mean."""
    from triforce.train.evaluate.sweep import SweepConfig
    from triforce.train.evaluate.sweep import sweep as run_sweep

    typer.echo(run_sweep(release, heldout, out, SweepConfig.model_validate(merged({}, settings))))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run: corpus/, release/, evaluation/ and so on.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="By default report.html in the folder.")] = None,
) -> None:
    """Write one HTML file that shows what a run heard, learned and says; it opens without a network."""
    from triforce.flows.report.report import write_report

    typer.echo(write_report(folder, out))


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes; run again to continue.")] = Path("demo-run"),
    speech: Annotated[
        Path | None, typer.Option(help="Your own folder of audio files, texts beside them as .txt.")
    ] = None,
    settings: Settings = None,
) -> None:
    """The whole pipeline on real speech, on loopback, in one go: the report's place is the last line."""
    from triforce.flows.examples.demo.run import DemoConfig, run_demo

    run_demo(folder, speech, DemoConfig.model_validate(merged({}, settings)))


@app.command()
def digits(
    folder: Annotated[Path, typer.Argument(help="Where everything goes; run again to continue.")] = Path("digits-run"),
    settings: Settings = None,
) -> None:
    """One network between text, images and speech: digits, judged in every direction; the report is the last line."""
    from triforce.flows.examples.digits.run import DigitsConfig, run_digits

    run_digits(folder, DigitsConfig.model_validate(merged({}, settings)), typer.echo)


@app.command("demo-media")
def demo_media(
    folder: Annotated[Path, typer.Argument(help="Where everything goes; run again to continue.")] = Path("demo-run"),
    settings: Settings = None,
) -> None:
    """Music, photographs and films through the commands that speech goes through, and into the report."""
    from triforce.flows.examples.media import MediaConfig, run_media
    from triforce.flows.report.report import write_report

    folder.mkdir(parents=True, exist_ok=True)
    run_media(folder, MediaConfig.model_validate(merged({}, settings)), typer.echo)
    typer.echo(write_report(folder))


@app.command()
def reading(
    folder: Annotated[Path, typer.Argument(help="Where everything goes; run again to continue.")] = Path("reading-run"),
    settings: Settings = None,
) -> None:
    """A synthetic voice reads for hours, the networks learn it, Whisper hears unseen sentences: 2 h on 2 cores."""
    from triforce.flows.examples.reading.run import ReadingConfig, run_reading

    run_reading(folder, ReadingConfig.model_validate(merged({}, settings)), typer.echo)


def _show_progress() -> None:
    """What our own stages log, on the terminal."""
    logging.getLogger("triforce").setLevel(logging.INFO)


def _add_sub_apps() -> None:
    """Subcommands that live in modules of their own."""
    from triforce.flows.cli import stack as cli_stack

    for command in (cli_stack.up, cli_stack.status, cli_stack.down):
        app.command()(command)
    if find_spec("triforce.flows.cli.corpus"):
        from triforce.flows.cli.corpus import app as corpus_app

        app.add_typer(corpus_app, name="corpus")
    if find_spec("triforce.flows.cli.tokens"):
        from triforce.flows.cli.tokens import app as tokens_app

        app.add_typer(tokens_app, name="tokens")


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 well, 2 bad input, 130 interrupted, 1 anything else; one line says what was wrong."""
    _add_sub_apps()
    given = each_set(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(lambda: app(args=given, standalone_mode=False)))


def run(command: Callable[[], Any]) -> int:
    """The exit code of ``command``; errors become a line on the standard error, and with ``--debug`` go on."""
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort, SystemExit):  # Ray Train ends the process quietly when it is interrupted
        print("\ntriforce: interrupted; run the same command again to continue where it stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's usage errors, of its own or typer's copy
            error.show()
            return error.exit_code
        if os.environ.get("TRIFORCE_DEBUG"):
            raise
        print(f"triforce: {_one_line(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT if _is_bad_input(error) else EXIT_FAILED


def _is_bad_input(error: Exception) -> bool:
    return isinstance(error, ValueError | FileNotFoundError | NotADirectoryError | PermissionError)


def _one_line(error: Exception) -> str:
    if hasattr(error, "errors") and hasattr(error, "title"):  # pydantic's: one line for each field is too many
        faults = [
            f"{'.'.join(map(str, fault['loc']))} = {fault['input']!r}: {fault['msg']}" for fault in error.errors()
        ]
        return f"{error.title}: {'; '.join(faults)}"
    lines = [" ".join(line.split()) for line in str(error).splitlines()]  # a sources file has one for each fault
    text = "\n".join(filter(None, lines)) or type(error).__name__
    known = isinstance(error, ValueError | OSError) or type(error).__module__.startswith("triforce.")
    return text if known else f"{type(error).__name__}: {text} (triforce --debug ... shows where)"


if __name__ == "__main__":
    main()
