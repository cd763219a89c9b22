"""Images and videos are learnt by the task and the loop that learn speech."""

import json

import numpy as np
import pytest
import torch

from triforce.ingest.clips.make_clip import image_clip
from triforce.ingest.corpus.records import TRANSCRIPT, Clip, Recording, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.local_files import ImportConfig, import_folder
from triforce.ingest.media.pixels import clip_pixels, decode_png, encode_video
from triforce.models.release import Release
from triforce.models.release_files import load_card, require_dvae
from triforce.tokenize.read import prepare_clip
from triforce.train.config import DiffusionTrainConfig, TrainConfig, train_config
from triforce.train.data.order import Place
from triforce.train.evaluate.classifier import PictureClassifier
from triforce.train.evaluate.pictures import PictureConfig, evaluate_pictures
from triforce.train.launch.worker import write_release
from triforce.train.tasks.diffusion import DiffusionTask
from triforce.train.tasks.dvae import DVAETask
from triforce.train.tasks.registry import input_hashes
from triforce.train.trainer.loop import Trainer


def stripes(seed: int, height: int = 24, width: int = 20) -> np.ndarray:
    """``(H, W, 3)`` uint8: bars of two colours, the place and the direction by the seed."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, 256, (2, 3), dtype=np.uint8)
    axis, period = generator.integers(2), 4 * generator.integers(1, 3)
    position = np.indices((height, width))[axis] + generator.integers(8)
    return colours[(position // period) % 2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("pixels")
    corpus = Corpus(str(folder / "corpus"))
    for seed in range(300):
        name = str(seed)
        recording = Recording(make_recording_id("stripes", name), "stripes", "array", name, f"array:{name}")
        corpus.write_recording(recording)
        corpus.write_clips(recording, [image_clip(recording, 0, stripes(seed), text="bars", asr_model=TRANSCRIPT)])
    (folder / "films").mkdir()
    film = np.stack([np.roll(stripes(3), 2 * i, axis=0) for i in range(16)])
    (folder / "films/a.mkv").write_bytes(encode_video(film, 10))
    import_folder(corpus, folder / "films", ImportConfig(modality="video", source="films", clip_frames=8))
    return corpus


def train(corpus: Corpus, folder, **settings) -> tuple[Trainer, TrainConfig]:
    model = {"hidden": 48, "num_blocks": 1, "quantizer": "fsq", "fsq_levels": [8, 8, 8]} | settings.pop("model")
    config = train_config(
        stage="dvae",
        corpus=corpus.uri,
        release=str(folder / "release"),
        runs=str(folder),
        model=model,
        batch_size=8,
        eval_every=1000,
        log_every=1000,
        validation_share=0.1,
        optimizer={"learning_rate": 3e-3, "warmup_steps": 5, "ema_decay": 0.9},
        **settings,
    )
    torch.manual_seed(0)
    trainer = Trainer(DVAETask(config, Place(0, 1), torch.device("cpu")), config)
    trainer.fit(lambda trainer, metrics, save: None, lambda history: None)
    return trainer, config


@pytest.mark.parametrize("folded", [True, False])
def test_images_of_any_aspect_are_learnt_and_restored(corpus, tmp_path, folded):
    trainer, config = train(
        corpus,
        tmp_path,
        modality="image",
        crop=(16, 16),
        max_steps=120,
        model={"compression": [4, 4], "folded": folded, "stem": 24},
    )
    metrics = trainer.state.history[-1]
    mean = trainer.task.crops.statistics()[0].view(3, 1, 1)
    unseen = [x for x in trainer.task.crops.evaluation()]
    assert {x.shape for x in unseen} == {(3, 24, 20)}
    guess = float(np.mean([255 * (x - mean).abs().mean() for x in unseen]))
    assert metrics["eval/l1_levels"] < 0.6 * guess
    assert metrics["eval/codes_per_position"] == pytest.approx(1 / 16)
    write_release(trainer, trainer.task, config, {"run_name": "test", "inputs": {}})
    card = load_card(config.release, "dvae")
    assert card["modality"] == "image"
    assert "mel" not in card
    dvae, image = require_dvae(config.release).model, unseen[0]
    codes = dvae.encode(image[None])
    assert codes.shape == (1, 6, 5)
    restored = dvae.decode(codes, torch.tensor([[24, 20]]))[0]
    assert 255 * float((restored - image).abs().mean()) < 0.8 * guess
    json.dumps(card)


def test_films_are_learnt_in_three_dimensions(corpus, tmp_path):
    model = {"compression": [2, 4, 4], "folded": True}
    trainer, _ = train(corpus, tmp_path, modality="video", crop=(4, 16, 16), max_steps=100, model=model)
    film = trainer.task.crops.evaluation()[0]
    assert film.shape == (3, 8, 24, 20)
    assert trainer.ema.encode(film[None]).shape == (1, 4, 6, 5)
    guess = 255 * float((film - film.mean((1, 2, 3), keepdim=True)).abs().mean())
    assert trainer.state.history[-1]["eval/l1_levels"] < 0.8 * guess


def test_diffusion_sharpens_pictures_and_the_judge_says_what_it_won(corpus, tmp_path):
    settings = {"modality": "image", "crop": (16, 16)}
    model = {"compression": [4, 4], "folded": True}
    trainer, config = train(corpus, tmp_path, max_steps=100, model=model, **settings)
    write_release(trainer, trainer.task, config, {"run_name": "test", "inputs": {}})
    places = {name: getattr(config, name) for name in ("release", "runs", "corpus")}
    with pytest.raises(ValueError, match=r"modality 'speech': the dVAE in .* codes image"):
        input_hashes(train_config(**places | {"stage": "diffusion"}))
    dvae = require_dvae(config.release)
    shared = DiffusionTrainConfig.model_fields.keys() - {"stage", "model"}
    wanted = config.model_dump(include=shared) | {"stage": "diffusion", "max_steps": 250}
    wanted |= {"model": {"hidden": 64, "num_blocks": 4, "fold": 2, "dilation_cycle": [1, 2]}}
    wanted = train_config(**wanted)
    learner = Trainer(DiffusionTask(wanted, Place(0, 1), torch.device("cpu"), dvae.model, None), wanted)
    learner.fit(lambda trainer, metrics, save: None, lambda history: None)
    losses = [entry["train/loss"] for entry in learner.state.history]
    assert losses[-1] < 0.6 * losses[0]
    write_release(learner, learner.task, wanted, {"run_name": "test", "inputs": {"dvae": dvae.hash}})

    told = evaluate_pictures(config.release, corpus.uri, str(tmp_path / "out"), PictureConfig(classifier_steps=5))
    record = json.loads((tmp_path / "out/pictures.json").read_text())
    rows = record["systems"]
    assert told.startswith(f"{record['num_pictures']} unseen pictures")
    assert rows["original"]["ssim"] == pytest.approx(1)
    assert rows["dvae"]["sharpness"] < rows["diffusion"]["sharpness"] < 1.3 * rows["original"]["sharpness"]
    assert rows["mean"]["psnr_db"] > rows["diffusion"]["psnr_db"] > 8
    assert rows["original"]["accuracy"] is None  # all stripes have the same text
    assert decode_png((tmp_path / "out/pictures.png").read_bytes()).shape[2] == 3


def test_a_dvae_of_a_coarser_scale_and_a_diffusion_network_that_brings_the_pixels_back(corpus, tmp_path):
    settings = {"modality": "image", "crop": (24, 20), "shrink": 2}
    trainer, config = train(corpus, tmp_path, max_steps=60, model={"compression": [4, 4], "folded": True}, **settings)
    assert {x.shape for x in trainer.task.evaluation} == {(3, 12, 10)}
    write_release(trainer, trainer.task, config, {"run_name": "test", "inputs": {}})
    dvae = require_dvae(config.release)
    assert dvae.card["shrink"] == 2
    clip = Clip.from_row(corpus.clips(["clip_id", "modality", "image"], source="stripes").to_pylist()[0])
    stored = torch.from_numpy(clip_pixels(clip))
    seen = prepare_clip(clip, dvae.card)
    np.testing.assert_allclose(seen, torch.nn.functional.avg_pool2d(stored, 2).numpy(), atol=1e-6)

    shared = DiffusionTrainConfig.model_fields.keys() - {"stage", "model"}
    fields = config.model_dump(include=shared) | {"stage": "diffusion", "max_steps": 150}
    wanted = train_config(**fields | {"model": {"hidden": 64, "num_blocks": 3, "fold": 4, "dilation_cycle": [1, 2]}})
    task = DiffusionTask.make(wanted, Place(0, 1), torch.device("cpu"))
    assert task.model.config.upsample == 2
    learner = Trainer(task, wanted)
    learner.fit(lambda trainer, metrics, save: None, lambda history: None)
    losses = [entry["train/loss"] for entry in learner.state.history]
    assert losses[-1] < 0.7 * losses[0]
    write_release(learner, learner.task, wanted, {"run_name": "test", "inputs": {"dvae": dvae.hash}})
    release = Release.load(config.release)
    assert release.restore(torch.rand(3, 12, 10)).shape == (3, 24, 20)
    assert release.restore(torch.rand(3, 12, 10), size=(23, 20)).shape == (3, 23, 20)

    evaluate_pictures(config.release, corpus.uri, str(tmp_path / "out"), PictureConfig(classifier_steps=5, limit=8))
    rows = json.loads((tmp_path / "out/pictures.json").read_text())["systems"]
    assert rows["dvae"]["sharpness"] < rows["diffusion"]["sharpness"]

    wrong = train_config(**fields | {"model": {"hidden": 16, "num_blocks": 1, "upsample": 4}})
    with pytest.raises(ValueError, match=r"model\.upsample 4: the dVAE .* sees 1 / 2"):
        DiffusionTask.make(wrong, Place(0, 1), torch.device("cpu"))
    with pytest.raises(ValueError, match="shrink 2: for images and videos"):
        train_config(stage="dvae", corpus="c", release="r", runs="r", shrink=2)


def test_the_classifier_learns_real_pictures_and_notices_others():
    generator = np.random.default_rng(0)
    bars = np.zeros((200, 3, 12, 12), np.float32)
    words = ["across" if i % 2 else "down" for i in range(200)]
    for picture, word in zip(bars, words, strict=True):
        place = generator.integers(2, 10)
        picture[(slice(None), place) if word == "across" else (slice(None), slice(None), place)] = 1.0
    pictures = [torch.from_numpy(picture + 0.1 * generator.random(picture.shape, np.float32)) for picture in bars]
    classifier = PictureClassifier(["across", "down"])
    classifier.fit(pictures[:150], words[:150], 60)
    assert np.mean([a == b for a, b in zip(classifier(pictures[150:]), words[150:], strict=True)]) > 0.9
    blurred = torch.nn.functional.avg_pool2d(pictures[0][None], 3, 1, 1)[0]
    assert classifier.distance(pictures[0], pictures[0]) == 0
    assert classifier.distance(pictures[0], blurred) > classifier.distance(pictures[0], pictures[0] + 0.01)
    with pytest.raises(ValueError, match="2 sizes"):
        classifier.fit([pictures[0], pictures[0][:, :5]], ["down", "down"], 1)
