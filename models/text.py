"""Text tokenizer: byte-level BPE, so that every string round-trips and none is out of vocabulary."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

NUM_BYTES = 256
"""Smallest vocabulary: one piece for each byte."""


class TextTokenizer:
    """A trained tokenizer; `train` makes one, `to_json` and ``TextTokenizer(json)`` save and load it."""

    def __init__(self, json: str) -> None:
        self._tokenizer = Tokenizer.from_str(json)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int = 1024) -> TextTokenizer:
        """Learn ``vocabulary_size`` pieces from ``texts``; 256, the least, are the plain bytes."""
        if not NUM_BYTES <= vocabulary_size <= 65536:
            raise ValueError(f"text vocabulary of {vocabulary_size}: from {NUM_BYTES} (bytes alone) to 65536 (16 bits)")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer.to_str())

    @property
    def size(self) -> int:
        """Number of pieces."""
        return self._tokenizer.get_vocab_size()

    @property
    def characters(self) -> frozenset[str] | None:
        """None: pieces of bytes spell any."""
        return None

    def encode(self, text: str) -> np.ndarray:
        """Return the pieces ``(L,)`` int64 of ``text``."""
        return np.array(self._tokenizer.encode(text).ids, dtype=np.int64)

    def decode(self, codes: Iterable[int]) -> str:
        """Return the text of pieces."""
        return self._tokenizer.decode([int(code) for code in codes])

    def to_json(self) -> str:
        """Return the tokenizer as JSON."""
        return self._tokenizer.to_str(pretty=False)


def clean_text(text: str) -> str:
    """Return text as the models read it: white space becomes one space, none at the ends.

    Half of a surrogate pair, which is no character, becomes U+FFFD.
    """
    return " ".join(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").split())
