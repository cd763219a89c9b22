"""Overlapped speech: how the share of it that `overlap_share` finds tells mixtures of two voices from one voice.

    python tests/benchmarks/bench_overlap.py FOLDER FOLDER ...

Each folder holds recordings of one voice, as Debian's prompts (``*.g722``). Clips of 4 s of each are mixed with those
of other folders; AUC is the probability that a mixture has a higher share than an unmixed clip. Confounders are clips
of one voice with noise, music, an echo, or through a telephone.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import av
import numpy as np
import soxr
from known_speech import music
from scipy.signal import butter, fftconvolve, sosfilt

from triforce.ingest.speakers.overlap import RATE_HZ, overlap_share

SECONDS = 4
LOWER = 1.5
"""Each voice is also heard as a man's: pitch and formants lower by this factor."""


def load(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", RATE_HZ)
        blocks = [out.to_ndarray()[0] for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    waveform = np.concatenate(blocks)[: SECONDS * RATE_HZ]
    return 0.1 * waveform / max(1e-6, float(np.sqrt(np.mean(waveform[np.abs(waveform) > 0.01] ** 2))))


def overlapped(share: float, level_db: float):
    """Mix in another voice for a share of the clip, so much louder or softer."""

    def mix(waveform: np.ndarray, other: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        length = int(len(waveform) * share)
        at = generator.integers(0, len(waveform) - length + 1)
        mixed = waveform.copy()
        mixed[at : at + length] += np.resize(other, length) * 10 ** (level_db / 20)
        return mixed

    return mix


def noisy(snr_db: float):
    return lambda waveform, _, generator: waveform + generator.normal(0, 0.1 * 10 ** (-snr_db / 20), len(waveform))


def telephone(waveform: np.ndarray, _: np.ndarray, __: np.random.Generator) -> np.ndarray:
    return sosfilt(butter(6, [300, 3400], "band", fs=RATE_HZ, output="sos"), waveform)


def echo(reverberation_s: float):
    """A room whose sound falls by 60 dB in this time, as loud as the direct sound."""

    def add(waveform: np.ndarray, _: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        time_s = np.arange(int(reverberation_s * RATE_HZ)) / RATE_HZ
        tail = generator.normal(0, 1, len(time_s)) * 10 ** (-3 * time_s / reverberation_s)
        tail /= np.linalg.norm(tail)
        tail[0] += 1.0
        return fftconvolve(waveform, tail)[: len(waveform)]

    return add


def with_music(level_db: float):
    def add(waveform: np.ndarray, _: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        played = soxr.resample(music(generator), 24_000, RATE_HZ)
        return waveform + 0.1 * 10 ** (level_db / 20) * np.resize(played, len(waveform)) / played.std()

    return add


CONDITIONS = {
    "one voice": lambda waveform, *_: waveform,
    "telephone": telephone,
    "noise, 20 dB": noisy(20),
    "noise, 12 dB": noisy(12),
    "echo, 0.3 s": echo(0.3),
    "echo, 0.6 s": echo(0.6),
    "music, -20 dB": with_music(-20),
    "music, -10 dB": with_music(-10),
    "quarter overlapped, 0 dB": overlapped(0.25, 0),
    "half overlapped, 0 dB": overlapped(0.5, 0),
    "half overlapped, -6 dB": overlapped(0.5, -6),
    "half overlapped, -12 dB": overlapped(0.5, -12),
    "all overlapped, 0 dB": overlapped(1.0, 0),
    "all overlapped, -6 dB": overlapped(1.0, -6),
    "all overlapped, -12 dB": overlapped(1.0, -12),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--clips", type=int, default=8, help="Clips of each voice.")
    parser.add_argument("--limit", type=float, default=0.12, help="Share over which a clip would be dropped.")
    settings = parser.parse_args()
    generator = np.random.default_rng(0)
    voices = []
    for folder in settings.folders:
        paths = [path for path in sorted(folder.glob("*.g722")) if path.stat().st_size > 8000 * SECONDS]
        voices.append([load(paths[at]) for at in generator.permutation(len(paths))[: settings.clips]])
    voices += [[soxr.resample(clip, RATE_HZ, LOWER * RATE_HZ)[: len(clip)] for clip in clips] for clips in voices]
    shares: dict[str, np.ndarray] = {}
    started, count = time.process_time(), 0
    for name, change in CONDITIONS.items():
        found = []
        for number, clips in enumerate(voices):
            others = [clip for other, own in enumerate(voices) if other != number for clip in own]
            for clip in clips:
                changed = change(clip, others[generator.integers(len(others))], generator)
                found.append(overlap_share(changed.astype(np.float32)))
                count += 1
        shares[name] = np.asarray([share for share in found if share is not None])
    speed = count * SECONDS / (time.process_time() - started)
    sys.stdout.write(f"{len(voices)} voices, {settings.clips} clips each, {speed:.0f}x real time\n")
    sys.stdout.write(f"{'':26} {'clips':>5} {'median':>7} {'95 %':>6} {'AUC':>6} {'over':>6} {settings.limit}\n")
    one = shares["one voice"]
    for name, share in shares.items():
        auc = np.mean(share[:, None] > one) + 0.5 * np.mean(share[:, None] == one)
        over = np.mean(share > settings.limit)
        spread = f"{np.median(share):7.2f} {np.percentile(share, 95):6.2f}"
        sys.stdout.write(f"{name:26} {len(share):5d} {spread} {auc:6.2f} {over:6.0%}\n")


if __name__ == "__main__":
    main()
