"""The teachers by name. A new one is a `Teacher`, a name in `TeacherName`, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from triforce.models.audio.mel import MelConfig
from triforce.train.teachers.base import Teacher

TeacherName = Literal["whisper"]


def make_teacher(name: TeacherName, model: str, mel_config: MelConfig) -> Teacher:
    """Return a teacher, frozen, on the CPU. Raises FileNotFoundError where its weights are not here."""
    from triforce.train.teachers.whisper import WhisperTeacher

    teachers: dict[TeacherName, Callable[[str, MelConfig], Teacher]] = {"whisper": WhisperTeacher}
    return teachers[name](model, mel_config).eval().requires_grad_(False)
