"""How the voice that comes along is made: hours of speech, minutes of training, shapes of the networks."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from triforce.models.vocabulary import ReadingUnits


class NarratorConfig(BaseModel):
    """Settings of `triforce.flows.examples.narrator.run`. The defaults are for one H100 and nine minutes in all, `CPU`
    has those for two cores and two hours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = Field("cuda", description="cuda or cpu.")
    init_from: str | None = Field(
        None,
        description="Release to go on with: its dVAE stays, so shapes of all networks are its own; voice for the one "
        "that comes along.",
    )
    minutes: float = Field(8.5, gt=0, description="Time for everything.")
    hours: float = Field(90.0, gt=0, description="Hours of speech at most.")
    speech_share: float = Field(0.14, gt=0, lt=1, description="Share of the time in which speech is made.")
    dvae_share: float = Field(0.28, gt=0, lt=1, description="Share of the time for the dVAE; the rest is the others'.")
    in_turn: bool = Field(False, description="Run the stages one after another, as a CPU should.")
    vocoder_share: float = Field(
        0.15, gt=0, lt=1, description="Share of the time for the vocoder where it comes behind the transformer."
    )
    diffusion: bool = Field(
        False,
        description="Train a diffusion network that is told the phonemes too. Its WER is lower, not beyond chance.",
    )
    diffusion_share: float = Field(
        0.2, gt=0, lt=1, description="Share of the time for it where it comes behind the transformer."
    )
    noise_scale: tuple[float, float] = Field(
        (0.1, 0.35), description="Range of the noise of the synthesiser's sound: little, so that codes can be foretold."
    )
    noise_w: tuple[float, float] = Field((0.0, 0.3), description="Range of the noise of its durations.")
    length_scale: tuple[float, float] = Field((0.95, 1.1), description="Range of the factor of its durations.")
    refine_times: bool = Field(
        False,
        description="Find the times of words anew (`tokenize.timing`), where the synthesiser's are late.",
    )
    fsq_levels: tuple[int, ...] = Field((8, 8, 8, 8), description="Levels of the codes: 4096 codes.")
    dvae_hidden: int = Field(384, ge=8, description="Channels of the dVAE.")
    dvae_folded: bool = Field(False, description="Let the dVAE work at the rate of the codes alone: for CPUs.")
    other_hours: float = Field(
        1.5, ge=0, description="Hours of other voices that the dVAE learns from too, so that others can be coded."
    )
    channel_jitter: float = Field(0.3, ge=0, le=1, description="Share of the dVAE's crops as other microphones hear.")
    dvae_batch: int = Field(128, ge=1, description="Crops a step.")
    crop_frames: int = Field(192, ge=16, description="Frames of the dVAE's crops: 2 s.")
    teacher: bool = Field(True, description="Let a frozen Whisper teach the dVAE.")
    teacher_model: str = Field("tiny.en", description="Which Whisper: a name, or a folder with its model.bin.")
    teacher_weight: float = Field(1.0, ge=0, description="Weight of the teacher's loss.")
    teacher_every: int = Field(1, ge=1, description="Steps from one that the teacher sees to the next.")
    reading_units: ReadingUnits = Field("pieces", description="What the transformer goes on to by decision.")
    gpt_layers: int = Field(8, ge=1, description="Blocks of the transformer.")
    gpt_width: int = Field(384, ge=16, description="Channels of the transformer.")
    gpt_heads: int = Field(6, ge=1, description="Heads of the transformer.")
    gpt_rows: int = Field(64, ge=1, description="Rows of `context` tokens a step.")
    gpt_rate: float = Field(1.5e-3, gt=0, description="Peak learning rate of the transformer.")
    context: int = Field(1024, ge=64, description="Tokens of a row.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of the transformer.")
    code_noise: float = Field(0.05, ge=0, lt=1, description="Share of input codes replaced at random.")
    text_dropout: float = Field(0.1, ge=0, lt=1, description="Share of sentences whose text is hidden, for guidance.")
    temperature: float = Field(0.7, ge=0, le=10, description="Temperature that the release is sampled with.")
    guidance: float = Field(1.5, ge=0, le=10, description="Guidance that the release is sampled with.")
    eval_every: int = Field(1_000_000, ge=1, description="Steps of the transformer between evaluations.")
    save_every_s: float = Field(120.0, gt=0, description="Seconds after which the transformer is written once more.")
    diffusion_hidden: int = Field(256, ge=16, description="Channels of the diffusion network.")
    diffusion_blocks: int = Field(6, ge=1, description="Blocks of the diffusion network.")
    diffusion_batch: int = Field(64, ge=1, description="Crops a step of the diffusion network.")
    vocoder_batch: int = Field(32, ge=1, description="Crops a step of the vocoder.")
    seed: int = Field(0, ge=0)

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.device.startswith("cuda")


CPU: dict[str, Any] = {
    "device": "cpu",
    "in_turn": True,
    "minutes": 120.0,
    "hours": 7.0,
    "speech_share": 0.2,
    "dvae_share": 0.15,
    "fsq_levels": (8, 8, 4, 4),
    "dvae_hidden": 320,
    "dvae_folded": True,
    "dvae_batch": 16,
    "crop_frames": 144,
    "teacher_weight": 2.0,
    "teacher_every": 3,
    "gpt_layers": 6,
    "gpt_rows": 6,
    "context": 512,
    "dropout": 0.0,
    "code_noise": 0.1,
    "save_every_s": 300.0,
    "eval_every": 500,
    "diffusion_batch": 16,
    "vocoder_batch": 8,
}
"""Fields of a `NarratorConfig` for two cores: 1024 codes, a folded dVAE, a GPT of 11 million parameters. Without
dropout a step takes a quarter less; six hours are overfitted from the ninth epoch on.
"""
