"""The emoji's names, concepts, split and pictures: nothing held out is trained on, whatever form it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from triforce.flows.examples import debian
from triforce.flows.examples.emoji.data import (
    CLDR,
    FONT,
    VALIDATION_SHARE,
    name_in,
    read_pictures,
    split_emoji,
    write_drawn,
    written,
)
from triforce.flows.examples.emoji.font import EmojiFont
from triforce.flows.examples.emoji.names import Emoji, concept_of, from_code_points, normalise, read_emoji
from triforce.ingest.corpus.store import Corpus
from triforce.train.data.order import Part


def unpacked(config: pytest.Config, package: str) -> Path:
    folder = Path(config.cache.mkdir("debian"))
    try:
        return debian.unpack([package], folder / package)
    except debian.DebianError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("forms", "apart"),
    [
        ("🧑‍🚀 👩‍🚀 👨🏿‍🚀 🧑🏼‍🚀", "👩‍🚒"),
        ("🏃 🏃‍♀️ 🏃🏽‍♂️ 🏃‍➡️ 🏃🏿‍♀️‍➡️", "🚶"),
        ("💑 👩‍❤️‍👨 👨🏻‍❤️‍👨🏿 🧑🏻‍❤️‍🧑🏼", "💏"),
        ("👫 👬🏽 🧑‍🤝‍🧑 👩🏻‍🤝‍👨🏿", "🤝"),
        ("🤝 🤝🏽 🫱🏻‍🫲🏿", "🫱"),
        ("👪 👨‍👩‍👧 👩‍👩‍👦‍👦 👨‍👦", "👨"),
        ("👨 👩 🧑🏿 👩🏻", "👦"),
        ("🤴 👸🏼 🫅", "🧑"),
        ("🎅 🤶🏿 🧑‍🎄", "🎄"),
        ("❤️ ❤", "💛"),
        ("🇫🇷", "🇫🇮"),
    ],
)
def test_all_forms_of_a_concept_are_one(forms: str, apart: str) -> None:
    assert len({concept_of(form) for form in forms.split()}) == 1
    assert concept_of(apart) != concept_of(forms.split()[0])


def test_texts_as_they_are_trained_on() -> None:
    assert normalise("  Flag: Côte d’Ivoire ") == "flag: cote d'ivoire"
    assert normalise("“Blood   Type” B") == "blood type b"
    apple = Emoji("🍎", "red apple", ("apple", "fruit", "red"))
    assert written(apple, "name") == "red apple"
    assert written(apple, "name-and-keywords") == "red apple; fruit"
    assert written(apple, "keywords") == "apple, fruit, red"
    assert name_in(written(apple, "name-and-keywords")) == "red apple"
    astronaut = Emoji("👩🏿‍🚀", "woman astronaut: dark skin tone")
    assert from_code_points(astronaut.code_points) == astronaut.characters
    assert astronaut.tones == ("dark skin tone",)
    assert astronaut.untoned == "👩‍🚀"


def test_names_and_pictures_of_the_packages(pytestconfig: pytest.Config) -> None:
    emoji = list(read_emoji(unpacked(pytestconfig, "unicode-cldr-core") / CLDR))
    by_name = {each.name: each for each in emoji}
    assert len(by_name) == len(emoji) > 3600
    assert by_name["red apple"].keywords == ("apple", "fruit", "red")
    assert by_name["woman astronaut: dark skin tone"].characters == "👩🏿‍🚀"
    assert by_name["flag: cote d'ivoire"].characters == "🇨🇮"
    assert by_name["rightwards pushing hand: light skin tone"].keywords == ()  # newer than the package
    font = EmojiFont(unpacked(pytestconfig, "fonts-noto-color-emoji") / FONT)
    for name in ("red apple", "woman astronaut: dark skin tone", "flag: france", "keycap: 1", "flag: scotland"):
        pixels = font.draw(by_name[name].characters)
        assert pixels is not None, name
        assert pixels.shape == (128, 128, 3)
        assert (pixels == 255).all(-1).mean() < 0.8
        assert np.ptp(pixels, axis=(0, 1)).max() > 100
    red = font.draw("🍎").astype(int)
    middle = red[40:100, 40:90].mean((0, 1))
    assert middle[0] > middle[1] + 60
    assert font.draw("\U0010fff0") is None  # in no font
    assert font.draw("🍎🍎") is None  # two pictures
    light, dark = (font.draw(f"👩{tone}‍🚀").mean() for tone in ("\U0001f3fb", "\U0001f3ff"))
    assert light > dark

    splits = split_emoji(emoji)
    held = {each.concept for each in emoji if splits[each.characters] == "concept"}
    seen = [each for each in emoji if splits[each.characters] == "seen"]
    combinations = [each for each in emoji if splits[each.characters] == "combination"]
    assert (len(held), len(combinations)) == (200, 150)
    assert not held & {each.concept for each in seen}
    for each in combinations:
        assert len(each.tones) == 1
        others = [other for other in seen if other.untoned == each.untoned]
        assert len(others) >= 4, each.name  # its other tones, so the concept is seen
        assert any(other.tones == each.tones for other in seen)  # and so is the tone
    fewer = split_emoji(emoji[:-100])  # another version of the font: nearly the same split
    assert np.mean([fewer[each.characters] == splits[each.characters] for each in emoji[:-100]]) > 0.97


def test_the_split_is_what_every_stage_keeps_from_training(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    emoji = [Emoji(chr(0x1F400 + number), f"animal {number}", ("zoo", "animal")) for number in range(40)]
    emoji += [Emoji(f"👍{tone}", f"thumbs up{tone}") for tone in ("", *map(chr, range(0x1F3FB, 0x1F400)))]
    drawn = [(each, generator.integers(0, 256, (128, 128, 3), np.uint8)) for each in emoji]
    splits = split_emoji(emoji, num_concepts=8, num_combinations=1)
    corpus = Corpus(str(tmp_path / "corpus"))
    count = write_drawn(corpus, drawn, splits)
    rows = corpus.clips(["clip_id", "collection", "title", "text", "licence"]).to_pylist()
    part = Part(VALIDATION_SHARE)
    assert all((row["clip_id"] in part) == (row["collection"] == "seen") for row in rows)
    assert len({row["clip_id"] for row in rows}) == count == len(rows)
    assert {row["licence"] for row in rows} == {"OFL 1.1"}
    texts = {
        title: sorted(row["text"] for row in rows if row["title"] == title) for title in {r["title"] for r in rows}
    }
    for each in emoji:
        seen = splits[each.characters] == "seen" and each.keywords
        assert texts[each.name] == ([each.name, f"{each.name}; zoo"] if seen else [each.name])
    found = read_pictures(corpus.uri)
    assert {picture.emoji.characters: picture.split for picture in found} == splits
    pixels = {each.characters: picture for each, picture in drawn}
    assert all(np.array_equal(picture.pixels, pixels[picture.emoji.characters]) for picture in found)
    assert len(read_pictures(corpus.uri, ("combination",))) == 1
    half = Corpus(str(tmp_path / "half"))
    write_drawn(half, drawn, splits, ("name",), side=64)
    small = read_pictures(half.uri)
    assert len(small) == len(half.clips(["clip_id"])) == 46
    expected = pixels[small[0].emoji.characters].reshape(64, 2, 64, 2, 3).astype(float).mean((1, 3))
    assert np.abs(small[0].pixels - expected).max() <= 1
