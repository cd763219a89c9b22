"""Recordings with known truth: real prompts laid out with pauses, music, noise, clicks and a second voice between
them."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import soxr

RATE_HZ = 24_000


@dataclass(frozen=True)
class Prompt:
    text: str
    waveform: np.ndarray
    """``(N,) float32`` at 24 kHz."""


@dataclass
class KnownRecording:
    waveform: np.ndarray
    speech: list[tuple[int, int]] = field(default_factory=list)
    """Stretches of sound within the prompts, in samples: words, without the silence between them."""
    others: list[tuple[str, int, int]] = field(default_factory=list)
    """What is not speech: its kind, first and last sample."""
    text: str = ""
    prompts: list[tuple[int, int, str]] = field(default_factory=list)
    """First sample, the one after the last, and text of each prompt, in order."""


def read_prompts(folder: Path, texts: Path, min_s: float = 1.5) -> list[Prompt]:
    """Prompts below ``folder`` whose text stands in ``texts`` (lines ``name: text``, gzipped) without digits or
    stage directions."""
    prompts = []
    for line in gzip.decompress(texts.read_bytes()).decode(errors="replace").splitlines():
        name, _, text = line.partition(":")
        path = folder / f"{name.strip()}.g722"
        if line.startswith(";") or re.search(r"[\[(<\d]", text) or not path.is_file() or not path.stat().st_size:
            continue
        with av.open(str(path)) as container:
            resampler = av.AudioResampler("flt", "mono", 16_000)
            blocks = [out.to_ndarray()[0] for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        waveform = np.concatenate(blocks)
        if len(waveform) >= min_s * 16_000:
            prompts.append(Prompt(text.strip(), soxr.resample(waveform, 16_000, RATE_HZ)))
    return prompts


def build_recording(prompts: list[Prompt], seconds: float, seed: int, *, plain: bool = False) -> KnownRecording:
    """About ``seconds`` of prompts with pauses of 0.15 to 2 s over a noise floor; unless ``plain``, every third in a
    second voice, and now and then something else."""
    generator = np.random.default_rng(seed)
    recording, parts, length, texts = KnownRecording(np.zeros(0, np.float32)), [], 0, []
    order = generator.permutation(len(prompts))
    at = 0
    while length < seconds * RATE_HZ:
        prompt = prompts[order[at % len(order)]]
        at += 1
        voice = prompt.waveform if plain or at % 3 else _other_voice(prompt.waveform)
        waveform = voice * (0.5 / max(0.05, np.abs(voice).max())) * generator.uniform(0.4, 1.6)
        recording.speech += [(length + a, length + b) for a, b in sounding(waveform)]
        recording.prompts.append((length, length + len(waveform), prompt.text))
        parts.append(waveform)
        length += len(waveform)
        texts.append(prompt.text)
        for kind in [] if plain or at % 5 else [str(generator.choice(["music", "noise", "silence", "clicks"]))]:
            other = _OTHERS[kind](generator)
            recording.others.append((kind, length, length + len(other)))
            parts.append(other)
            length += len(other)
        pause = np.zeros(round(generator.choice([0.15, 0.3, 0.5, 0.8, 1.2, 2.0]) * RATE_HZ), np.float32)
        parts.append(pause)
        length += len(pause)
    floor = generator.normal(0, 10 ** (-62 / 20), length)
    recording.waveform = np.clip(np.concatenate(parts) + floor, -1, 1).astype(np.float32)
    recording.text = " ".join(texts)
    return recording


def _other_voice(waveform: np.ndarray) -> np.ndarray:
    """As of a larger person: pitch and formants lower by an eighth, and slower as much."""
    return soxr.resample(waveform, RATE_HZ, RATE_HZ * 1.125)


def sounding(waveform: np.ndarray, *, under_peak_db: float = 35.0, min_pause_s: float = 0.06) -> list[tuple[int, int]]:
    """The stretches of ``(N,)`` whose level in 10 ms is within so much of the loudest; shorter breaks belong to a
    word."""
    hop = RATE_HZ // 100
    frames = waveform[: len(waveform) // hop * hop].reshape(-1, hop)
    level_db = 10 * np.log10(np.maximum(np.mean(frames**2, axis=1), 1e-12))
    is_on = np.concatenate([[False], level_db > level_db.max() - under_peak_db, [False]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(is_on))
    runs: list[list[int]] = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if runs and start - runs[-1][1] < min_pause_s * 100:
            runs[-1][1] = int(end)
        else:
            runs.append([int(start), int(end)])
    return [(start * hop, end * hop) for start, end in runs]


def music(generator: np.random.Generator) -> np.ndarray:
    """Eight seconds of chords with decaying partials."""
    time_s = np.arange(RATE_HZ) / RATE_HZ
    bars = []
    for root in generator.choice([110.0, 130.8, 146.8, 164.8, 196.0], 8):
        notes = [root * ratio * partial for ratio in (1, 1.26, 1.5, 2) for partial in (1, 2, 3)]
        chord = sum(np.sin(2 * np.pi * note * time_s) / (index % 3 + 1) for index, note in enumerate(notes))
        bars.append(chord * np.exp(-1.5 * time_s))
    music = np.concatenate(bars)
    return (0.2 * music / np.abs(music).max()).astype(np.float32)


def _noise(generator: np.random.Generator) -> np.ndarray:
    """Five seconds of low-passed noise, as of traffic."""
    noise = np.convolve(generator.normal(0, 1, 5 * RATE_HZ), np.ones(12) / 12, mode="same")
    return (0.05 * noise / noise.std()).astype(np.float32)


def _silence(generator: np.random.Generator) -> np.ndarray:
    return np.zeros(round(generator.uniform(3, 12) * RATE_HZ), np.float32)


def _clicks(generator: np.random.Generator) -> np.ndarray:
    clicks = np.zeros(4 * RATE_HZ, np.float32)
    for at in generator.integers(0, len(clicks) - 200, 12):
        clicks[at : at + 200] += (generator.normal(0, 0.3, 200) * np.exp(-np.arange(200) / 30)).astype(np.float32)
    return clicks


_OTHERS = {"music": music, "noise": _noise, "silence": _silence, "clicks": _clicks}


def coverage(recording: KnownRecording, spans: list[tuple[int, int]]) -> float:
    """Share of the sounding samples that lie in ``spans``."""
    inside = np.zeros(len(recording.waveform) + 1, bool)
    for start, end in spans:
        inside[start:end] = True
    total = sum(end - start for start, end in recording.speech)
    return sum(int(inside[start:end].sum()) for start, end in recording.speech) / max(total, 1)


def cuts_in_words(recording: KnownRecording, spans: list[tuple[int, int]], margin_s: float = 0.02) -> int:
    """Ends of ``spans`` that lie in a sounding stretch, further than ``margin_s`` from its ends."""
    margin = round(margin_s * RATE_HZ)
    edges = np.asarray(sorted({edge for span in spans for edge in span}))
    return sum(int(((edges > start + margin) & (edges < end - margin)).sum()) for start, end in recording.speech)
