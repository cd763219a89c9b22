"""The settings of `triforce digits`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class DigitsConfig(BaseModel):
    """How long each network is trained, and how many answers are judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    speech_steps: int = Field(1000, ge=1, description="Steps of the dVAE of spoken digits.")
    image_steps: int = Field(1000, ge=1, description="Steps of the dVAE of handwritten digits.")
    gpt_steps: int = Field(2000, ge=1, description="Steps of the transformer.")
    validation_share: float = Field(
        0.15, gt=0, lt=0.5, description="Share of the clips that no network trains on: the prompts."
    )
    num_each: int = Field(10, ge=1, le=1000, description="Answers for each digit in each direction.")
    temperature: float = Field(0.3, ge=0, le=2, description="Sampling temperature of the answers.")
    candidates: int = Field(
        8, ge=1, le=64, description="Answers drawn, of which the network takes the one that explains the prompt best."
    )
    whisper: str | None = Field("base", description="Whisper model that judges speech as well; none: no Whisper.")
    seed: int = Field(0, ge=0, description="Seed of all that is drawn.")
