"""Which clips of a corpus are exported, and in which layout."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

SCORES = (
    *("snr_db", "bandwidth_hz", "loudness_lufs", "rms_dbfs", "modulation_db", "silence_share", "chars_per_s"),
    *("duration_s", "avg_logprob", "language_probability", "voice_similarity", "agreement", "overlap_share"),
    *("dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak"),
)
"""Scores that an export may ask for, and whose quantiles the card shows."""


class ExportConfig(BaseModel):
    """Which clips are exported, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["ljspeech", "tsv", "huggingface", "parquet", "nemo", "lhotse"] = Field(
        description="Layout; huggingface is a folder of files, parquet holds the audio in tables."
    )
    contact: str = Field(description="E-mail or web address in the card, for who asks that something is taken down.")
    audio: Literal["flac", "wav"] = Field("flac", description="Format of the audio; both hold the same samples.")
    name: str | None = Field(None, min_length=1, description="Name in the card; null: the folder's.")
    sources: tuple[str, ...] = Field((), description="Only these sources; none: all.")
    speakers: tuple[str, ...] = Field((), description="Only these speakers.")
    languages: tuple[str, ...] = Field((), description="Only these languages, ISO 639-1.")
    min_scores: dict[str, float] = Field(
        default_factory=dict, description="Least scores, as in snr_db: 20; a clip without the score is left out."
    )

    @field_validator("contact")
    @classmethod
    def _contact(cls, value: str) -> str:
        if not re.fullmatch(r"[^@\s]+@[^@\s]+|https?://\S+", value):
            raise ValueError("not a contact; give an e-mail address or a web address, as in 'corpus@example.org'")
        return value

    @field_validator("min_scores")
    @classmethod
    def _scores(cls, value: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(value.keys() - set(SCORES)):
            raise ValueError(f"{unknown[0]!r} is no score; use one of: {', '.join(SCORES)}")
        return value
