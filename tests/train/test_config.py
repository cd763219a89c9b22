"""The settings of a run: what is refused before anything starts, and what names a run."""

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.schema_tools.validation import validate

from triforce.flows.train import train as train_flow
from triforce.tokenize.config import TokenizeConfig
from triforce.train import identity
from triforce.train.config import (
    STAGE_CONFIGS,
    DVAETrainConfig,
    TrainConfig,
    train_config,
    train_fields,
    with_absolute_paths,
)

PLACES = {"release": "r", "runs": "x"}
CLIPS, TOKENS = PLACES | {"corpus": "c"}, PLACES | {"tokens": "t"}
INPUTS = {"corpus": "0" * 64}

NAMES = {
    "dvae-9b9d4391cf4c": {"stage": "dvae", "size": "tiny"},
    "dvae-a9d3b65ff850": {"stage": "dvae", "size": "small"},
    "dvae-98597d89cacb": {"stage": "dvae", "size": "dall-e"},
    "gpt-2183cf1d10f2": {"stage": "gpt", "size": "tiny"},
    "diffusion-785a15fac595": {"stage": "diffusion", "size": "tiny", "whole_clips": False},
    "vocoder-979b8e5d8a86": {"stage": "vocoder", "size": "tiny"},
    "gpt-bafbf4604756": {"stage": "gpt", "size": "tortoise"},
    "dvae-636f49e3333c": {
        "stage": "dvae",
        "model": {"num_blocks": 2, "compression": [4, 4], "dilation_cycle": (1, 2)},
        "modality": "image",
        "crop": (16, 16),
        "optimizer": {"learning_rate": 0.003, "warmup_steps": 5},
    },
    "dvae-1c46051f3e09": {
        "stage": "dvae",
        "model": {"quantizer": "fsq", "fsq_levels": [8, 8, 8], "dropout": 0.25},
        "max_steps": 5,
        "max_minutes": 40,
        "threads_per_worker": 1,
        "readers_per_worker": 2,
        "num_workers": 2,
        "min_workers": 1,
    },
    "dvae-6433c57ab2fb": {
        "stage": "dvae",
        "modality": "video",
        "crop": [8, 64, 64],
        "batch_size": "4",
        "model": {"compression": [2, 8, 8], "folded": True},
    },
    "gpt-72b4cf902d9b": {
        "stage": "gpt",
        "model": {"num_layers": 2, "width": 32, "num_heads": 2},
        "layouts": {"text>speech": 1, "speech>text": 2},
        "loss_weights": {"text": 4},
        "code_noise": 0.1,
        "more_tokens": ("a",),
        "join_on": "text",
        "side_by_side": True,
    },
    "gpt-2cfe5faa512c": {
        "stage": "gpt",
        "sharding": "fsdp",
        "num_workers": 4,
        "batch_size": 64,
        "accumulation": 2,
        "checkpoint_activations": True,
        "use_gpu": True,
        "precision": "bfloat16",
        "compile": True,
        "init_from": "q",
        "train_only": ["blocks.1.*"],
    },
    "gpt-a4fe5b301d77": {
        "stage": "gpt",
        "context": "192",
        "prefetch": 0,
        "voice_codes": 50,
        "validation_share": 0.1,
        "model": {"paces": {"text": 1.9}},
        "seed": 7,
    },
    "diffusion-932895d1e1cf": {
        "stage": "diffusion",
        "latents": True,
        "model": {"fold": 4, "hidden": 320, "num_blocks": 8, "attention_every": 4, "dropout": 0.1, "skip": True},
        "max_steps": 40000,
        "max_minutes": 0.5,
    },
    "diffusion-ca5ca6e03363": {
        "stage": "diffusion",
        "speed_jitter": 0.1,
        "crop_frames": 288,
        "model": {"flows": "medium", "path": "cosine"},
        "eval_every": 50,
        "eval_clips": 7,
        "log_every": 1,
    },
    "diffusion-51a8611bf0aa": {
        "stage": "diffusion",
        "modality": "image",
        "crop": [32, 32],
        "model": {"fold": 2, "attention_every": 2, "hidden": 64},
    },
    "vocoder-d9a87da818bf": {
        "stage": "vocoder",
        "loss_weights": {"adversarial": 1.0, "mel": 2},
        "model": {"hidden": 64, "inner": 128, "num_blocks": 2},
    },
}
"""Runs, by names that they had before each stage had a config class of its own: they must continue under them."""


def make(stage: str, **settings) -> TrainConfig:
    return train_config(stage=stage, **(TOKENS if stage == "gpt" else CLIPS) | settings)


@pytest.mark.parametrize(("name", "settings"), NAMES.items())
def test_runs_keep_the_names_that_they_began_with(name, settings):
    config = make(**settings)
    assert config.run_name(INPUTS) == name
    assert train_config(**config.model_dump(mode="json")).run_name(INPUTS) == name
    assert config.for_workers(config.num_workers).model_copy(update={"min_workers": None}).run_name(INPUTS) == name


def test_each_field_is_known_to_decide_the_result_or_not():
    fields = set(train_fields())
    decide = set(identity.IDENTITY) | set(identity.ADDED)
    assert fields == decide | identity.NOT_IDENTITY, "add the field to ADDED or NOT_IDENTITY"
    assert not decide & identity.NOT_IDENTITY
    assert not set(identity.IDENTITY) & set(identity.ADDED)
    for name, default in identity.ADDED.items():
        assert train_fields()[name].default == default, name
    for stage, config in STAGE_CONFIGS.items():
        missing = set(identity.IDENTITY) - set(config.model_fields)
        assert identity.SET not in [identity.IDENTITY[name] for name in missing], stage


@pytest.mark.parametrize("stage", STAGE_CONFIGS)
def test_what_decides_the_result_changes_the_name_and_what_does_not_leaves_it(stage):
    config = make(stage)
    data = "tokens" if stage == "gpt" else "corpus"
    name = config.run_name(INPUTS)
    assert make(stage, **{data: "elsewhere"}, max_failures=9, threads_per_worker=3).run_name(INPUTS) == name
    assert make(stage, seed=1).run_name(INPUTS) != name
    assert make(stage, model={"num_layers" if stage == "gpt" else "num_blocks": 3}).run_name(INPUTS) != name
    assert config.run_name({"corpus": "1" * 64}) != name


@pytest.mark.parametrize("stage", STAGE_CONFIGS)
def test_misspelt_fields_and_those_of_other_stages_are_refused(stage):
    with pytest.raises(ValueError, match=r"model\.hiden"):
        make(stage, model={"hiden": 3})
    with pytest.raises(ValueError, match="batchsize"):
        make(stage, batchsize=3)
    other, owner = ("crop_frames", "dvae, diffusion, vocoder") if stage == "gpt" else ("context", "gpt")
    with pytest.raises(ValueError, match=f"{other}: stage {stage} has no such field, it is for {owner}"):
        make(stage, **{other: 64})


def test_values_out_of_range_are_refused_with_the_fields_of_the_network():
    with pytest.raises(ValueError, match="stage 'vocodr': give one of dvae, gpt, diffusion, vocoder"):
        train_config(stage="vocodr", **CLIPS)
    with pytest.raises(ValueError, match="multiple of twice num_heads"):
        make("gpt", model={"width": 100, "num_heads": 3})
    with pytest.raises(ValueError, match="hidden 48: must be a multiple of 32"):
        make("diffusion", model={"hidden": 48, "attention_every": 2})
    with pytest.raises(ValueError, match="loss_weights"):
        make("vocoder", loss_weights={"mels": 1.0})


def test_what_the_data_decides_is_not_set():
    film = make("diffusion", modality="video", crop=[4, 16, 16], model={"hidden": 48, "attention_every": 2})
    assert film.model_settings == {"hidden": 48, "num_blocks": 8, "attention_every": 2}
    assert make("dvae", model={"channels": 80}).model_settings["channels"] == 80
    assert not {"channels", "compression"} & make("dvae").model_settings.keys()


def test_folders_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = with_absolute_paths(make("gpt", more_tokens=("a", "s3://b/c"), init_from="q"))
    assert found.more_tokens == (str(tmp_path / "a"), "s3://b/c")
    assert (found.tokens, found.init_from) == (str(tmp_path / "t"), str(tmp_path / "q"))
    assert with_absolute_paths(make("dvae")).corpus == str(tmp_path / "c")
    # The voice that comes along, wherever it is read; what is written is a folder.
    assert with_absolute_paths(make("gpt", init_from="voice")).init_from == "voice"
    assert with_absolute_paths(make("dvae", release="voice")).release == str(tmp_path / "voice")
    tokenize = TokenizeConfig(corpus="c", release="voice", tokens="t", init_from="./voice")
    found = with_absolute_paths(tokenize)
    assert (found.release, found.init_from, found.tokens) == ("voice", str(tmp_path / "voice"), str(tmp_path / "t"))


def test_the_flow_takes_plain_fields_and_shows_all_of_them():
    fields = {"stage": "dvae", "max_steps": 7, "model": {"hidden": 64}} | CLIPS
    validated = train_flow.validate_parameters({"config": fields})["config"]
    assert isinstance(validated, DVAETrainConfig)
    assert validated == train_config(**fields)
    with pytest.raises(ParameterTypeError, match="hiden"):
        train_flow.validate_parameters({"config": fields | {"model": {"hiden": 64}}})
    schema = train_flow.parameters.model_dump()
    assert set(STAGE_CONFIGS) == set(schema["properties"]["config"]["discriminator"]["mapping"])
    assert {"hidden", "quantizer"} <= schema["definitions"]["DVAEConfig"]["properties"].keys()


@pytest.mark.parametrize("stage", STAGE_CONFIGS)
@pytest.mark.parametrize("model", [None, {}, {"max_positions": 64}, {"unheard_of": 1}], ids=str)
def test_prefect_accepts_of_a_deployment_what_the_config_accepts(stage, model):
    """Prefect's server compares a run's parameters with the flow's JSON schema before pydantic sees them."""
    data = {"tokens": "t"} if stage == "gpt" else {"corpus": "c"}
    fields = {"stage": stage, "release": "r", "runs": "x", "optimizer": {"warmup_steps": 5}} | data
    if model is not None:
        fields |= {"model": model}
    accepted = not validate({"config": fields}, train_flow.parameters.model_dump(), raise_on_error=False)
    try:
        train_config(**fields)
        expected = True
    except ValueError:
        expected = False
    assert accepted == expected
    assert expected == (not model or (stage == "gpt" and "max_positions" in model))


def test_small_recipes_encode_clips_whole_where_that_goes_with_the_rest():
    assert make("diffusion").whole_clips
    assert make("diffusion", size="small").whole_clips
    assert not make("diffusion", size="medium").whole_clips
    assert not make("diffusion", speed_jitter=0.1).whole_clips
    assert not make("diffusion", readers_per_worker=1).whole_clips
    assert not make("diffusion", latents=True).whole_clips
    assert not make("diffusion", modality="image", crop=(8, 8)).whole_clips
    with pytest.raises(
        ValueError, match=r"whole_clips with readers_per_worker 0 and speed_jitter 0.1: .*set both to 0"
    ):
        make("diffusion", speed_jitter=0.1, whole_clips=True)
    with pytest.raises(ValueError, match="whole_clips: for diffusion of sound, this is diffusion of image"):
        make("diffusion", modality="image", crop=(8, 8), whole_clips=True)
