"""Settings of training that a teacher takes part in."""

from __future__ import annotations

import os
from typing import Self

from pydantic import Field, field_validator, model_validator

from triforce.models.audio.mel import MelConfig
from triforce.train.data.config import CROP_AXES, CropConfig
from triforce.train.teachers.base import Teacher
from triforce.train.teachers.registry import TeacherName, make_teacher

MAX_TAUGHT_FRAMES = 2812
"""Mel frames of a crop that a teacher hears at most: Whisper's 30 s, at 93.75 a second."""


class TaughtConfig(CropConfig):
    """Crops, and which frozen network hears what becomes of them."""

    teacher: TeacherName | None = Field(
        None,
        description="Frozen network whose features of a decode are to be those of the original, beside the error in "
        "nats (sound only); none: that error alone.",
    )
    teacher_model: str = Field(
        "tiny.en",
        min_length=1,
        description="Weights of the teacher; for whisper tiny.en, base, or a folder with a CTranslate2 model.bin.",
    )
    teacher_weight: float = Field(
        1.0, gt=0, description="Weight of the teacher's loss, which is 1 where it hears no more than of a constant."
    )
    teacher_every: int = Field(1, ge=1, description="Steps from one that the teacher sees to the next.")

    @field_validator("teacher_model")
    @classmethod
    def _find_folder_from_anywhere(cls, model: str) -> str:
        return os.path.abspath(model) if os.path.isfile(os.path.join(model, "model.bin")) else model

    @model_validator(mode="after")
    def _check_teacher(self) -> Self:
        if self.teacher and self.modality in CROP_AXES:
            raise ValueError(f"teacher {self.teacher}: it hears sound, this is of {self.modality}")
        if self.teacher and self.crop_frames > MAX_TAUGHT_FRAMES:
            raise ValueError(
                f"crop_frames {self.crop_frames}: teacher {self.teacher} hears {MAX_TAUGHT_FRAMES} at most, 30 s"
            )
        return self


def teacher_of(config: TaughtConfig, mel: MelConfig) -> Teacher | None:
    """Return the teacher that a run asks for, frozen, on the CPU."""
    return None if config.teacher is None else make_teacher(config.teacher, config.teacher_model, mel)


def teacher_hashes(config: TaughtConfig) -> dict[str, str]:
    """Return the hash of the weights of the teacher that a run reads, if any, by what names it among its inputs."""
    teacher = teacher_of(config, MelConfig())
    return {} if teacher is None else {"teacher": teacher.hash}


def taught_at(config: TaughtConfig, crops_a_step: int, taken: int) -> bool:
    """Whether the teacher hears the step before which a worker has taken so many crops."""
    return config.teacher is not None and taken // crops_a_step % config.teacher_every == 0
