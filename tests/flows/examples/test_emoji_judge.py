"""The emoji's judge: it must find real names, miss wrong pictures, and say what it could not read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from chromium import browser
from PIL import Image, ImageDraw

from triforce.flows.examples.emoji.data import Picture, read_pictures, split_emoji, write_drawn
from triforce.flows.examples.emoji.judge import judge_folder, summary, tables, trained_judge
from triforce.flows.examples.emoji.matching import Names, caption_right
from triforce.flows.examples.emoji.names import TONES, Emoji
from triforce.flows.examples.emoji.retrieval import RetrievalConfig, epoch_batches
from triforce.ingest.corpus.store import Corpus

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 220), "black": (20, 20, 20)}
SHAPES = ("circle", "square", "bar", "pillar", "ring", "frame", "cross", "wedge", "corner", "dots")
CONFIG = RetrievalConfig(num_epochs=40, widths=(16, 16, 24, 32), width=32, buckets=2048)


def drawn_shape(shape: str, colour: tuple[int, int, int]) -> np.ndarray:
    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)
    boxes = {"square": (24, 24, 104, 104), "bar": (8, 48, 120, 80), "pillar": (48, 8, 80, 120)}
    if shape in boxes:
        draw.rectangle(boxes[shape], fill=colour)
    elif shape in ("circle", "ring"):
        draw.ellipse((16, 16, 112, 112), fill=colour if shape == "circle" else None, outline=colour, width=14)
    elif shape == "frame":
        draw.rectangle((12, 12, 116, 116), outline=colour, width=14)
    elif shape == "cross":
        draw.rectangle((52, 8, 76, 120), fill=colour)
        draw.rectangle((8, 52, 120, 76), fill=colour)
    elif shape == "wedge":
        draw.polygon([(64, 8), (120, 120), (8, 120)], fill=colour)
    elif shape == "corner":
        draw.rectangle((8, 8, 60, 60), fill=colour)
    else:
        for x, y in ((20, 20), (84, 20), (20, 84), (84, 84)):
            draw.ellipse((x, y, x + 24, y + 24), fill=colour)
    return np.asarray(image)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 concepts, and hands in six skins."""
    drawn = [
        (Emoji(chr(0x1F400 + 10 * i + j), f"{colour} {shape}"), drawn_shape(shape, COLOURS[colour]))
        for i, colour in enumerate(COLOURS)
        for j, shape in enumerate(SHAPES)
    ]
    for hand, name, shape in (("👍", "thumbs up", "wedge"), ("✋", "raised hand", "square")):
        for number, (tone, words) in enumerate({"": "", **TONES}.items()):
            skin = (250 - 40 * number, 210 - 35 * number, 120)
            drawn.append((Emoji(hand + tone, f"{name}: {words}" if tone else name), drawn_shape(shape, skin)))
    splits = split_emoji([emoji for emoji, _ in drawn], num_concepts=0, num_combinations=2)
    splits |= dict.fromkeys([chr(0x1F400), chr(0x1F401)], "concept")
    uri = str(tmp_path_factory.mktemp("emoji") / "corpus")
    write_drawn(Corpus(uri), drawn, splits)
    return uri


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def save(folder: Path, arm: str, pictures: dict[str, np.ndarray]) -> None:
    (folder / arm).mkdir(parents=True)
    for clip_id, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / arm / f"{clip_id}.png")


def resized(pixels: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def judged(corpus: str, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list[Picture]]:
    """Arms whose worth is known: restorations of a small decode, and drawings of which half are of another name."""
    folder, pictures = tmp_path_factory.mktemp("made"), read_pictures(corpus)
    originals = {picture.clip_id: picture.pixels for picture in pictures}
    noise = np.random.default_rng(0)
    save(folder, "decode", {name: resized(resized(p, 24), 64) for name, p in originals.items()})
    save(folder, "bicubic", {name: resized(resized(p, 24), 128) for name, p in originals.items()})
    near = {n: (p.astype(int) + noise.integers(-3, 4, p.shape)).clip(0, 255) for n, p in originals.items()}
    save(folder, "diffusion", {name: pixels.astype(np.uint8) for name, pixels in near.items()})
    seen = [picture for picture in pictures if picture.split == "seen"]
    others = [*seen[1:], seen[0]]
    save(
        folder,
        "drawn",
        {a.clip_id: (b if i % 2 else a).pixels for i, (a, b) in enumerate(zip(seen, others, strict=True))},
    )
    (folder / "drawn/unknown.png").write_bytes((folder / f"drawn/{seen[0].clip_id}.png").read_bytes())
    (folder / f"decode/{seen[0].clip_id}.png").write_bytes(b"no picture")
    hands = [picture for picture in pictures if picture.split == "combination"]
    lines = [
        {"clip_id": hands[0].clip_id, "text": hands[0].emoji.name.upper() + "; hand"},
        {"clip_id": hands[1].clip_id, "text": "<b>" + hands[1].emoji.name.split(":")[0]},
        {"clip_id": "unknown", "text": "x"},
    ]
    (folder / "captions.jsonl").write_text("\n".join([*map(json.dumps, lines), "{"]))
    return folder, judge_folder(folder, corpus, cache, CONFIG, num_resamples=20), pictures


def test_figures_say_what_is_known_of_the_arms(judged: tuple[Path, dict, list[Picture]]) -> None:
    folder, figures, _ = judged
    arms = figures["arms"]
    assert arms["original"]["seen"]["retrieved"][0] > 0.95
    assert arms["original"]["combination"]["num"] == 2
    assert arms["drawn"]["seen"]["retrieved"][0] == pytest.approx(0.5, abs=0.06)
    assert arms["diffusion"]["seen"]["retrieved"][0] > 0.9
    assert arms["diffusion"]["seen"]["psnr_db"] > arms["bicubic"]["seen"]["psnr_db"] + 5
    assert arms["diffusion"]["concept"]["ssim"] > arms["bicubic"]["concept"]["ssim"]
    assert "psnr_db" not in arms["drawn"]["seen"]
    assert arms["decode"]["seen"]["num"] == arms["bicubic"]["seen"]["num"] - 1
    value, low, high = figures["frechet"]["seen"]["diffusion-bicubic"]["distance"]
    assert low <= value <= high < 0
    assert "held out" not in figures["frechet"]  # four pictures
    captions = figures["captions"]["combination"]
    assert (captions["num"], captions["exact"][0], captions["right"][0]) == (2, 0.5, 0.5)
    assert len(figures["problems"]) == 4
    assert json.loads((folder / "judged.json").read_text()) == figures
    assert "drawn" in tables(figures)
    assert "drawn seen 5" in summary(figures)
    assert Image.open(folder / "sheet.png").size[0] > 1000


def test_the_judge_is_trained_once(judged: tuple[Path, dict, list[Picture]], cache: Path) -> None:
    pictures = judged[2]
    weights = list(cache.glob("judge-*.safetensors"))
    assert len(weights) == 1
    stamp, pixels = weights[0].stat().st_mtime_ns, [picture.pixels for picture in pictures[:5]]
    places = [trained_judge(pictures, cache, CONFIG).pictures(pixels) for _ in range(2)]
    assert np.array_equal(*places)
    assert weights[0].stat().st_mtime_ns == stamp


def test_the_page_in_a_browser(judged: tuple[Path, dict, list[Picture]], tmp_path: Path) -> None:
    folder = judged[0]
    with browser(tmp_path / "profile") as tab:
        for width, dark in ((1200, False), (400, True)):
            tab.size(width, 800, dark=dark)
            tab.open((folder / "page.html").as_uri())
            assert tab.run("[...document.images].every(image => image.complete && image.naturalWidth >= 64)")
            assert tab.run("document.documentElement.scrollWidth <= innerWidth"), width
        assert tab.run("document.querySelectorAll('#seen tr').length") == 25
        assert tab.run("document.querySelectorAll('#seen img.wrong').length") >= 8
        assert tab.run("document.querySelectorAll('#captions b').length") == 0  # a caption is text
        assert tab.run("document.querySelector('#captions').innerText.includes('<b>')")
        assert not tab.errors


def test_fifty_names_with_the_other_tones_and_no_other_form(corpus: str) -> None:
    pictures = read_pictures(corpus)
    names, emoji = Names(pictures), {picture.emoji.name: picture.emoji for picture in pictures}
    for picture in pictures:
        among = names.among(picture)
        assert among[0] == picture.emoji.name
        assert len(set(among)) == len(among)
        assert among == Names(pictures).among(picture)
        same = [name for name in among[1:] if emoji[name].concept == picture.emoji.concept]
        assert len(same) == (5 if picture.split == "combination" else 0)


@pytest.mark.parametrize(
    ("text", "exact", "right"),
    [
        ("Thumbs up: dark skin tone", True, True),
        ("thumbs up: dark skin tone; hand, good", True, True),
        ("thumbs up in a dark tone", False, True),
        ("dark thumbs up", False, False),  # nearer to the shorter name
        ("thumbs up: medium skin tone", False, False),
        ("thumbs up", False, False),
        ("dark skin tone", False, False),  # two names share as much
        ("", False, False),
    ],
)
def test_captions(text: str, exact: bool, right: bool) -> None:
    among = ["thumbs up: dark skin tone", "thumbs up", "thumbs up: medium skin tone", "raised fist: dark skin tone"]
    assert caption_right(text, among) == (exact, right)


def test_every_picture_is_in_one_batch_of_an_epoch() -> None:
    concepts = ["hand"] * 30 + [f"thing {number}" for number in range(31)]
    batches = epoch_batches(concepts, RetrievalConfig(batch_size=16), np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(61))
    assert any(sum(concepts[i] == "hand" for i in batch) >= 6 for batch in batches)  # hard names meet
