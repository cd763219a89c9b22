"""The token sample: one clip as integers, with the only way to members of a shard's tar and back.

A sample's members are ``<clip_id>.codes.npy`` uint16 in the shape of the codes' grid, ``<clip_id>.text.npy`` uint16 and
``<clip_id>.json`` with the metadata.

Others open shards too, and guess the type of each value from the first samples. So every sample has the same keys, and
every value of a key the same type: what is not known is an empty text there, and None here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from triforce.ingest.corpus.records import Clip

METADATA = (
    *("text", "duration_s", "speaker", "source", "licence", "language"),
    *("recording_id", "start_sample", "end_sample", "sample_rate_hz", "modality"),
)
"""Columns of the corpus that a sample carries."""
NULLABLE = ("text", "speaker", "licence", "language", "modality")
"""Keys of texts that may not be known."""
WORDS = "words"
"""Column that a sample carries too where its text front end keeps words apart. A word and its times are of two types,
so that the list of them is a text in the shard, JSON of its own."""


def sample_metadata(clip: Clip, size: Sequence[int], *, words: bool = False) -> dict[str, Any]:
    """Return the metadata of a clip and the ``size`` of its medium: the positions that the codes stand for.

    With ``words``, its words and their times come along, each as ``[text, start_s, end_s]``; refined ones have the
    starts of the word's pieces as well.
    """
    found = {key: getattr(clip, key) for key in METADATA} | {"size": list(size)}
    if words:
        found[WORDS] = [[word.word, round(word.start_s, 4), round(word.end_s, 4)] for word in clip.words or ()]
    return found


@dataclass(frozen=True)
class TokenSample:
    """One clip as codes of its medium and pieces of its text."""

    clip_id: str
    codes: np.ndarray
    """Codes uint16 in the shape of their grid: ``(K,)`` for speech."""
    text: np.ndarray
    """Pieces of the text, ``(L,)`` uint16."""
    metadata: dict[str, Any]
    """Values that `sample_metadata` returns."""

    def to_members(self) -> dict[str, bytes]:
        """Return the members of the tar by their suffix; equal samples give equal bytes."""
        typed = {key: "" if key in NULLABLE and value is None else value for key, value in self.metadata.items()}
        if WORDS in typed:
            typed[WORDS] = json.dumps(typed[WORDS], ensure_ascii=False)
        metadata = json.dumps(typed, sort_keys=True, ensure_ascii=False).encode()
        return {"codes.npy": _to_npy(self.codes), "text.npy": _to_npy(self.text), "json": metadata}

    @classmethod
    def from_members(cls, clip_id: str, members: Mapping[str, bytes]) -> TokenSample:
        """Rebuild a sample from its members; raises KeyError or ValueError where they are not those of a sample.

        Shards of older versions hold null, and lists of words.
        """
        codes, text = (np.load(io.BytesIO(members[name]), allow_pickle=False) for name in ("codes.npy", "text.npy"))
        typed = json.loads(members["json"])
        metadata = {key: None if key in NULLABLE and value == "" else value for key, value in typed.items()}
        if isinstance(words := metadata.get(WORDS), str):
            metadata[WORDS] = json.loads(words)
        return cls(clip_id, codes, text, metadata)


def _to_npy(array: np.ndarray) -> bytes:
    if array.dtype != np.uint16:
        raise ValueError(f"array of {array.dtype}: shards hold uint16")
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
