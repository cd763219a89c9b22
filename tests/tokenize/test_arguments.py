"""The command lines of the two modules that a Ray job runs."""

import json
import subprocess
import sys

import pytest

from triforce.tokenize.arguments import FieldParser
from triforce.tokenize.config import TokenizeConfig
from triforce.train.__main__ import fields, main


def parser() -> FieldParser:
    return FieldParser("python -m x", "Do it.", {"max_steps": "100 % of them.", "seed": None}, required=["seed"])


@pytest.mark.parametrize("words", [["--max-steps", "3"], ["--max_steps", "3"], ["--max_steps=3"], ["--max-steps=3"]])
def test_flags_have_dashes_or_underscores(words):
    assert parser().parse([*words, "--seed", "a_b"]) == {"max_steps": "3", "seed": "a_b"}


def test_a_value_keeps_its_underscores():
    assert parser().parse(["--seed=some_folder/a_b"]) == {"seed": "some_folder/a_b"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max_stpes", "3"], "error: unknown flag --max_stpes: did you mean --max-steps?"),
        (["--sed=1"], "error: unknown flag --sed: did you mean --seed?"),
        (["--qqq"], "error: unknown flag --qqq: none is spelt like it"),
        (["--seed", "1", "here"], "error: 'here': no flag stands before this value"),
        (["--max-steps", "3"], "error: missing --seed"),
        (["--seed"], "error: argument --seed: expected one argument"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parser().parse(words)
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"{message}; python -m x --help lists the flags"


def test_help_shows_descriptions(capsys):
    with pytest.raises(SystemExit) as caught:
        parser().parse(["--help"])
    assert caught.value.code == 0
    assert "100 % of them." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("module", ["train", "tokenize"])
def test_both_modules_name_the_nearest_flag(module):
    command = [sys.executable, "-m", f"triforce.{module}", "--relaese", "r"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "unknown flag --relaese: did you mean --release?" in line


def test_every_field_of_a_run_is_a_flag():
    assert {"stage", "max_steps", "model", "layouts"} <= fields().keys()
    assert "cpus_per_reader" in TokenizeConfig.model_fields


def test_flags_win_over_the_file(tmp_path, capsys):
    path = tmp_path / "run.json"
    settings = {"stage": "dvae", "release": "r", "runs": "u", "corpus": str(tmp_path / "none"), "seed": 3}
    path.write_text(json.dumps(settings))
    assert main(["--config", str(path), "--seed", "-1"]) == 2
    assert "seed" in capsys.readouterr().err
