"""How long the demo trains, what it begins at, and the recipe of each network."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from triforce.models.voice.bundled import VOICE, has_voice

SCRATCH = "scratch"
"""Name of the beginning at nothing."""
STAGES = ("dvae", "gpt", "diffusion", "vocoder")
"""Networks that can be trained, in this order."""
SHARES = {
    VOICE: {"dvae": 0.44, "gpt": 0.43, "vocoder": 0.13},
    SCRATCH: {"dvae": 0.4, "gpt": 0.54, "diffusion": 0.06},
}
"""How the minutes are divided among the networks. Assumed."""
MOST_STEPS = 20_000
"""Steps that no network reaches in the demo's minutes: time ends its training."""
SAMPLING = {"temperature": 0.7, "guidance": 1.5, "max_codes_per_word": 24}
"""How all speech of the demo is drawn, as in `triforce reading`; a word takes a second at most, for a network that
knows little may stay at one for long."""
NUM_READ = {VOICE: None, SCRATCH: 12}
"""Unseen texts that are read aloud and judged, None all: from scratch it is babble, which is slow to judge."""
TEACHER = {"teacher": "whisper", "teacher_model": "tiny.en", "teacher_weight": 2.0, "teacher_every": 3}
"""Teacher of the dVAE; another Whisper judges."""


class DemoConfig(BaseModel):
    """How long and how large. The defaults take at most 25 minutes on two cores, with the installation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    init_from: str = Field(
        default_factory=lambda: VOICE if has_voice() else SCRATCH,
        min_length=1,
        description="Release that goes on to learn the demo's speaker: voice, the one that comes along and is the "
        "default where it is there, a release of yours that reads, or scratch: nothing, all networks learn from the "
        "demo's speech alone.",
    )
    minutes: float = Field(13.5, gt=0, description="Longest training time of the networks together, in minutes.")
    shares: dict[str, float] = Field(
        {}, description="How the minutes are divided among the networks; a network without a share is left out."
    )
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps of each network; none: time ends it.")
    recogniser: str = Field("tiny.en", description="Whisper model that transcribes the sites.")
    teacher: bool = Field(True, description="Let Whisper tiny.en teach the dVAE.")
    judge: str = Field("base", description="Whisper model that judges all speech.")

    @model_validator(mode="after")
    def _check_shares(self) -> DemoConfig:
        given = set(self.shares)
        if self.shares and not ({"dvae", "gpt"} <= given <= set(STAGES) and min(self.shares.values()) > 0):
            raise ValueError(
                f"shares {self.shares}: give dvae and gpt a share over 0, and diffusion and vocoder one or none"
            )
        return self

    @property
    def from_scratch(self) -> bool:
        """Whether nothing is begun at."""
        return self.init_from == SCRATCH

    @property
    def num_unseen_texts(self) -> int | None:
        """Unseen texts that are read aloud and judged, None: all."""
        return NUM_READ[SCRATCH if self.from_scratch else VOICE]

    @property
    def minutes_of(self) -> dict[str, float]:
        """Minutes of each network that is trained, in the order of training."""
        shares = dict(self.shares or SHARES[SCRATCH if self.from_scratch else VOICE])
        if "vocoder" in shares and not self.shares and not self.has_vocoder:
            del shares["vocoder"]  # there is none to begin at: Griffin-Lim
        each = self.minutes / sum(shares.values())
        return {stage: max(0.001, round(each * shares[stage], 3)) for stage in STAGES if stage in shares}

    @property
    def has_vocoder(self) -> bool:
        """Whether the release that is begun at has a vocoder."""
        from triforce.models.release_files import load_card  # torch

        return load_card(self.init_from, "vocoder") is not None

    @property
    def text(self) -> dict[str, Any]:
        """Fields of the TokenizeConfig: the text front end, and times that are better than the recogniser's."""
        if self.from_scratch:
            return {"text": "phonemes", "refine_times": True}
        from triforce.models.reading.front_end import keeps_words
        from triforce.models.release_files import load_tokenizer_of  # torch

        return {"init_from": self.init_from, "refine_times": keeps_words(load_tokenizer_of(self.init_from))}

    @property
    def recipes(self) -> dict[str, dict[str, Any]]:
        """Fields of each trained network's config beside its folders."""
        scratch = {"dvae": DVAE, "gpt": GPT, "diffusion": {}, "vocoder": {}}
        tuned = {"dvae": TUNED_DVAE, "gpt": TUNED_GPT, "diffusion": {}, "vocoder": TUNED_VOCODER}
        steps = self.max_steps or MOST_STEPS
        recipes = {}
        for stage, minutes in self.minutes_of.items():
            recipe = (scratch if self.from_scratch else tuned)[stage] | {"max_minutes": minutes, "max_steps": steps}
            if stage != "diffusion" and not self.from_scratch:
                recipe |= {"init_from": self.init_from}
            recipes[stage] = recipe | (TEACHER if stage == "dvae" and self.teacher else {})
        return recipes


DVAE: dict[str, Any] = {"model": {"quantizer": "fsq", "fsq_levels": (8, 8, 4, 4)}}
GPT: dict[str, Any] = {
    "layouts": {"text>reading": 1.0},
    "model": {"num_layers": 6, "width": 256, "num_heads": 4, "dropout": 0.2, "reading_units": "pieces"},
    "text_dropout": 0.1,
    "code_noise": 0.15,
    "batch_size": 2,
    "optimizer": {"learning_rate": 1.5e-3, "warmup_steps": 50},
}
TUNED_DVAE: dict[str, Any] = {
    "train_only": ["decoder*", "head*"],
    "optimizer": {"learning_rate": 5e-4, "warmup_steps": 20},
}
"""The decoder alone: codes stay those that the GPT knows."""
TUNED_GPT: dict[str, Any] = {
    "batch_size": 2,
    "text_dropout": 0.1,
    "code_noise": 0.1,
    "model": {"dropout": 0.2},
    "optimizer": {"learning_rate": 4e-4, "warmup_steps": 30},
}
"""At a lower rate than from scratch, so that what was learnt from hours is not lost to minutes, and with dropout: the
voice's own transformer began to overfit six hours in its ninth epoch, and here an epoch takes half a minute. Assumed.
"""
TUNED_VOCODER: dict[str, Any] = {"decoded_share": 0.0, "loss_weights": {"adversarial": 0.0}, "batch_size": 16}
"""On true mels and by spectra alone: it learns the speaker's timbre, and what it knew of decodes stays. With half of
the mels decodes it learnt to blur them (train/README.md)."""
