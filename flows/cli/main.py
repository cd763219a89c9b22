"""The ``triforce`` command. Heavy imports wait until a command runs, so that help is quick."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from triforce.flows.cli import corpus, datasets, examples, ingest_tokenize, results, speech, stack, tokens, training
from triforce.flows.cli.options import Panel, example
from triforce.flows.cli.settings import each_set
from triforce.flows.jobs import environment
from triforce.models.memory import reuse_freed_memory

app = typer.Typer(
    name="triforce",
    help="From raw internet audio to a voice: ingest, train the dVAE, tokenize, train the rest, speak.",
    epilog=example("demo demo-run"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(ingest_tokenize.app)
app.add_typer(training.app, name="train", rich_help_panel=Panel.STAGES)
app.add_typer(speech.app)
app.add_typer(results.app)
corpus.app.add_typer(datasets.app)
app.add_typer(corpus.app, name="corpus", rich_help_panel=Panel.DATA)
app.add_typer(tokens.app, name="tokens", rich_help_panel=Panel.DATA)
app.add_typer(examples.app)
app.add_typer(stack.app)

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
COMPLETION = {"--install-completion", "--show-completion"}


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


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 well, 2 bad input, 130 interrupted, 1 anything else; one line says what was wrong."""
    given = each_set(sys.argv[1:] if arguments is None else arguments)
    if "_TRIFORCE_COMPLETE" in os.environ or COMPLETION & set(given):  # the shell's own calls, which end by SystemExit
        app(args=given, prog_name="triforce")
    sys.exit(run(lambda: app(args=given, prog_name="triforce", standalone_mode=False)))


def run(command: Callable[[], Any]) -> int:
    """Return the exit code of ``command``; print an error as one line, or raise it with ``--debug``."""
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
