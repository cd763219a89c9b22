"""One vocabulary for every medium: specials, then for each modality its begin and end markers and its range of codes.

Ids are handed out in the order of registration and never move, so a modality can be added to a trained model by
growing its embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

PAD = 0
END_OF_DOCUMENT = 1
NUM_SPECIALS = 2


class Modality(BaseModel):
    """A kind of segment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", description="As layouts name it: text, speech, image.")
    num_codes: int = Field(ge=1, le=65536, description="Codes of its tokenizer.")
    shares: str | None = Field(
        None, description="An earlier modality whose codes it uses: a voice prompt shares speech's."
    )
    grid: tuple[int, ...] | None = Field(
        None, description="Shape of its codes where that is always the same, as an image's: so many are drawn."
    )


class Segment(NamedTuple):
    """A piece of a document: codes of one modality, ``(L,)`` integers from 0."""

    modality: str
    codes: np.ndarray


class Vocabulary(BaseModel):
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
            seen[modality.name] = modality
        return self

    @property
    def size(self) -> int:
        return NUM_SPECIALS + sum(2 + (0 if m.shares else m.num_codes) for m in self.modalities)

    def extended(self, *modalities: Modality) -> Vocabulary:
        """This vocabulary with more modalities behind it; those that are there keep their ids."""
        return Vocabulary(modalities=(*self.modalities, *modalities))

    def modality(self, name: str) -> Modality:
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
        """The id that opens a segment."""
        return self._start(name)

    def end(self, name: str) -> int:
        """The id that closes a segment."""
        return self._start(name) + 1

    def offset(self, name: str) -> int:
        """The id of a modality's code 0."""
        return self._start(self.modality(name).shares or name) + 2

    def segment_ids(self, segment: Segment) -> np.ndarray:
        """Ids ``(L + 2,)`` int64 of a segment between its markers."""
        modality = self.modality(segment.modality)
        codes = np.asarray(segment.codes, dtype=np.int64).reshape(-1)
        if codes.size and (codes.min() < 0 or codes.max() >= modality.num_codes):
            raise ValueError(
                f"{segment.modality} codes from {codes.min()} to {codes.max()}: "
                f"this vocabulary has 0 to {modality.num_codes - 1}"
            )
        return np.concatenate(
            [[self.begin(segment.modality)], codes + self.offset(segment.modality), [self.end(segment.modality)]]
        )

    def document_ids(self, segments: Sequence[Segment]) -> np.ndarray:
        """Ids of a whole document: its segments in their order, then the end of the document."""
        return np.concatenate([*(self.segment_ids(segment) for segment in segments), [END_OF_DOCUMENT]]).astype(
            np.int64
        )

    def split(self, ids: Sequence[int]) -> list[Segment]:
        """The segments of a document's ids, the inverse of `document_ids`; an open last segment is closed."""
        begins = {self.begin(m.name): m.name for m in self.modalities}
        segments: list[Segment] = []
        name, codes = None, []
        for token in [*map(int, ids), END_OF_DOCUMENT]:
            if name is not None and (token in (PAD, END_OF_DOCUMENT) or token == self.end(name)):
                segments.append(Segment(name, np.array(codes, dtype=np.int64)))
                name, codes = None, []
            elif name is not None:
                codes.append(token - self.offset(name))
            elif token in begins:
                name = begins[token]
        return segments
