"""The voice that comes along: it is installed with the package, speaks where no release is named, and is small."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny_run import write_release

from triforce.flows.examples.narrator.shrink import shrink, without_folders
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.release import Release
from triforce.models.voice import bundled

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 40_000_000
SPEAK = ("-m", "triforce.flows.cli.main", "speak", "Good evening.", "--set", "sampling.max_codes=24")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A release as it comes along."""
    folder = tmp_path_factory.mktemp("voice")
    write_release(folder / "release")
    shrink(folder / "release", folder / "small")
    return folder / "small"


def test_small_weights_compute_in_float32(small):
    stored = {stage: load_file(small / stage / "model.safetensors") for stage in ("gpt", "dvae")}
    assert {tensor.dtype for tensor in stored["dvae"].values()} == {torch.bfloat16, torch.float32}
    assert {tensor.dtype for tensor in stored["gpt"].values()} == {torch.int8, torch.float32}
    release, whole = Release.load(str(small)), Release.load(str(small.parent / "release"))
    for network in (release.dvae, release.gpt, release.diffusion):
        assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    assert {name for name in stored["gpt"] if not name.endswith(".scale")} <= set(release.gpt.state_dict())
    for name, tensor in whole.gpt.state_dict().items():
        step = tensor.flatten(1).abs().amax(1) / 127 if tensor.ndim > 1 else torch.zeros(1)
        assert (
            (release.gpt.state_dict()[name] - tensor).flatten(1 if tensor.ndim > 1 else 0).abs().amax(-1) <= 0.51 * step
        ).all()
    assert release.speak("press one", seed=1).waveform.size


def test_what_is_small_is_made_small_again_without_loss(small, tmp_path):
    shrink(small, tmp_path / "again")
    for stage in ("gpt", "dvae"):
        first, second = (load_file(folder / stage / "model.safetensors") for folder in (small, tmp_path / "again"))
        assert set(first) == set(second)
        assert all(torch.allclose(first[name].float(), second[name].float(), rtol=1e-6) for name in first)


def test_cards_name_no_folder_of_the_machine_that_trained():
    card = {"training": {"corpus": "/home/me/corpus/", "model": {"width": 8}, "init_from": None}, "runs": ["/a/b"]}
    public = without_folders(card)
    assert public == {"training": {"corpus": "corpus", "model": {"width": 8}, "init_from": None}, "runs": ["/a/b"]}
    for path in bundled.FOLDER.glob("*/config.json"):
        assert '": "/' not in path.read_text(), path


def test_it_speaks_where_no_release_is_named(small, monkeypatch):
    monkeypatch.setattr(bundled, "FOLDER", small)
    assert Release.load().dvae_hash == Release.load("voice").dvae_hash == Release.load(str(small)).dvae_hash
    assert Release.load().tokenizer.size == 256
    assert bundled.located("./voice") == "./voice"  # a folder of that name


def test_a_release_says_how_it_is_sampled_and_what_is_asked_for_wins(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "release")
    card = folder / "gpt/config.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"sampling": {"temperature": 0.0, "max_codes": 9}}))
    release = Release.load(str(folder))
    assert release.sampling_of(None) == SamplingConfig(temperature=0.0, max_codes=9)
    asked = release.sampling_of(SamplingConfig(max_codes=5, top_k=3))
    assert asked == SamplingConfig(temperature=0.0, max_codes=5, top_k=3)
    first, second = (release.draw("press one", seed=seed)[0].codes for seed in (1, 2))
    assert len(first) <= 9
    assert first.tolist() == second.tolist()
    assert Release.load(str(small)).sampling_of(None) == SamplingConfig()


@pytest.mark.slow
def test_an_installation_speaks_at_once_anywhere(tmp_path):
    source, installed, work = (tmp_path / name for name in ("source", "installed", "work"))
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("flows", "ingest", "models", "tokenize", "train", "infra/pkg"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source))
    subprocess.run([sys.executable, *build], check=True)
    [wheel] = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(installed)
    held = {path.relative_to(bundled.FOLDER) for path in bundled.FOLDER.glob("*/*") if path.suffix != ".pyc"}
    assert {Path("gpt/model.safetensors"), Path("dvae/config.json")} <= held
    assert all((installed / "triforce/models/voice" / name).is_file() for name in (*held, "README.md"))
    work.mkdir()
    # A proxy that nothing answers at: whatever asks the network fails.
    offline = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY")} | {"HF_HUB_OFFLINE": "1"}
    offline["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    environment = os.environ | offline | {"PYTHONPATH": str(installed), "HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, *SPEAK, "-o", "x.wav"], cwd=work, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "voice: the one that comes along; --release names another\n"
    assert [path.name for path in work.iterdir()] == ["x.wav"]  # no folder of ours
    assert soundfile.read(work / "x.wav")[0].size > 1000


def test_what_comes_along_is_small_and_loads():
    files = [path for path in bundled.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert (bundled.FOLDER / "README.md").is_file()
    release = Release.load()
    assert release.reads
    assert release.codes_hash
    assert release.sampling_of(None).guidance > 1
    assert 0.5 < release.speak("Good evening.", seed=1).waveform.size / release.sample_rate_hz < 2
