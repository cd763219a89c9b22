"""The voice that comes along: a release as package data, which speaks where no other is named."""

from __future__ import annotations

from pathlib import Path

VOICE = "voice"
"""Its name, wherever a release is read; a folder of that name is ``./voice``."""
FOLDER = Path(__file__).parent
"""Where it lies in this installation."""


def located(uri: str) -> str:
    """Return where a release lies: `VOICE` in this installation, any other where it says."""
    return str(FOLDER) if uri == VOICE else uri


def has_voice() -> bool:
    """Whether this installation has the voice's weights."""
    return (FOLDER / "gpt" / "config.json").is_file()
