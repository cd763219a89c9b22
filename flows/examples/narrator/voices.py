"""More voices for the dVAE, so that its codes are of speech and not of one speaker.

The narrator's clips at other speeds, which moves pitch and formants together, and, where Debian's ``flite`` is
installed, its voices, which were made from recordings of three people (licence: free for any use). The transformer
learns from the narrator alone.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triforce.flows.examples.piper.resample import resample
from triforce.models.audio.mel import log_mel
from triforce.train.data.packed.pack import Pack, PackWriter

SPEEDS_PERCENT = (80, 90, 112, 125, 140)
FLITE_VOICES = ("slt", "rms", "slt", "awb")
"""Flite's voices in turn: slt, the only woman's, twice as often."""
SECONDS_PER_HOUR = 3600


def write_voices(pack: Pack, folder: Path, hours: float, seed: int) -> dict[str, float]:
    """Write a pack without sound of all clips of ``pack`` and ``hours`` of other voices; return hours by voice."""
    writer, said = PackWriter(folder, pack.mel_config, samples=False), hashlib.sha256(pack.hash.encode())
    counted: dict[str, float] = {}
    for index, clip in enumerate(pack.clips):
        frames = pack.mels[pack.bounds[index] : pack.bounds[index + 1]]
        writer.add(torch.from_numpy(np.array(frames)).T, clip)
    order = np.random.default_rng(seed).permutation(len(pack))
    sources = [_sped(pack, order[::2])]
    if shutil.which("flite"):
        sources.append(_by_flite(pack, order[1::2]))
    for source in sources:
        made = 0.0
        for mel, about in source:
            writer.add(mel, about)
            said.update(about["clip_id"].encode())
            seconds = mel.shape[1] * pack.mel_config.hop_length / pack.mel_config.sample_rate_hz
            counted[about["speaker"]] = counted.get(about["speaker"], 0.0) + seconds / SECONDS_PER_HOUR
            made += seconds
            if made >= hours / len(sources) * SECONDS_PER_HOUR:
                break
    writer.close(said.hexdigest())
    return counted


Voiced = tuple[torch.Tensor, dict[str, Any]]
"""A log-mel ``(num_mels, T)`` and the line about its clip."""


def _sped(pack: Pack, order: np.ndarray) -> Iterator[Voiced]:
    """Yield clips at other speeds."""
    rate = pack.mel_config.sample_rate_hz
    for number, index in enumerate(order):
        percent = SPEEDS_PERCENT[number % len(SPEEDS_PERCENT)]
        samples = np.array(pack.samples[pack.sample_bounds[index] : pack.sample_bounds[index + 1]])
        waveform = resample(torch.from_numpy(samples / np.float32(32768))[None], rate * percent // 100, rate)[0]
        yield _voiced(pack, waveform, index, f"{pack.clips[index]['speaker']}-{percent}")


def _by_flite(pack: Pack, order: np.ndarray) -> Iterator[Voiced]:
    """Yield the texts of clips in flite's voices."""
    rate, rows = pack.mel_config.sample_rate_hz, enumerate(order)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(rows, 64)):
            chosen = [(pack.clips[at]["text"], FLITE_VOICES[n % len(FLITE_VOICES)]) for n, at in chunk]
            spoken = pool.map(lambda job: _flite(*job), chosen)
            for (_, index), (_, voice), (samples, from_hz) in zip(chunk, chosen, spoken, strict=True):
                waveform = resample(torch.from_numpy(samples)[None], from_hz, rate)[0]
                yield _voiced(pack, waveform, index, f"flite-{voice}")


def _flite(text: str, voice: str) -> tuple[np.ndarray, int]:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", file.name], check=True, capture_output=True)
        with wave.open(file.name) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
            return samples / np.float32(32768), sound.getframerate()


def _voiced(pack: Pack, waveform: torch.Tensor, index: int, speaker: str) -> Voiced:
    clip = pack.clips[index]
    loud = waveform / waveform.abs().amax().clamp_min(1e-8)
    about = {"clip_id": f"{clip['clip_id']}-{speaker}", "text": clip["text"], "speaker": speaker, "words": None}
    return log_mel(loud[None], pack.mel_config)[0], about
