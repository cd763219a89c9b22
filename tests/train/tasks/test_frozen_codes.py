"""A dVAE that goes on from another: its decoder alone, on codes that stay valid, or all of it."""

from pathlib import Path

import pytest
import torch
from corpora import add_recording

from triforce.ingest.corpus.store import Corpus
from triforce.models.release_files import load_card, load_stage, require_dvae
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.plan import open_tokens
from triforce.train.config import train_config
from triforce.train.data.order import Place
from triforce.train.launch.worker import write_release
from triforce.train.tasks.registry import input_hashes, make_task
from triforce.train.trainer.loop import Trainer

DECODER = ("decoder*", "head*")
MODELS = {
    "fsq": {"quantizer": "fsq", "fsq_levels": (4, 4, 4)},
    "ema-vq": {"quantizer": "ema-vq", "codebook_size": 64, "folded": True},
}


def make_trainer(folder: Path, release: str, **settings) -> Trainer:
    fields = {"batch_size": 4, "crop_frames": 48, "max_steps": 12, "eval_clips": 2, "precision": "float32"}
    fields |= {"eval_every": 100, "optimizer": {"learning_rate": 3e-3, "warmup_steps": 2, "ema_decay": 0.5}}
    places = {"release": str(folder / release), "runs": str(folder / "runs"), "corpus": str(folder / "corpus")}
    config = train_config(stage="dvae", **(places | fields | settings))
    return Trainer(make_task(config, Place(0, 1), torch.device("cpu")), config)


def train(trainer: Trainer) -> None:
    inputs = input_hashes(trainer.config)
    trainer.fit(lambda *_: None, lambda _: None)
    write_release(trainer, trainer.task, trainer.config, {"run_name": "test", "inputs": inputs})


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory) -> Path:
    """A folder with a corpus and a dVAE in the release ``base``."""
    folder = tmp_path_factory.mktemp(request.param)
    add_recording(Corpus(str(folder / "corpus")), "feed", "a", 12)
    model = {"hidden": 32, "stem": 16, "num_blocks": 1, "dropout": 0.1} | MODELS[request.param]
    train(make_trainer(folder, "base", model=model))
    return folder


def test_the_decoder_learns_alone_and_codes_and_all_that_rests_on_them_stay_valid(folder):
    begin = {"init_from": str(folder / "base"), "seed": 3}
    trainer = make_trainer(folder, "tuned", train_only=DECODER, **begin)
    train(trainer)
    base, tuned = (require_dvae(str(folder / name)) for name in ("base", "tuned"))
    assert tuned.model.config.hidden == 32  # the shape is that of the base, not the recipe's
    x = torch.stack([x[:, :60] for x in trainer.task.evaluation])
    assert torch.equal(base.model.encode(x), tuned.model.encode(x))
    before, after = base.model.state_dict(), tuned.model.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, _ in base.model.named_parameters() if name.startswith(("decoder", "head"))}
    assert tuned.codes_hash == base.codes_hash == base.hash != tuned.hash
    assert load_card(str(folder / "tuned"), "dvae")["inputs"]["init_from"] == base.hash
    # The same shards, whichever of the two begins or reads them.
    tokens = {"corpus": str(folder / "corpus"), "tokens": str(folder / "tokens")}
    made = open_tokens(TokenizeConfig(release=str(folder / "base"), **tokens), base)
    assert open_tokens(TokenizeConfig(release=str(folder / "tuned"), **tokens), tuned) == made
    again = make_trainer(folder, "again", train_only=DECODER, **(begin | {"init_from": str(folder / "tuned")}))
    train(again)
    assert load_stage(str(folder / "again"), "dvae").codes_hash == base.hash


def test_all_of_it_learns_on_and_its_codes_are_its_own(folder):
    trainer = make_trainer(folder, "other", init_from=str(folder / "base"))
    begun = {name: tensor.clone() for name, tensor in trainer.task.model.state_dict().items()}
    base = require_dvae(str(folder / "base"))
    assert all(torch.equal(tensor, begun[name]) for name, tensor in base.model.state_dict().items())
    train(trainer)
    other = require_dvae(str(folder / "other"))
    assert other.codes_hash == other.hash != base.hash
    assert not torch.equal(other.model.encoder_norm.weight, base.model.encoder_norm.weight)
    tokens = {"corpus": str(folder / "corpus"), "tokens": str(folder / "others")}
    open_tokens(TokenizeConfig(release=str(folder / "base"), **tokens), base)
    with pytest.raises(ValueError, match="begun with dvae_hash"):
        open_tokens(TokenizeConfig(release=str(folder / "other"), **tokens), other)


def test_a_beginning_that_makes_no_sense_is_refused(folder):
    with pytest.raises(ValueError, match="would stay as they are drawn at random; give init_from"):
        make_trainer(folder, "tuned", train_only=DECODER)
    with pytest.raises(ValueError, match="the release that is written; begin at a copy of it"):
        input_hashes(make_trainer(folder, "base", init_from=str(folder / "base")).config)
    with pytest.raises(FileNotFoundError, match=r"no dvae/config\.json here"):
        make_trainer(folder, "tuned", init_from=str(folder / "nowhere"))
