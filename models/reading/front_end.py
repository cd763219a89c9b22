"""Text front ends by name: what turns a text into the pieces that the GPT reads.

``bpe`` is byte-level BPE, trained on a corpus; ``phonemes`` and ``characters`` are fixed, for English, and normalise
the text. One is chosen when a corpus is tokenized; it is saved with the shards and the release, and training, speaking
and serving read with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal, Protocol

import numpy as np

from triforce.models.reading.normalise import READABLE, normalise
from triforce.models.reading.phonemes import PhonemeTokenizer
from triforce.models.text import TextTokenizer

FrontEndName = Literal["bpe", "phonemes", "characters"]


class FrontEnd(Protocol):
    """What every front end does."""

    @property
    def size(self) -> int:
        """Number of pieces."""

    @property
    def characters(self) -> frozenset[str] | None:
        """Characters that it reads; None for any."""

    def encode(self, text: str) -> np.ndarray:
        """Return the pieces ``(L,)`` int64 of a text."""

    def decode(self, codes: Iterable[int]) -> str:
        """Return pieces as text to look at."""

    def to_json(self) -> str:
        """Return the front end as JSON, which `load_front_end` reads."""


class NormalisedTokenizer:
    """A BPE tokenizer that reads normalised text."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer

    @property
    def size(self) -> int:
        """Number of pieces."""
        return self.tokenizer.size

    @property
    def characters(self) -> frozenset[str] | None:
        """Those that normalised text has."""
        return READABLE

    def encode(self, text: str) -> np.ndarray:
        """Return the pieces ``(L,)`` int64 of the normalised text."""
        return self.tokenizer.encode(normalise(text))

    def decode(self, codes: Iterable[int]) -> str:
        """Return the normalised text of pieces."""
        return self.tokenizer.decode(codes)

    def to_json(self) -> str:
        """Return the tokenizer as JSON, marked as one that normalises."""
        return json.dumps({"type": "normalised-bpe", "tokenizer": json.loads(self.tokenizer.to_json())})


def make_front_end(
    name: FrontEndName, texts: Iterable[str], vocabulary_size: int, *, normalised: bool = False
) -> FrontEnd:
    """Make a front end; ``bpe`` learns ``vocabulary_size`` pieces from ``texts``, with ``normalised`` from these
    normalised. The others always normalise and have pieces of their own.
    """
    if name != "bpe":
        return PhonemeTokenizer(spell_all=name == "characters")
    if normalised:
        return NormalisedTokenizer(TextTokenizer.train(map(normalise, texts), vocabulary_size))
    return TextTokenizer.train(texts, vocabulary_size)


def front_end_kind(front_end: FrontEnd) -> tuple[FrontEndName, bool]:
    """Return a front end's name and whether it is ``bpe`` that normalises: what `make_front_end` made it by."""
    if isinstance(front_end, PhonemeTokenizer):
        return front_end.name, False
    return "bpe", isinstance(front_end, NormalisedTokenizer)


def require_phonemes(front_end: FrontEnd) -> PhonemeTokenizer:
    """Return a front end whose pieces fall apart into words; raises ValueError for BPE, whose pieces do not."""
    if not isinstance(front_end, PhonemeTokenizer):
        raise ValueError(
            "reading segments need the pieces of each word by themselves: tokenize into another folder with "
            "--set text=phonemes, or text=characters"
        )
    return front_end


def keeps_words(front_end: FrontEnd) -> bool:
    """Whether the pieces of each word stand by themselves, so that readings can be made."""
    return isinstance(front_end, PhonemeTokenizer)


def load_front_end(text: str) -> FrontEnd:
    """Rebuild a front end from what its ``to_json`` returned; raises ValueError for a type that is not known."""
    saved = json.loads(text)
    kind = saved.get("type", "bpe")
    if kind == "bpe":
        return TextTokenizer(text)
    if kind == "normalised-bpe":
        return NormalisedTokenizer(TextTokenizer(json.dumps(saved["tokenizer"])))
    if kind in ("phonemes", "characters"):
        return PhonemeTokenizer.from_json(text)
    raise ValueError(f"text front end {kind!r}: this version knows bpe, phonemes and characters")
