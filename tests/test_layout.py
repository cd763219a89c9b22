"""The tree keeps its promises: imports point one way, and nothing shadows the standard library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "models": {"models"},
    "ingest": {"ingest"},
    "tokenize": {"tokenize", "models", "ingest"},
    "train": {"train", "tokenize", "models", "ingest"},
    "flows": {"flows", "train", "tokenize", "models", "ingest"},
}


def imported(path: Path) -> set[str]:
    """The folders of ours that a file imports, at the top or inside functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("triforce.")}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder):
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) <= MAY_IMPORT[folder], path


@pytest.mark.parametrize("folder", [*MAY_IMPORT, "tests"])
def test_no_folder_at_the_root_is_a_package(folder):
    assert not (ROOT / folder / "__init__.py").exists(), "tokenize/ would shadow the standard library's"


def test_the_standard_tokenize_wins_in_the_root():
    code = "import tokenize, triforce.tokenize.plan; print(tokenize.generate_tokens.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "tokenize"
