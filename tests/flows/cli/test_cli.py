"""The ``triforce`` command: help, and errors in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from triforce.flows.cli import main as cli
from triforce.flows.cli.settings import each_set

COMMAND = str(Path(sys.executable).with_name("triforce"))
STAGES = ("ingest", "tokenize", "train", "speak", "evaluate", "report", "demo", "corpus")


def triforce(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120)


def test_help_names_every_stage_and_loads_none_of_them():
    assert all(f"  {stage}" in triforce("--help").stdout for stage in STAGES)
    heavy = "import sys, triforce.flows.cli.main; print({'torch', 'ray', 'prefect', 'av'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "{tmp}", "--speech", "{tmp}/nothing"], "no such folder"),
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
    monkeypatch.setattr(cli, "_add_sub_apps", lambda: None)
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
    fields = cli.merged({"a": {"b": 1}}, ["a.c=2.5", "d=null", "e=[1, 2]", "f-g=yes"])
    assert fields == {"a": {"b": 1, "c": 2.5}, "d": None, "e": [1, 2], "f_g": True}


@pytest.mark.parametrize("interrupt", [lambda: os.kill(os.getpid(), signal.SIGINT), lambda: sys.exit(0)])
def test_an_interrupt_says_that_it_continues(interrupt, capsys):
    """The second is how Ray Train leaves when it gets the signal."""
    assert cli.run(interrupt) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("TRIFORCE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)
