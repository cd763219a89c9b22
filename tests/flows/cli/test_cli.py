"""The ``triforce`` command: help, and errors in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from triforce.flows.cli import main as cli
from triforce.flows.cli.settings import each_set, merged
from triforce.ingest.corpus.records import Recording, Status
from triforce.ingest.corpus.store import Corpus

COMMAND = str(Path(sys.executable).with_name("triforce"))
STAGES = ("ingest", "tokenize", "train", "speak", "evaluate", "report", "demo", "corpus")


def triforce(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120)


def test_help_names_every_stage_and_loads_none_of_them():
    shown = triforce("--help").stdout
    assert all(f" {stage} " in shown for stage in STAGES)
    heavy = "import sys, triforce.flows.cli.main; print({'torch', 'ray', 'prefect', 'av'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


ALL_HELP = """
import json, sys
import typer.main
from typer.testing import CliRunner
from triforce.flows.cli.main import app

def walk(command, words):
    yield words
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, [*words, name])

pages = {}
for words in walk(typer.main.get_command(app), []):
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0, done.output
    pages[" ".join(words)] = " ".join(done.output.split())
print(json.dumps([pages, sorted({"torch", "ray", "prefect", "av"} & set(sys.modules))]))
"""


def test_every_commands_help_ends_with_an_example_and_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", ALL_HELP], capture_output=True, text=True, check=True)
    pages, loaded = json.loads(done.stdout)
    assert loaded == []
    assert {"", "ingest", "train gpt", "corpus import", "tokens decode", "demo-media", "status"} <= set(pages)
    for words, page in pages.items():
        assert f"Example: triforce {words}".rstrip() in page, words
        assert page.count("Example:") == 1, words


def test_the_shell_completes_commands():
    asked = {"_TRIFORCE_COMPLETE": "complete_bash", "COMP_WORDS": "triforce evalu", "COMP_CWORD": "1"}
    done = subprocess.run([COMMAND], capture_output=True, text=True, timeout=120, env=os.environ | asked)
    assert done.stdout.split() == ["evaluate", "evaluate-pictures"]
    assert "--install-completion" in triforce("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "{tmp}", "--from", "scratch", "--speech", "{tmp}/nothing"], "no such folder"),
        (["demo", "{tmp}", "--from", "{tmp}"], "make demo FROM=scratch"),
        (["demo", "{tmp}", "--set", "minutes=0"], "minutes = 0"),
        (["demo", "{tmp}", "--set", "nonsense"], "--set max_steps=2000"),
        (["demo", "{tmp}", "--set", "max_steps=1", "minutes=0"], "minutes = 0"),
        (["speak", "hello", "--release", "{tmp}"], "no dvae/config.json"),
        (["speak", "hello", "--release", "{tmp}", "-o", "x.exe"], "use .wav"),
        (["train", "dvae", "--corpus", "{tmp}", "--release", "{tmp}/r"], "triforce ingest"),
        (["report", "{tmp}/none"], "none"),
        (["ingest", "podcast", "--corpus", "{tmp}"], "sources.yaml"),
        (["ingest", "radio", "--corpus", "{tmp}"], "radio"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    with pytest.raises(SystemExit) as exit_:
        cli.main([argument.format(tmp=tmp_path) for argument in arguments])
    lines = capsys.readouterr().err.strip().splitlines()
    assert exit_.value.code == 2
    assert words in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_a_row_of_settings_is_each_of_them():
    assert each_set(["x", "--set", "a=1", "b.c=[2]", "-o", "d=3"]) == [
        *("x", "--set", "a=1", "--set", "b.c=[2]", "-o", "d=3")
    ]


def test_settings_are_typed_and_nested():
    fields = merged({"a": {"b": 1}}, ["a.c=2.5", "d=null", "e=[1, 2]", "f-g=yes"])
    assert fields == {"a": {"b": 1, "c": 2.5}, "d": None, "e": [1, 2], "f_g": True}


@pytest.mark.parametrize("interrupt", [lambda: os.kill(os.getpid(), signal.SIGINT), lambda: sys.exit(0)])
def test_an_interrupt_says_that_it_continues(interrupt, capsys):
    """The second is how Ray Train leaves when it gets the signal."""
    assert cli.run(interrupt) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_corpus_retry_takes_rejections_up_by_reason(tmp_path, capsys):
    corpus, uri = Corpus(str(tmp_path)), str(tmp_path)
    shared = {"source": "talk", "source_kind": "podcast", "source_id": "a", "url": "u", "status": Status.REJECTED}
    corpus.write_recording(Recording("1" * 16, title="One", reason="too_long", **shared))
    corpus.write_recording(Recording("2" * 16, title="Two", reason="not_found", **shared))

    def run(*arguments: str) -> tuple[int, str]:
        code = cli.run(lambda: cli.app(args=["corpus", *arguments], standalone_mode=False))
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    assert run("retry", uri)[0] == 2
    assert "use one of: " in run("retry", uri, "--reason", "to_long")[1]
    assert "1 recordings would be taken up" in run("retry", uri, "--reason", "too_long", "--dry-run")[1]
    assert "1111111111111111  talk                 too_long         One" in run("retry", uri, "--reason", "too_long")[1]
    assert [row.is_settled for row in corpus.recordings()] == [False, True]
    assert "check the address in the source" in run("show", uri, "2222")[1]


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("TRIFORCE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)
