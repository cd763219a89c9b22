"""How the voice that comes along is made: hours of speech, minutes of training, shapes of the networks."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class NarratorConfig(BaseModel):
    """Settings of `triforce.flows.examples.narrator.run`. The defaults are for one H100 and nine minutes in all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = Field("cuda", description="cuda or cpu.")
    share: float = Field(1.0, gt=0, le=100, description="Factor of all minutes and hours below.")
    hours: float = Field(80.0, gt=0, description="Hours of speech at most.")
    speech_minutes: float = Field(1.3, gt=0, description="Time to make them in.")
    sound_hours: float = Field(20.0, gt=0, description="Hours of them that the vocoder hears.")
    dvae_minutes: float = Field(2.3, gt=0, description="Training of the dVAE.")
    decoder_minutes: float = Field(0.7, gt=0, description="Training of its decoder alone, beside the transformer's.")
    gpt_minutes: float = Field(3.8, gt=0, description="Training of the transformer.")
    vocoder_minutes: float = Field(2.8, gt=0, description="Training of the vocoder, beside the transformer's.")
    fsq_levels: tuple[int, ...] = Field((8, 8, 8, 8), description="Levels of the codes: 4096 codes.")
    dvae_hidden: int = Field(384, ge=8, description="Channels of the dVAE.")
    dvae_batch: int = Field(128, ge=1, description="Crops a step.")
    crop_frames: int = Field(192, ge=16, description="Frames of the dVAE's crops: 2 s.")
    teacher: bool = Field(True, description="Let a frozen Whisper teach the dVAE.")
    teacher_model: str = Field("tiny.en", description="Which Whisper: a name, or a folder with its model.bin.")
    teacher_weight: float = Field(1.0, ge=0, description="Weight of the teacher's loss.")
    gpt_layers: int = Field(8, ge=1, description="Blocks of the transformer.")
    gpt_width: int = Field(384, ge=16, description="Channels of the transformer.")
    gpt_heads: int = Field(6, ge=1, description="Heads of the transformer.")
    gpt_rows: int = Field(64, ge=1, description="Rows of `context` tokens a step.")
    gpt_rate: float = Field(1.5e-3, gt=0, description="Peak learning rate of the transformer.")
    context: int = Field(1024, ge=64, description="Tokens of a row.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of the transformer.")
    code_noise: float = Field(0.05, ge=0, lt=1, description="Share of input codes replaced at random.")
    text_dropout: float = Field(0.1, ge=0, lt=1, description="Share of sentences whose text is hidden, for guidance.")
    vocoder_batch: int = Field(32, ge=1, description="Crops a step of the vocoder.")
    seed: int = Field(0, ge=0)

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def minutes(self, name: str) -> float:
        """The minutes of a stage, with the share."""
        return float(getattr(self, f"{name}_minutes")) * self.share
