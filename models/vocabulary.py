"""The vocabulary of the GPT: special ids, then for each modality its begin and end markers and its range of codes.

Ids are assigned in the order in which modalities are listed and never change, so a modality can be added to a trained
model by growing its embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

PAD = 0
"""Id of padding."""
END_OF_DOCUMENT = 1
"""Id that ends a document."""
NUM_SPECIALS = 2
"""Number of special ids."""
ReadingUnits = Literal["words", "pieces"]
"""What stands before its codes in a ``reading`` segment: all pieces of a word, or each piece by itself."""


class Modality(BaseModel):
    """A medium as the GPT sees it: a name and a number of codes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", description="Name that layouts use: text, speech, image.")
    num_codes: int = Field(ge=1, le=65536, description="Number of codes of its tokenizer.")
    shares: str | None = Field(
        None, description="An earlier modality whose codes it uses; a voice prompt shares those of speech."
    )
    interleaves: str | None = Field(
        None,
        description="An earlier modality whose codes stand between its own: `reading` is speech with the pieces of "
        "each word before the codes that say it. In a segment they are numbered on from `num_codes`.",
    )
    grid: tuple[int, ...] | None = Field(
        None, description="Shape of its codes where it is fixed, as for images: that many codes are drawn."
    )


class Segment(NamedTuple):
    """A part of a document: codes of one modality."""

    modality: str
    """Name of the modality."""
    codes: np.ndarray
    """Codes ``(L,)``, integers from 0."""


class Vocabulary(BaseModel):
    """Modalities in the order of their ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[Modality, ...]

    @model_validator(mode="after")
    def _check(self) -> Vocabulary:
        seen: dict[str, Modality] = {}
        for modality in self.modalities:
            if modality.name in seen:
                raise ValueError(f"modality {modality.name!r} is registered twice")
            if modality.shares is not None and (
                modality.shares not in seen or seen[modality.shares].num_codes != modality.num_codes
            ):
                raise ValueError(
                    f"modality {modality.name!r} shares {modality.shares!r}: that must be registered before it, "
                    f"with as many codes"
                )
            if modality.interleaves is not None and modality.interleaves not in seen:
                raise ValueError(
                    f"modality {modality.name!r} interleaves {modality.interleaves!r}: register that before it"
                )
            seen[modality.name] = modality
        return self

    @property
    def size(self) -> int:
        """Number of ids."""
        return NUM_SPECIALS + sum(2 + (0 if m.shares else m.num_codes) for m in self.modalities)

    def extended(self, *modalities: Modality) -> Vocabulary:
        """Return this vocabulary with more modalities at the end; present ones keep their ids."""
        return Vocabulary(modalities=(*self.modalities, *modalities))

    def modality(self, name: str) -> Modality:
        """Return the modality of that name; raises ValueError where there is none."""
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise ValueError(f"modality {name!r}: this vocabulary has {', '.join(m.name for m in self.modalities)}")

    def _start(self, name: str) -> int:
        start = NUM_SPECIALS
        for modality in self.modalities:
            if modality.name == name:
                return start
            start += 2 + (0 if modality.shares else modality.num_codes)
        raise ValueError(f"modality {name!r}: this vocabulary has {', '.join(m.name for m in self.modalities)}")

    def begin(self, name: str) -> int:
        """Return the id that opens a segment."""
        return self._start(name)

    def end(self, name: str) -> int:
        """Return the id that closes a segment."""
        return self._start(name) + 1

    def offset(self, name: str) -> int:
        """Return the id of a modality's code 0."""
        return self._start(self.modality(name).shares or name) + 2

    def segment_ids(self, segment: Segment) -> np.ndarray:
        """Return the ids ``(L + 2,)`` int64 of a segment with its markers; raises ValueError for an unknown code."""
        codes = np.asarray(segment.codes, dtype=np.int64).reshape(-1)
        limit = self.num_codes(segment.modality)
        if codes.size and (codes.min() < 0 or codes.max() >= limit):
            raise ValueError(
                f"{segment.modality} codes from {codes.min()} to {codes.max()}: this vocabulary has 0 to {limit - 1}"
            )
        ids = self._code_ids(segment.modality, codes)
        return np.concatenate([[self.begin(segment.modality)], ids, [self.end(segment.modality)]])

    def num_codes(self, name: str) -> int:
        """Return the number of codes that a segment of a modality may hold, with those between its own."""
        modality = self.modality(name)
        return modality.num_codes + (self.modality(modality.interleaves).num_codes if modality.interleaves else 0)

    def _code_ids(self, name: str, codes: np.ndarray) -> np.ndarray:
        modality = self.modality(name)
        if modality.interleaves is None:
            return codes + self.offset(name)
        other = codes - modality.num_codes
        return np.where(other >= 0, other + self.offset(modality.interleaves), codes + self.offset(name))

    def _id_code(self, name: str, token: int) -> int:
        modality = self.modality(name)
        code = token - self.offset(name)
        if modality.interleaves is not None and not 0 <= code < modality.num_codes:
            return token - self.offset(modality.interleaves) + modality.num_codes
        return code

    def document_ids(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return the ids of a document: its segments in order, then the end of the document."""
        return np.concatenate([*(self.segment_ids(segment) for segment in segments), [END_OF_DOCUMENT]]).astype(
            np.int64
        )

    def split(self, ids: Sequence[int]) -> list[Segment]:
        """Split a document's ids into segments, the inverse of `document_ids`; an open last segment is closed."""
        begins = {self.begin(m.name): m.name for m in self.modalities}
        segments: list[Segment] = []
        name, codes = None, []
        for token in [*map(int, ids), END_OF_DOCUMENT]:
            if name is not None and (token in (PAD, END_OF_DOCUMENT) or token == self.end(name)):
                segments.append(Segment(name, np.array(codes, dtype=np.int64)))
                name, codes = None, []
            elif name is not None:
                codes.append(self._id_code(name, token))
            elif token in begins:
                name = begins[token]
        return segments
