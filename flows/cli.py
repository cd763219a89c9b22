"""The ``triforce`` command: one subcommand for each stage. Heavy imports wait until a stage runs: help is quick."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="triforce",
    help="From raw internet audio to a voice: ingest, tokenize, train, speak, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130


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
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes; run again to continue.")] = Path("demo-run"),
    speech: Annotated[
        Path | None, typer.Option(help="Your own folder of audio files, .txt beside each if you have them.")
    ] = None,
) -> None:
    """The whole pipeline on real speech, on loopback, in one go: the report's place is the last line."""
    from triforce.flows.demo.run import run_demo

    run_demo(folder, speech)


def _add_sub_apps() -> None:
    """Subcommands that live in modules of their own."""
    if importlib.util.find_spec("triforce.flows.cli_corpus"):
        from triforce.flows.cli_corpus import app as corpus_app

        app.add_typer(corpus_app, name="corpus")


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 well, 2 bad input, 130 interrupted, 1 anything else; one line says what was wrong."""
    _add_sub_apps()
    try:
        app(args=arguments, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        print("\ntriforce: interrupted; run the same command again to continue where it stopped", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's usage errors, of its own or typer's copy
            error.show()
            sys.exit(error.exit_code)
        if os.environ.get("TRIFORCE_DEBUG"):
            raise
        bad_input = isinstance(error, ValueError | FileNotFoundError | NotADirectoryError | PermissionError)
        print(f"triforce: {_one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT if bad_input else 1)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    known = isinstance(error, ValueError | OSError) or type(error).__module__.startswith("triforce.")
    return text if known else f"{type(error).__name__}: {text} (--debug before the subcommand shows where)"


if __name__ == "__main__":
    main()
