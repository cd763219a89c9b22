"""The documents keep their promises: the README stays short, links lead somewhere, configs in them are accepted."""

import re
from pathlib import Path

import pytest
import yaml

from triforce.tokenize.config import TokenizeConfig
from triforce.train.__main__ import fields

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("ingest", "models", "tokenize", "train", "flows", "infra", "tests")
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))})


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 160
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_has_a_readme(folder):
    assert (ROOT / folder / "README.md").is_file()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if target and not (path.parent / target).exists()] == []


def test_settings_in_the_scale_document_are_accepted():
    text = (ROOT / "infra" / "SCALE.md").read_text("utf-8")
    [tokenize] = re.findall(r"- `tokenize`: `(\{.*?\})`", text)
    [train] = re.findall(r"- `train`: `(\{.*?\})`", text)
    places = {"corpus": "c", "release": "r", "tokens": "t"}
    assert TokenizeConfig.model_validate(places | yaml.safe_load(tokenize)).batch_positions == 65536
    assert yaml.safe_load(train).keys() <= fields().keys()
