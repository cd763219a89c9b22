"""What an installation takes: every package is pinned, and each ``pip install`` line in the documents resolves."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from constraints import CONSTRAINTS, GROUPS, HELD, canonical, read_pins, resolve
from dependencies import extras, requirements
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NOT_TOGETHER_WITH_US = {"Resemblyzer==0.1.4"}
"""Installed with ``--no-deps`` into what is there: two of its requirements would break it."""


def documents() -> list[Path]:
    """Return the files whose ``pip install`` lines users and machines follow."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    found = [ROOT / name for name in listed] or sorted(ROOT.rglob("README.md"))
    return [*found, ROOT / "infra" / "install.sh", ROOT / ".github" / "workflows" / "ci.yml"]


def wanted(words: list[str]) -> list[str]:
    """Return what a ``pip install`` line asks for, our own package replaced by its requirements.

    Args:
        words: the line's words behind ``install``, quotes removed.
    """
    found: list[str] = []
    names = iter(words)
    for word in names:
        own = re.fullmatch(r"(?:triforce|\.)(?:\[([\w,-]+)\])?", word)
        if word in ("-c", "--constraint"):
            next(names)
        elif own:
            found += requirements((own[1] or "").split(",") if own[1] else [])
        elif not word.startswith("-"):
            found.append(word)
    return found


def install_lines(text: str) -> list[list[str]]:
    """Return the requirements of each ``pip install`` in a document, without comments and commands that follow."""
    lines = re.findall(r"pip install\b([^`\n#)]*)", text.replace("\\\n", " "))
    return [wanted(shlex.split(re.split(r"&&|\|\||;", line)[0])) for line in lines]


def test_pins_are_names_and_versions_alone_in_order():
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line)] == []
    assert [line.partition("==")[0] for line in lines] == sorted({line.partition("==")[0] for line in lines})


def test_every_requirement_has_a_pin_that_it_allows():
    pins = read_pins()
    unpinned, refused = [], []
    for requirement in map(Requirement, requirements(extras())):
        version = pins.get(canonical(requirement.name))
        if version is None:
            unpinned.append(requirement.name)
        elif not requirement.specifier.contains(version, prereleases=True):
            refused.append(f"{requirement} is pinned to {version}")
    assert not unpinned, f"run `make constraints`: no pin for {unpinned}"
    assert not refused


def test_what_only_a_person_renews_is_pinned():
    assert set(HELD) <= set(read_pins())


def test_groups_take_every_extra():
    resolved = {line for group in GROUPS for line in requirements(group)}
    assert resolved == set(requirements(extras()))


def test_a_line_is_read_as_pip_reads_it():
    text = (
        "x `pip install -c infra/constraints.txt 'moto[server]' 'triforce[vocos]' && y`\npip install '.[nothing]' # z"
    )
    with pytest.raises(ValueError, match=r"extra 'nothing': pyproject.toml has"):
        install_lines(text)
    [line] = install_lines(text.splitlines()[0])
    assert "moto[server]" in line
    assert "huggingface-hub>=0.23" in line


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 80 CPU seconds; pip waits for the index for the rest
def test_each_install_line_of_the_documents_resolves():
    """Resolve all lines at once: with every package pinned, what holds for the union holds for each line of it."""
    union = {line for path in documents() for words in install_lines(path.read_text("utf-8")) for line in words}
    union -= NOT_TOGETHER_WITH_US
    assert union >= set(requirements(["demo"]))
    pins = read_pins()
    try:
        resolve(["packaging"], pins)
    except RuntimeError as error:
        pytest.skip(f"no package index can be reached: {error}")
    found = resolve(sorted(union), pins)
    assert {name: version for name, version in found.items() if pins.get(name) != version} == {}
