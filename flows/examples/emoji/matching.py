"""Which picture or caption is right: told from its name among 50.

**Retrieval.** A picture counts as right where the judge, a network trained on real pictures and names alone
(`retrieval`), finds the picture's own name nearest among 50. The other 49 are drawn by a hash of the clip's id: one
name each of 49 other concepts. Of a held-out combination the names of the same emoji in its other tones, and without
one, are among the 50 too, so that a picture with the wrong tone is wrong.

**Captions.** What stands before the ``;``, normalised, is compared with the same 50 names.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from triforce.flows.examples.emoji.data import Picture, name_in
from triforce.flows.examples.emoji.names import normalise
from triforce.flows.examples.emoji.retrieval import Judge

NUM_NAMES = 50


class CaptionVerdict(NamedTuple):
    """What a caption is worth."""

    exact: bool
    """It is the name."""
    right: bool
    """It is the name, or shares more words with it (Dice coefficient) than with any other of the 50; no ties."""


class Names:
    """The names of a corpus, and the 50 that each picture is told from."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._by_concept: dict[str, list[str]] = {}
        self._by_base: dict[str, list[str]] = {}
        for each in sorted(pictures, key=lambda picture: picture.emoji.name):
            self._by_concept.setdefault(each.emoji.concept, []).append(each.emoji.name)
            if len(each.emoji.tones) < 2:
                self._by_base.setdefault(each.emoji.untoned, []).append(each.emoji.name)

    def among(self, picture: Picture) -> list[str]:
        """Return the names that a picture is told from, its own first."""
        name, chosen = picture.emoji.name, [picture.emoji.name]
        if picture.split == "combination":
            chosen += [other for other in self._by_base[picture.emoji.untoned] if other != name]
        seed = int.from_bytes(hashlib.sha256(f"names\n{picture.clip_id}".encode()).digest()[:8], "big")
        generator = random.Random(seed)
        others = [concept for concept in self._by_concept if concept != picture.emoji.concept]
        drawn = generator.sample(others, min(NUM_NAMES - len(chosen), len(others)))
        return chosen + [generator.choice(self._by_concept[concept]) for concept in drawn]


def retrieved(judge: Judge, pixels: Sequence[np.ndarray], among: Sequence[Sequence[str]]) -> np.ndarray:
    """Return for each picture ``(H, W, 3)`` uint8 whether its own name, the first of its list, is the nearest."""
    unique = sorted({name for names in among for name in names})
    places = dict(zip(unique, judge.names(unique), strict=True))
    found = judge.pictures(pixels)
    scores = [np.stack([places[name] for name in names]) @ place for names, place in zip(among, found, strict=True)]
    return np.array([score[0] > score[1:].max() for score in scores])


def caption_right(text: str, among: Sequence[str]) -> CaptionVerdict:
    """Compare a caption with the names that the picture is told from, its own first."""
    words = normalise(name_in(text))
    if words == among[0]:
        return CaptionVerdict(True, True)
    overlaps = [_dice(words, name) for name in among]
    return CaptionVerdict(False, overlaps[0] > max(overlaps[1:]))


def _dice(a: str, b: str) -> float:
    first, second = (Counter(text.replace(":", " ").replace(",", " ").split()) for text in (a, b))
    return 2 * (first & second).total() / max(1, first.total() + second.total())
