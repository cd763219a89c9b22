"""The files of a release stay what earlier releases hold: hashes, names of tensors, names of settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_run import write_release
from torch import nn

from triforce.models.audio.mel import MelConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.gpt import GPT, GPTConfig
from triforce.models.release import Release
from triforce.models.release_files import load_stage, load_unique, stage_files, unique_tensors
from triforce.models.vocabulary import Modality, Vocabulary


def filled(model: nn.Module) -> nn.Module:
    """Set all tensors to 1: weights that no random number generator decides."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(1)
    return model


def hash_of(stage: str, model: nn.Module, card: dict) -> str:
    return json.loads(stage_files(stage, model, card)["config.json"])["hash"]


def test_hashes_are_those_of_earlier_releases():
    dvae = filled(DVAE(DVAEConfig(hidden=16, stem=16, num_blocks=1, fsq_levels=(4, 4, 4))))
    found = hash_of("dvae", dvae, {"mel": MelConfig().model_dump(mode="json")})
    assert found == "0fc1852c658ce56f2daef7a14a7dc97280c86fd0c41d856e4a7563d18c0f37bb"
    vocabulary = Vocabulary(modalities=(Modality(name="text", num_codes=256),))
    gpt = filled(GPT(GPTConfig(vocabulary=vocabulary, num_layers=1, width=16, num_heads=2)))
    assert hash_of("gpt", gpt, {}) == "6cce196feb992ad6165583d394e4f2a3b0c9bb9f4993b55307f30fb542e9e775"


def test_a_release_that_names_its_target_as_before_loads(tmp_path):
    uri = write_release(tmp_path)
    path = Path(uri) / "diffusion/config.json"
    card = json.loads(path.read_text())
    assert card["model"].pop("target") == "residual"
    card["model"]["flows"] = "medium"
    path.write_text(json.dumps(card))
    release = Release.load(uri)
    assert release.diffusion.config.target == "medium"
    assert load_stage(uri, "diffusion").hash == card["hash"]  # as written, whatever this version would compute


def test_weights_that_do_not_fit_are_refused():
    small, large = (DVAE(DVAEConfig(hidden=16, stem=16, num_blocks=count)) for count in (1, 2))
    with pytest.raises(ValueError, match="missing or left over"):
        load_unique(large, unique_tensors(small))
