"""Cutting without recognition: speed from an MP3 on disk to clips on disk, and peak memory whatever the length.

    python tests/benchmarks/bench_cutting.py --hours 1 10

Each length is a process of its own on one thread. The sound, bursts of a harmonic voice-like tone with pauses, is
written first, as a stereo MP3 at 44.1 kHz: half an hour is encoded, and its frames stand there as often as it takes,
as the encoder would need ten minutes for ten hours. Memory is the peak over what the process holds before it begins.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile
from long_mp3 import repeated_mp3

from triforce.ingest.clips.clip_recording import ClipConfig, clip_recording
from triforce.ingest.corpus.records import Recording
from triforce.ingest.corpus.store import Corpus

RATE_HZ = 44_100
PIECE_S = 1800.0


def write_recording(path: Path, seconds: float) -> None:
    """A piece over and over."""
    piece_s = min(seconds, PIECE_S)
    write_piece(path, piece_s)
    data = path.read_bytes()
    with path.open("wb") as file:
        file.writelines(repeated_mp3(data, round(seconds / piece_s)))


def write_piece(path: Path, seconds: float) -> None:
    """Bursts of 0.8 to 6 s with pauses of 0.2 to 1.5 s between them, over faint noise."""
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE_HZ, 2, format="MP3") as file:
        written = 0
        while written < seconds * RATE_HZ:
            burst = _burst(generator, generator.uniform(0.8, 6.0))
            silence = np.zeros(round(generator.uniform(0.2, 1.5) * RATE_HZ), np.float32)
            sound = np.concatenate([burst, silence])
            sound += generator.normal(0, 5e-4, len(sound)).astype(np.float32)
            file.write(np.stack([sound, 0.8 * sound], axis=1))
            written += len(sound)


def _burst(generator: np.random.Generator, seconds: float) -> np.ndarray:
    """Harmonics of a wandering pitch under a syllable's envelope, four a second."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    pitch_hz = generator.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    voice = sum(np.sin(number * phase) / number for number in range(1, 24))
    return (0.08 * voice * (0.55 - 0.45 * np.cos(2 * np.pi * 4 * time_s))).astype(np.float32)


def measure(path: str, folder: str, results: multiprocessing.Queue) -> None:
    corpus = Corpus(folder)
    media_path = corpus.media_path("bench", "one", "mp3")
    target = Path(folder) / media_path
    target.parent.mkdir(parents=True)
    os.link(path, target)
    recording = Recording("one", "bench", "files", "one", "file:one", media_path=media_path)
    gc.collect()
    process, peak, done = psutil.Process(), [0], threading.Event()
    baseline = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    cpu, wall = time.process_time(), time.perf_counter()
    summary = clip_recording(recording, corpus, ClipConfig(), None)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    done.set()
    watcher.join()
    most = max(peak[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    results.put((summary.num_clips, summary.recording_s, cpu, wall, (most - baseline) / 2**20))


def measure_apart(hours: float, folder: Path) -> tuple[int, float, float, float, float]:
    """Clips, seconds of recording, seconds of processor and wall time, and peak megabytes over the baseline."""
    path = folder / f"{hours}.mp3"
    write_recording(path, hours * 3600)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    worker = context.Process(target=measure, args=(str(path), str(folder / f"corpus-{hours}"), results))
    worker.start()
    found = results.get(timeout=3600)
    worker.join()
    path.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, nargs="+", default=[1.0, 10.0])
    settings = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{'hours':>6} {'clips':>6} {'x real time, cpu':>17} {'wall':>7} {'peak MB over baseline':>22}")
    with tempfile.TemporaryDirectory() as folder:
        for hours in settings.hours:
            clips, seconds, cpu, wall, peak_mb = measure_apart(hours, Path(folder))
            print(f"{hours:6.2f} {clips:6d} {seconds / cpu:17.0f} {seconds / wall:7.0f} {peak_mb:22.0f}", flush=True)


if __name__ == "__main__":
    main()
