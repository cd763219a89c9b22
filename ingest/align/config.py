"""When a transcript that came with a recording is preferred to what was recognised."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class AlignConfig(BaseModel):
    """Published transcripts and the clips' texts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefer_published: bool = Field(
        True, description="Whether clips get the published words where these agree with the recognised ones."
    )
    min_agreement: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Least agreement of a clip's published and recognised words, by letters, to take the published.",
    )
    min_recording_agreement: float = Field(
        0.85,
        ge=0,
        le=1,
        description="Least median agreement of the clips that a transcript covers: under it, it is another edition.",
    )
    max_contradicted: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Largest share of surely recognised words for which a transcript has quite others, and as often as "
        "for doubtful ones: over it, it is carelessly written.",
    )
