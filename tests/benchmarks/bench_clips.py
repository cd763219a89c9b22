"""Clips against known truth: ours, faster-whisper's batched pipeline and whisperx on the same recording, as one table.

    bash tests/benchmarks/whisperx_env.sh /tmp/whisperx        # an environment of its own; may be left out
    python tests/benchmarks/bench_clips.py --prompts FOLDER --texts TEXTS.gz --whisperx /tmp/whisperx/bin/python

The prompts are Debian's: ``apt-get download asterisk-core-sounds-en-g722 asterisk-core-sounds-en``, unpacked by
``dpkg-deb -x``. Same weights, beam, batch and audio for all, one thread each, in turns; a speed is the median of
seconds of recording by seconds of processor time, so a busy machine disturbs it less. Peak memory is the whole
process's, less the waveform that it was given.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import jiwer
import numpy as np
from known_speech import RATE_HZ, KnownRecording, build_recording, coverage, cuts_in_words, read_prompts

from triforce.ingest.asr.weights import find_whisper

ENGINES = Path(__file__).with_name("engines.py")


def run_engine(python: str, engine: str, recording: Path, settings: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [python, str(ENGINES), engine, str(recording), str(result), "--model", find_whisper(settings.model)]
        command += ["--beam-size", str(settings.beam_size), "--batch-size", str(settings.batch_size)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYANNOTE_METRICS_ENABLED": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{engine} failed:\n{done.stderr[-2000:]}")
        return json.loads(result.read_text())


def row(engine: str, results: list[dict], recording: KnownRecording) -> str:
    segments = results[-1]["segments"]
    spans = [(round(start * RATE_HZ), round(end * RATE_HZ)) for start, end, _ in segments]
    errors = jiwer.process_words(_plain(recording.text), _plain(" ".join(text for *_, text in segments)) or "-")
    false_chars = sum(
        len(text)
        for (start, end), (*_, text) in zip(spans, segments, strict=True)
        if not any(start < last and first < end for first, last in recording.speech)
    )
    seconds = len(recording.waveform) / RATE_HZ
    speed = statistics.median(seconds / result["cpu_s"] for result in results)
    peak_mb = max(result["peak_mb"] for result in results) - recording.waveform.nbytes / 2**20
    return (
        f"{engine:16} {coverage(recording, spans):9.2%} {cuts_in_words(recording, spans):13d} {errors.wer:7.2%} "
        f"{false_chars:11d} {speed:9.1f}x {peak_mb:9.0f}"
    )


def _plain(text: str) -> str:
    """Words in lower case, contractions written out: how they are spelt is no error."""
    text = jiwer.ExpandCommonEnglishContractions()(text.lower().replace("-", " "))
    return " ".join(re.findall(r"[a-z0-9']+", text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--whisperx", metavar="PYTHON", help="Interpreter of an environment with whisperx.")
    parser.add_argument("--seconds", type=float, default=360.0, help="Length of the recording.")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of each; speeds are medians.")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    settings = parser.parse_args()
    recording = build_recording(read_prompts(settings.prompts, settings.texts), settings.seconds, settings.seed)
    pythons = {"triforce": sys.executable, "faster-whisper": sys.executable}
    pythons |= {"whisperx": settings.whisperx} if settings.whisperx else {}
    results: dict[str, list[dict]] = {engine: [] for engine in pythons}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.npy"
        np.save(path, recording.waveform)
        for _ in range(settings.repeats):
            for engine, python in pythons.items():
                results[engine].append(run_engine(python, engine, path, settings))
    kinds = ", ".join(sorted({kind for kind, *_ in recording.others}))
    num_words = len(_plain(recording.text).split())
    lines = [
        f"{settings.seconds:.0f} s, {num_words} words in two voices; between them: {kinds}",
        f"{'':16} {'coverage':>9} {'cuts in words':>13} {'WER':>7} {'false chars':>11} {'speed':>10} {'peak MB':>9}",
        *(row(engine, results[engine], recording) for engine in pythons),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
