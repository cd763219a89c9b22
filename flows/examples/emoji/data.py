"""Colour emoji with their names as a corpus, with whole concepts and combinations of concept and skin tone held out.

The split is in the clip ids: a clip has the first number by which `is_validation` puts it on its side, so every stage
that keeps `VALIDATION_SHARE` of the clips from training keeps these.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from triforce.flows.examples import debian
from triforce.flows.examples.emoji.font import SIDE, EmojiFont
from triforce.flows.examples.emoji.names import SEPARATOR, Emoji, from_code_points, read_emoji
from triforce.ingest.clips.make_clip import image_clip
from triforce.ingest.corpus.records import TRANSCRIPT, Clip, Recording, make_clip_id, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.pixels import decode_png
from triforce.train.data.order import is_validation

logger = logging.getLogger(__name__)

VALIDATION_SHARE = 0.1
"""What every stage that trains on the corpus is told. Which clips it means is chosen, so any share would do."""
NUM_CONCEPTS, NUM_COMBINATIONS = 200, 150
"""Concepts, and combinations of a seen concept with a seen tone, that nothing is trained on."""
SOURCE = "emoji"
FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
CLDR = "usr/share/unicode/cldr/common"

Split = Literal["seen", "combination", "concept"]
TextKind = Literal["name", "name-and-keywords", "keywords"]


@dataclass(frozen=True)
class Picture:
    """A picture of the corpus, with its name."""

    clip_id: str
    emoji: Emoji
    split: Split
    pixels: np.ndarray
    """``(H, W, 3)`` uint8."""


def fetch_emoji(cache: Path) -> list[tuple[Emoji, np.ndarray]]:
    """Return every emoji that the font draws, with its picture ``(128, 128, 3)`` uint8, from Debian's packages.

    Of emoji with the same picture, such as the flags of Norway and of Bouvet Island, it is the one with the shortest
    name. Raises `debian.DebianError` where the packages cannot be had.
    """
    font = EmojiFont(debian.unpack(["fonts-noto-color-emoji"], cache / "noto-emoji") / FONT)
    cldr = debian.unpack(["unicode-cldr-core"], cache / "cldr") / CLDR
    by_picture: dict[bytes, tuple[Emoji, np.ndarray]] = {}
    num_missing = num_same = 0
    for emoji in read_emoji(cldr):
        if (pixels := font.draw(emoji.characters)) is None:
            num_missing += 1
            continue
        other = by_picture.get(key := pixels.tobytes())
        num_same += other is not None
        if other is None or len(emoji.name) < len(other[0].name):
            by_picture[key] = (emoji, pixels)
    logger.info("%d emoji are not in the font, %d look like another", num_missing, num_same)
    return sorted(by_picture.values(), key=lambda item: item[0].characters)


def split_emoji(
    emoji: Sequence[Emoji],
    seed: int = 0,
    num_concepts: int = NUM_CONCEPTS,
    num_combinations: int = NUM_COMBINATIONS,
) -> dict[str, Split]:
    """Return the split of each emoji, by its characters.

    Drawn by hashes of what is drawn, so that a font with a few more emoji has nearly the same split. A combination is
    held out at most once an emoji, and its concept and its tone are both seen elsewhere.
    """
    held = set(_drawn({each.concept for each in emoji}, num_concepts, seed))
    by_base: dict[str, list[Emoji]] = defaultdict(list)
    for each in emoji:
        if each.concept not in held and len(each.tones) == 1:
            by_base[each.untoned].append(each)
    candidates = [_drawn({each.characters for each in tones}, 1, seed)[0] for tones in by_base.values() if tones[1:]]
    combinations = set(_drawn(set(candidates), num_combinations, seed))
    return {
        each.characters: "concept"
        if each.concept in held
        else "combination"
        if each.characters in combinations
        else "seen"
        for each in emoji
    }


def _drawn(items: set[str], count: int, seed: int) -> list[str]:
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}\n{item}".encode()).digest())[:count]


def write_pictures(
    corpus: Corpus, cache: Path, texts: Sequence[TextKind] = ("name", "name-and-keywords"), side: int = SIDE
) -> int:
    """Write the corpus, unless it is there, with Debian's packages below ``cache``; return how many clips it has."""
    if _recording().recording_id not in corpus.clipped_ids(SOURCE):
        drawn = fetch_emoji(cache)
        write_drawn(corpus, drawn, split_emoji([emoji for emoji, _ in drawn]), texts, side)
    return len(corpus.clips(["clip_id"], source=SOURCE))


def write_drawn(
    corpus: Corpus,
    drawn: Sequence[tuple[Emoji, np.ndarray]],
    splits: Mapping[str, Split],
    texts: Sequence[TextKind] = ("name", "name-and-keywords"),
    side: int = SIDE,
) -> int:
    """Write pictures ``(128, 128, 3)`` uint8, reduced to ``side``; return how many clips they are.

    A picture to train on has a clip for each of ``texts``, all in one random order, a picture that is held out one,
    with its name. A clip's title is the name, its collection the split, its url the code points.
    """
    recording = _recording()
    corpus.write_recording(recording)
    return corpus.write_clips(recording, _clips(recording, drawn, splits, texts, side))


def _recording() -> Recording:
    return Recording(
        recording_id=make_recording_id(SOURCE, "noto-color-emoji"),
        source=SOURCE,
        source_kind="array",
        source_id="noto-color-emoji",
        url="debian:fonts-noto-color-emoji",
        title="Noto Color Emoji",
        author="Google",
        licence="OFL 1.1",
        language="en",
    )


def _clips(
    recording: Recording,
    drawn: Sequence[tuple[Emoji, np.ndarray]],
    splits: Mapping[str, Split],
    texts: Sequence[TextKind],
    side: int,
) -> Iterator[Clip]:
    entries = [
        (emoji, pixels, kind)
        for emoji, pixels in drawn
        for kind in (texts if splits[emoji.characters] == "seen" else ("name",))
        if kind == "name" or emoji.keywords
    ]
    number = -1
    for index in np.random.default_rng(0).permutation(len(entries)):
        emoji, pixels, kind = entries[index]
        split = splits[emoji.characters]
        number = _next_number(recording.recording_id, number, split != "seen")
        if side != SIDE:
            pixels = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX))
        yield image_clip(
            recording,
            number,
            pixels,
            text=written(emoji, kind),
            asr_model=TRANSCRIPT,
            language="en",
            title=emoji.name,
            collection=split,
            url=f"emoji:{emoji.code_points}",
        )


def _next_number(recording_id: str, number: int, held: bool) -> int:
    """Return the next number after ``number`` of a clip that is held out, or of one that is not."""
    number += 1
    while is_validation(make_clip_id(recording_id, number), VALIDATION_SHARE) != held:
        number += 1
    return number


def written(emoji: Emoji, kind: TextKind) -> str:
    """Return the text of a clip: "red apple", "red apple; fruit", or "apple, fruit, red"."""
    if kind == "name":
        return emoji.name
    if kind == "keywords":
        return ", ".join(emoji.keywords)
    more = [word for word in emoji.keywords if word not in emoji.name]
    return f"{emoji.name}{SEPARATOR} {', '.join(more)}" if more else emoji.name


def name_in(text: str) -> str:
    """Return the name in a caption that may go on with keywords."""
    return text.split(SEPARATOR)[0].strip()


def read_pictures(corpus_uri: str, splits: Iterable[Split] = ("seen", "combination", "concept")) -> list[Picture]:
    """Return the pictures of a corpus, one for each emoji and by its name, in the order of clip ids."""
    wanted, found, names = set(splits), list[Picture](), set[str]()
    columns = ["clip_id", "title", "collection", "url", "image"]
    for row in Corpus(corpus_uri).dataset(SOURCE).to_table(columns=columns).sort_by("clip_id").to_pylist():
        if row["collection"] in wanted and row["title"] not in names:
            names.add(row["title"])
            emoji = Emoji(from_code_points(row["url"].removeprefix("emoji:")), row["title"])
            pixels = decode_png(row["image"]["bytes"])
            found.append(Picture(row["clip_id"], emoji, row["collection"], pixels))
    return found
