"""A tiny release that learnt coloured squares by name draws them, describes them, and says so where it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import tokenize_here
from tiny_run import write_release as write_speaking_release

from triforce.flows.examples.emoji.answers import ARMS, CAPTIONS, write_answers
from triforce.flows.examples.emoji.config import EmojiConfig
from triforce.flows.examples.emoji.data import SOURCE, read_pictures
from triforce.flows.pictures.draw import DrawConfig, draw_to_file, side_by_side
from triforce.ingest.clips.make_clip import image_clip
from triforce.ingest.corpus.records import TRANSCRIPT, Recording, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.pixels import decode_png
from triforce.models.gpt_sampling import SamplingConfig, sample_segment
from triforce.models.pictures.draw import describe_picture, draw_picture, image_segment
from triforce.models.release import Release
from triforce.models.vocabulary import Segment
from triforce.tokenize.config import TokenizeConfig
from triforce.train.config import train_config
from triforce.train.data.order import Place
from triforce.train.launch.worker import write_release
from triforce.train.tasks.registry import TASKS, input_hashes
from triforce.train.trainer.loop import Trainer

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 230), "black": (10, 10, 10)}


def square(colour: str, seed: int) -> np.ndarray:
    """``(16, 16, 3)`` uint8: a square of a colour on white, at a place by the seed."""
    top, left = np.random.default_rng(seed).integers(1, 4, 2)
    image = np.full((16, 16, 3), 255, np.uint8)
    image[top : top + 12, left : left + 12] = COLOURS[colour]
    return image


def colour_of(planes: torch.Tensor) -> str:
    """The colour that the middle of a picture ``(3, H, W)`` is nearest to."""
    height, width = planes.shape[1:]
    middle = 255 * planes[:, height // 3 : -height // 3, width // 3 : -width // 3].mean((1, 2)).numpy()
    return min(COLOURS, key=lambda name: float(np.abs(middle - COLOURS[name]).sum()))


def train(folder: Path, stage: str, **settings) -> None:
    fields = {"release": str(folder / "release"), "runs": str(folder / "runs"), "validation_share": 0.1}
    fields |= {"eval_every": 1000, "log_every": 1000, "optimizer": {"learning_rate": 5e-3, "warmup_steps": 5}}
    config = train_config(stage=stage, **fields | settings)
    inputs = input_hashes(config)
    torch.manual_seed(0)
    task = TASKS[stage].make(config, Place(0, 1), torch.device("cpu"))
    trainer = Trainer(task, config)
    trainer.fit(lambda trainer, metrics, save: None, lambda history: None)
    write_release(trainer, task, config, {"run_name": "test", "inputs": inputs})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("draw")
    corpus = Corpus(str(folder / "corpus"))
    recording = Recording(make_recording_id(SOURCE, "squares"), SOURCE, "array", "squares", "array:squares")
    corpus.write_recording(recording)
    names = [name for name in COLOURS for _ in range(20)]
    about = {"asr_model": TRANSCRIPT, "collection": "seen", "url": "emoji:1f7e5"}
    clips = [image_clip(recording, i, square(n, i), text=n, title=n, **about) for i, n in enumerate(names)]
    corpus.write_clips(recording, clips)
    pixels = {"corpus": corpus.uri, "modality": "image", "crop": (16, 16), "batch_size": 16}
    shape = {
        "compression": [4, 4],
        "folded": True,
        "hidden": 32,
        "num_blocks": 1,
        "quantizer": "fsq",
        "fsq_levels": [4, 4, 4],
    }
    train(folder, "dvae", shrink=2, max_steps=80, model=shape, **pixels)
    tokens = str(folder / "tokens")
    release = str(folder / "release")
    tokenize_here(TokenizeConfig(corpus=corpus.uri, release=release, tokens=tokens, text_vocabulary_size=256))
    small = {"num_layers": 2, "width": 64, "num_heads": 2, "dropout": 0.0}
    layouts = {"text>image": 1.0, "image>text": 1.0}
    read = {"tokens": tokens, "layouts": layouts, "text_dropout": 0.2, "loss_weights": {"text": 1.0}}
    train(folder, "gpt", context=128, batch_size=4, max_steps=120, model=small, **read)
    network = {"hidden": 32, "num_blocks": 2, "fold": 4, "dilation_cycle": (1, 2)}
    train(folder, "diffusion", max_steps=60, model=network, **pixels)
    return folder


@pytest.fixture(scope="module")
def release(folder) -> Release:
    return Release.load(str(folder / "release"))


def test_a_colour_is_drawn_by_its_name_at_the_scale_of_the_corpus(release):
    drawn = {name: draw_picture(release, name, sampling=SamplingConfig(num_candidates=4)) for name in COLOURS}
    assert {name: colour_of(drawing.pictures[0]) for name, drawing in drawn.items()} == {name: name for name in COLOURS}
    assert drawn["red"].pictures[0].shape == (3, 16, 16)
    assert drawn["red"].decodes[0].shape == (3, 8, 8)
    again = draw_picture(release, " RED ", sampling=SamplingConfig(num_candidates=4))
    assert torch.equal(again.pictures[0], drawn["red"].pictures[0])


def test_a_picture_is_described_by_its_name(release):
    for name in COLOURS:
        codes = release.dvae.encode(
            torch.nn.functional.avg_pool2d(torch.from_numpy(square(name, 7)).permute(2, 0, 1)[None] / 255, 2)
        )
        assert describe_picture(release, codes, sampling=SamplingConfig(temperature=0.3, num_candidates=4))[0] == name


def test_guidance_is_off_at_1_and_makes_the_text_count_more(release):
    gpt, prompt = release.gpt, [Segment("text", release.tokenizer.encode("red"))]
    settings = {"num_candidates": 64, "top_p": 1.0, "temperature": 3.0}  # so hot that much goes wrong

    def right(**more) -> float:
        drawn = sample_segment(gpt, prompt, "image", SamplingConfig(**settings | more))
        planes = [release.dvae.decode(torch.from_numpy(one.codes).view(1, 2, 2))[0] for one in drawn]
        return float(np.mean([colour_of(one) == "red" for one in planes]))

    off = [sample_segment(gpt, prompt, "image", SamplingConfig(**settings | more)) for more in ({}, {"guidance": 1.0})]
    for a, b in zip(*off, strict=True):
        np.testing.assert_array_equal(a.codes, b.codes)
    assert right(guidance=3.0) > right() + 0.1


def test_the_command_writes_the_best_or_all_of_them(folder, tmp_path):
    release, config = str(folder / "release"), DrawConfig(sampling=SamplingConfig(num_candidates=5))
    draw_to_file(release, "blue", tmp_path / "a/one.png", config)
    one = decode_png(tmp_path / "a/one.png")
    draw_to_file(release, "blue", tmp_path / "all.png", config.model_copy(update={"grid": True}))
    everything = decode_png(tmp_path / "all.png")
    assert one.shape == (16, 16, 3)
    assert everything.shape == (2 * 20 - 4, 3 * 20 - 4, 3)
    np.testing.assert_array_equal(everything[:16, :16], one)
    with pytest.raises(ValueError, match=r"--out .*one\.jpg: pictures are written as \.png"):
        draw_to_file(release, "blue", tmp_path / "one.jpg")
    with pytest.raises(ValueError, match="no pictures"):
        side_by_side([])


def test_answers_are_written_for_the_judge_and_those_of_other_settings_are_removed(folder):
    config = EmojiConfig(num_seen=3, candidates=2, diffusion_steps=1, threads=1)
    out, places = folder / "answers", (folder / "release", folder / "corpus")
    assert write_answers(*places, out, config) == "3 pictures in 5 arms, 3 captions"
    pictures = read_pictures(str(places[1]))
    captions = [json.loads(line) for line in (out / CAPTIONS).read_text().splitlines()]
    named = {picture.clip_id: picture.emoji.name for picture in pictures}
    assert [named[caption["clip_id"]] for caption in captions] == [caption["text"] for caption in captions]
    for arm in ARMS:
        assert {path.stem for path in (out / arm).glob("*.png")} == {caption["clip_id"] for caption in captions}
        side = decode_png(next((out / arm).glob("*.png"))).shape[0]
        assert side == (8 if arm == "decode" else 16)
    kept = out / "drawn" / f"{captions[0]['clip_id']}.png"
    before = kept.stat().st_mtime_ns
    write_answers(*places, out, config)
    assert kept.stat().st_mtime_ns == before
    write_answers(*places, out, config.model_copy(update={"num_seen": 1}))
    assert len(list((out / "drawn").glob("*.png"))) == 1


def test_what_draws_no_pictures_is_said_so(folder, release, tmp_path):
    with pytest.raises(ValueError, match=r"text ' ': nothing to draw"):
        draw_picture(release, " ")
    speaking = Release.load(write_speaking_release(tmp_path / "speaks"))
    with pytest.raises(ValueError, match=r"no text>image here; its dVAE codes speech"):
        draw_picture(speaking, "red")
    shutil.copytree(folder / "release/dvae", tmp_path / "bare/dvae")
    with pytest.raises(ValueError, match=r"its dVAE codes image, it has no GPT"):
        draw_picture(Release.load(str(tmp_path / "bare")), "red")
    assert image_segment(release.dvae, torch.rand(3, 8, 8)).codes.shape == (4,)
