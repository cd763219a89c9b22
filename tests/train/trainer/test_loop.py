import contextlib
import copy
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import add_recording
from tensorboardX.proto import event_pb2
from tiny_run import tokenize_here

from triforce.ingest.corpus.store import Corpus
from triforce.models.gpt import gpt_latents
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.release import Release
from triforce.models.release_files import load_card
from triforce.models.vocabulary import Segment
from triforce.tokenize.config import TokenizeConfig
from triforce.train.config import RECIPES, TrainConfig, train_config
from triforce.train.data.order import Place
from triforce.train.launch.worker import write_release
from triforce.train.tasks.registry import input_hashes, make_task
from triforce.train.trainer.config import OptimizerConfig
from triforce.train.trainer.curves import Curves
from triforce.train.trainer.loop import Averaging, NonFiniteLossError, Trainer, in_bfloat16, learning_rate, step_seed

MODELS = {
    "dvae": {"hidden": 32, "num_blocks": 1, "quantizer": "fsq"},
    "gpt": {"num_layers": 2, "width": 32, "num_heads": 2, "dropout": 0.1},
    "diffusion": {"hidden": 16, "num_blocks": 2},
    "vocoder": {"hidden": 16, "inner": 32, "num_blocks": 1},
}


def make_config(folder: Path, stage: str, **settings) -> TrainConfig:
    places = {name: str(folder / name) for name in ("release", "runs", "tokens" if stage == "gpt" else "corpus")}
    fast = {"context": 192, "code_noise": 0.1} if stage == "gpt" else {"crop_frames": 48}
    fast |= {
        "batch_size": 2,
        "max_steps": 8,
        "eval_every": 4,
        "log_every": 1,
        "validation_share": 0.2,
        "eval_clips": 4,
    }
    return train_config(stage=stage, model=MODELS[stage], **(places | fast | settings))


def make_trainer(config: TrainConfig) -> Trainer:
    task = make_task(config, Place(0, 1), torch.device("cpu"))
    return Trainer(task, config)


def fit(trainer: Trainer, folder: Path | None = None, stop_after: int | None = None) -> Trainer:
    """Train to the end, or to the checkpoint after ``stop_after`` steps."""

    class Stop(Exception):
        pass

    def report(trainer: Trainer, metrics: dict, save: bool) -> None:
        if stop_after and trainer.state.step >= stop_after:
            trainer.save(folder)
            raise Stop

    with contextlib.suppress(Stop):
        trainer.fit(report, lambda history: None)
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a corpus, a dVAE of a few steps and its shards."""
    folder = tmp_path_factory.mktemp("trained")
    corpus = Corpus(str(folder / "corpus"))
    for source_id in "abc":
        add_recording(corpus, "feed", source_id, 8, drop=1, seed=ord(source_id))
    config = make_config(folder, "dvae", max_steps=20)
    trainer = fit(make_trainer(config))
    write_release(trainer, trainer.task, config, {"run_name": "dvae-test", "inputs": input_hashes(config)})
    tokenize = TokenizeConfig(
        corpus=corpus.uri, release=str(folder / "release"), tokens=str(folder / "tokens"), clips_per_shard=8
    )
    tokenize_here(tokenize)
    return folder


SETTLING = {"quantizer": "ema-vq", "codebook_size": 64, "refresh_share": 0.5}
"""A codebook that is drawn anew before the stop and settles behind it."""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("stage", "model"), [("dvae", {}), ("dvae", SETTLING), ("gpt", {}), ("diffusion", {}), ("vocoder", {})]
)
def test_a_resumed_run_is_the_straight_run(trained, tmp_path, stage, model, precision):
    config = make_config(trained, stage, checkpoint_every_s=1e-6, precision=precision)
    config = train_config(**config.model_dump() | {"model": config.model_settings | model})
    straight = fit(make_trainer(config))
    stopped = fit(make_trainer(config), tmp_path, stop_after=3)
    assert stopped.state.step == 3
    resumed = make_trainer(config)
    resumed.load(tmp_path)
    fit(resumed)

    def curve(trainer: Trainer) -> list[dict]:
        times = ("wall_s", "data/wait_share")
        return [{key: entry[key] for key in entry if key not in times} for entry in trainer.state.history]

    assert curve(resumed) == curve(straight)
    for name, tensor in straight.ema.state_dict().items():
        assert torch.equal(tensor, resumed.ema.state_dict()[name]), name


@pytest.mark.parametrize("stage", ["dvae", "gpt", "diffusion"])
def test_training_lowers_the_loss(trained, stage):
    rates = {"learning_rate": 3e-3, "warmup_steps": 5}
    trainer = make_trainer(make_config(trained, stage, max_steps=60, batch_size=4, eval_every=60, optimizer=rates))
    fit(trainer)
    losses = [entry["train/loss"] for entry in trainer.state.history]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("stage", ["dvae", "gpt", "diffusion", "vocoder"])
def test_half_precision_takes_nearly_the_same_steps_with_weights_that_stay_whole(trained, stage):
    first, last, weights = {}, {}, {}
    for precision in ("float32", "bfloat16"):
        trainer = make_trainer(make_config(trained, stage, precision=precision))
        metrics = [trainer.step(0.0) for _ in range(3)]
        first[precision], last[precision] = metrics[0]["train/loss"], metrics[-1]["train/loss"]
        assert {p.dtype for p in trainer.task.model.parameters()} == {torch.float32}
        weights[precision] = torch.cat([p.detach().flatten() for p in trainer.task.model.parameters()])
    assert first["bfloat16"] == pytest.approx(first["float32"], rel=0.02)
    assert last["bfloat16"] == pytest.approx(last["float32"], rel=0.05)
    assert not torch.equal(weights["bfloat16"], weights["float32"])  # or it was never switched on


def test_precision_by_itself_is_what_the_device_is_fast_at(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for units in (False, True):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: {"avx512_bf16": units})
        assert in_bfloat16("auto", cpu) is units
        assert in_bfloat16("auto", gpu)
        assert in_bfloat16("bfloat16", cpu)
        assert not in_bfloat16("float32", gpu)
        films, pictures = torch.nn.Conv3d(3, 4, 3), torch.nn.Conv2d(3, 4, 3)
        assert in_bfloat16("auto", cpu, pictures) is units
        assert not in_bfloat16("auto", cpu, films)
        assert in_bfloat16("auto", gpu, films)
        with pytest.raises(ValueError, match="convolutions along three axes are wrong"):
            in_bfloat16("bfloat16", cpu, films)


def test_two_accumulated_halves_are_one_batch(trained):
    configs = (make_config(trained, "dvae", batch_size=4, accumulation=n, precision="float32") for n in (1, 2))
    whole, halves = (make_trainer(config) for config in configs)
    # Halves are averaged with equal weight, so only full crops compare.
    for trainer in (whole, halves):
        trainer.task.crops.config = trainer.config.model_copy(update={"crop_frames": 32})
        trainer.step(0.0)
    for name, tensor in whole.task.model.state_dict().items():
        torch.testing.assert_close(tensor, halves.task.model.state_dict()[name], atol=2e-4, rtol=1e-3)


def test_a_loss_that_is_no_number_stops_before_the_weights_change(trained):
    trainer = make_trainer(make_config(trained, "dvae"))
    before = copy.deepcopy(trainer.task.model.state_dict())
    with torch.no_grad():
        trainer.task.model.head.bias[0] = torch.nan
    before["head.bias"] = trainer.task.model.head.bias.detach().clone()
    with pytest.raises(NonFiniteLossError, match="learning_rate"):
        trainer.step(0.0)
    for name, tensor in trainer.task.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], equal_nan=True, rtol=0, atol=0)


def test_the_seed_of_a_step_is_the_same_on_every_machine_and_no_others():
    assert step_seed(0, 5, 1) == 2919813369553411398
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(300) for rank in range(4)}
    assert len(seeds) == 3 * 300 * 4


def test_the_average_follows_buffers_too():
    model, average = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    model.running_mean.fill_(10.0)
    model.num_batches_tracked.fill_(7)
    Averaging(average, model)(decay=0.9)
    torch.testing.assert_close(average.running_mean, torch.full((3,), 1.0))
    assert average.num_batches_tracked == 7


def test_the_rate_rises_holds_and_falls():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, decay_share=0.5)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 50, 0.4) == 1.0
    assert learning_rate(config, 75, 0.75) == pytest.approx(0.5)
    assert learning_rate(config, 99, 1.0) == 0.0


def test_time_ends_a_run_where_the_config_caps_it(trained):
    trainer = fit(make_trainer(make_config(trained, "dvae", max_steps=100_000, max_minutes=0.05, eval_every=100_000)))
    assert 0 < trainer.state.step < 100_000
    assert trainer.state.history[-1]["train/learning_rate"] < 0.5 * trainer.config.optimizer.learning_rate


def test_a_release_refuses_another_dvae(trained, tmp_path):
    config = make_config(trained, "gpt", max_steps=1)
    trainer = fit(make_trainer(config))
    other = config.model_copy(update={"release": str(tmp_path)})
    write_release(trainer, trainer.task, other, {"run_name": "x", "inputs": {"dvae": "0" * 64}})
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "dvae").mkdir(exist_ok=True)
        (tmp_path / "dvae" / name).write_bytes((trained / "release/dvae" / name).read_bytes())
    with pytest.raises(ValueError, match="train the gpt again"):
        Release.load(str(tmp_path)).gpt  # noqa: B018


def test_a_release_speaks_without_its_corpus(trained, tmp_path):
    for stage in ("gpt", "diffusion"):
        config = make_config(trained, stage, max_steps=2)
        trainer = fit(make_trainer(config))
        write_release(trainer, trainer.task, config, {"run_name": stage, "inputs": input_hashes(config)})
    moved = tmp_path / "moved"
    shutil.copytree(trained / "release", moved)
    release = Release.load(str(moved))
    speech = release.speak("one two three", seed=1, sampling=SamplingConfig(max_codes=20))
    assert len(speech.waveform) == (4 * len(speech.codes) - 1) * 256
    assert release.info()["codes_per_second"] == pytest.approx(23.4375)
    assert {"o", "n", " "} <= release.characters <= set("onetwhrfuivsxg ")
    half = release.render(speech.codes, speed=2.0)[0]
    assert len(half) == pytest.approx(len(speech.waveform) / 2, rel=0.05)
    with pytest.raises(ValueError, match="nothing to say"):
        release.speak("  ")


def test_recipes_fill_what_is_not_set_and_bad_runs_are_refused(tmp_path):
    config = train_config(stage="dvae", release="r", runs="x", corpus="c", model={"num_blocks": 2})
    assert config.model_settings == RECIPES["dvae"]["tiny"]["model"] | {"num_blocks": 2}
    assert train_config(**config.model_dump()) == config
    with pytest.raises(ValueError, match="needs corpus"):
        train_config(stage="dvae", release="r", runs="x")
    with pytest.raises(ValueError, match="multiple of num_workers x accumulation"):
        train_config(stage="dvae", release="r", runs="x", corpus="c", batch_size=3, num_workers=2)
    with pytest.raises(ValueError, match="stage gpt has tiny, small"):
        train_config(stage="gpt", size="dall-e", release="r", runs="x", tokens="t")
    with pytest.raises(ValueError, match="modality video needs 3 numbers"):
        train_config(stage="dvae", release="r", runs="x", corpus="c", modality="video", crop=(32, 32))
    with pytest.raises(ValueError, match="batchsize"):
        train_config(stage="dvae", release="r", runs="x", corpus="c", batchsize=3)


def test_fine_tuning_begins_at_a_release_and_moves_only_what_it_is_told_to(trained, tmp_path):
    config = make_config(trained, "gpt", max_steps=3)
    base = fit(make_trainer(config))
    write_release(base, base.task, config, {"run_name": "base", "inputs": input_hashes(config)})
    shutil.copytree(trained / "release", tmp_path / "base")
    chosen = {"init_from": str(tmp_path / "base"), "train_only": ("blocks.1.*", "*norm.weight")}
    tuning = make_config(trained, "gpt", max_steps=3, seed=5, **chosen)
    tuned = make_trainer(tuning)
    before = copy.deepcopy(tuned.task.model.state_dict())
    for name, tensor in base.ema.state_dict().items():
        assert torch.equal(before[name], tensor)
    fit(tuned)
    moved = {name for name, tensor in tuned.task.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"blocks.1.attention.qkv.weight", "blocks.0.attention_norm.weight", "norm.weight"} <= moved
    assert all(name.startswith("blocks.1.") or name.endswith("norm.weight") for name in moved)
    assert input_hashes(tuning)["init_from"] == load_card(str(tmp_path / "base"), "gpt")["hash"]
    with pytest.raises(ValueError, match="the release that is written; begin at a copy of it"):
        input_hashes(tuning.model_copy(update={"init_from": tuning.release}))
    with pytest.raises(ValueError, match="fits no parameter"):
        make_trainer(tuning.model_copy(update={"train_only": ("block.1.*",)}))
    with pytest.raises(FileNotFoundError, match="no gpt/tokenizer"):
        make_trainer(tuning.model_copy(update={"init_from": str(tmp_path)}))


def tf_records(data: bytes) -> list[bytes]:
    """TensorFlow's record files: a length of 8 bytes, a checksum of 4, the record, a checksum of 4."""
    records = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        records.append(data[12 : 12 + length])
        data = data[16 + length :]
    return records


def test_curves_are_events_too_and_a_resumed_run_takes_back_what_it_repeats(tmp_path):
    history = [{"step": step, "wall_s": 0.1, "train/loss": 1.0 / step} for step in range(1, 7)]
    with Curves(str(tmp_path), 0) as curves:
        curves(history[:2])
        curves(history[:5])
    with Curves(str(tmp_path), 3) as curves:  # the checkpoint was of step 3
        curves([*history[:3], {"step": 4, "train/loss": 9.0}])
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
    found, purged = {}, []
    for path in sorted((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        for record in tf_records(path.read_bytes()):
            event = event_pb2.Event.FromString(record)
            purged += [event.step] if event.session_log.status == event_pb2.SessionLog.START else []
            for value in event.summary.value:
                found[event.step, value.tag] = value.simple_value
    assert found[4, "train/loss"] == 9.0
    assert found[2, "train/loss"] == 0.5
    assert purged[-1] == 4  # TensorBoard hides everything from here on that was written before


@pytest.fixture
def read(trained, tmp_path) -> Path:
    """A folder whose release has a dVAE and a transformer of a few steps."""
    shutil.copytree(trained / "release/dvae", tmp_path / "release/dvae")
    write_gpt(trained, tmp_path, seed=0)
    return tmp_path


def write_gpt(trained: Path, folder: Path, seed: int) -> None:
    config = make_config(trained, "gpt", max_steps=2, seed=seed, release=str(folder / "release"))
    trainer = fit(make_trainer(config))
    write_release(trainer, trainer.task, config, {"run_name": "gpt", "inputs": input_hashes(config)})


def with_latents(trained: Path, folder: Path, **settings) -> TrainConfig:
    places = {"release": str(folder / "release"), "latents": True}
    return make_config(trained, "diffusion", **(places | {"max_steps": 6, "crop_frames": 50} | settings))


def test_a_crop_is_cut_from_a_clip_that_was_encoded_whole(trained, read):
    task = make_task(with_latents(trained, read), Place(0, 1), torch.device("cpu"))
    mels, priors, sizes, latents, _ = task.whole.batch(Place(0, 1), 3)
    assert mels.shape == priors.shape == (3, 100, 50)
    assert latents.shape == (3, 32, 13)
    for position in range(3):
        whole = task.whole.whole(task.crops.store, *task.crops.order(position))
        frames = int(sizes[position])
        starts = [
            first
            for first in range(0, whole.medium.shape[1] - frames + 1, 4)
            if torch.equal(whole.medium[:, first : first + frames], mels[position, :, :frames])
        ]
        assert starts, position
        assert torch.equal(whole.prior[:, starts[0] : starts[0] + frames], priors[position, :, :frames])
        count = -(-frames // 4)
        assert torch.equal(whole.latents[:, starts[0] // 4 :][:, :count], latents[position, :, :count])


def test_whole_clips_need_no_gpt_and_are_what_the_latents_are_cut_with(trained, read):
    with_gpt = make_task(with_latents(trained, read), Place(0, 1), torch.device("cpu"))
    config = with_latents(trained, read, latents=False, whole_clips=True)
    alone = make_task(config, Place(0, 1), torch.device("cpu"))
    mels, priors, sizes, latents, _ = alone.whole.batch(Place(0, 1), 3)
    assert latents is None
    for found, expected in zip((mels, priors, sizes), with_gpt.whole.batch(Place(0, 1), 3)[:3], strict=True):
        assert torch.equal(found, expected)
    loss, _ = alone.loss(alone.next_batch())
    assert torch.isfinite(loss)


def test_latents_are_those_at_the_codes_and_know_the_text(read):
    release = Release.load(str(read / "release"))
    gpt, codes = release.gpt, np.arange(9) % 7
    one, other = (Segment("text", release.tokenizer.encode(text)) for text in ("one two", "six ten"))
    states = gpt_latents(gpt, [one], Segment("speech", codes))
    ids = torch.from_numpy(gpt.config.vocabulary.document_ids([one, Segment("speech", codes)]))[None]
    torch.testing.assert_close(states, gpt(ids)[0, len(one.codes) + 3 :][:9].T)
    assert not torch.equal(states, gpt_latents(gpt, [other], Segment("speech", codes)))
    assert gpt_latents(gpt, [one], Segment("speech", np.zeros(gpt.config.max_positions))) is None


def test_diffusion_that_conditions_on_the_gpts_latents(trained, read, tmp_path):
    config = with_latents(trained, read, checkpoint_every_s=1e-6)
    straight = fit(make_trainer(config))
    (tmp_path / "stop").mkdir()
    fit(make_trainer(config), tmp_path / "stop", stop_after=3)
    resumed = make_trainer(config)
    resumed.load(tmp_path / "stop")
    fit(resumed)
    for name, tensor in straight.ema.state_dict().items():
        assert torch.equal(tensor, resumed.ema.state_dict()[name]), name
    write_release(straight, straight.task, config, {"run_name": "d", "inputs": input_hashes(config)})

    release = Release.load(str(read / "release"))
    codes = np.arange(30) % 50
    with_text, without = (release.render(codes, text=text)[1] for text in ("one two", None))
    assert with_text.shape == without.shape
    assert not np.array_equal(with_text, without)
    assert release.latents("one two", np.zeros(release.gpt.config.max_positions)) is None
    assert release.speak("one two", sampling=SamplingConfig(max_codes=20)).mel.shape[0] == 100

    write_gpt(trained, read, seed=1)
    with pytest.raises(ValueError, match="train the diffusion again"):
        Release.load(str(read / "release")).diffusion  # noqa: B018


def test_latents_where_there_can_be_none_are_refused(trained, tmp_path):
    shutil.copytree(trained / "release/dvae", tmp_path / "release/dvae")
    with pytest.raises(FileNotFoundError, match="triforce train gpt"):
        input_hashes(with_latents(trained, tmp_path))
    with pytest.raises(ValueError, match="latents: stage dvae has no such field, it is for diffusion"):
        make_config(trained, "dvae", latents=True)
    pixels = {"modality": "image", "crop": (8, 8)}
    with pytest.raises(ValueError, match="diffusion of speech alone, this is diffusion of image"):
        make_config(trained, "diffusion", latents=True, **pixels)
    with pytest.raises(ValueError, match="set both to 0"):
        with_latents(trained, tmp_path, speed_jitter=0.1)
