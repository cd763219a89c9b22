"""One recogniser over one recording in a process of its own, for `bench_clips.py`; the result is a JSON file.

    python engines.py ENGINE RECORDING.npy RESULT.json --model FOLDER --beam-size 5 --batch-size 8

Each runs on one thread, from samples in memory, after a run over the first 20 s that does not count. It imports nothing
of the project but in `ours`, so that the environment of another recogniser can run it.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import soxr

RATE_HZ = 24_000
Segment = tuple[float, float, str]
"""First and last second, text."""


def ours(settings: argparse.Namespace) -> Callable[[np.ndarray], list[Segment]]:
    from triforce.ingest.asr.transcribe import TranscribeConfig, Transcriber
    from triforce.ingest.clips.clip_recording import ClipConfig, cut_stream
    from triforce.ingest.clips.filters import FilterConfig, drop_reason
    from triforce.ingest.clips.make_clip import sound_clip
    from triforce.ingest.clips.scores import score_audio
    from triforce.ingest.corpus.records import Recording
    from triforce.ingest.media.samples import to_int16

    config = TranscribeConfig(
        model=settings.model,
        language_model=None,  # nor do the others tell languages
        beam_size=settings.beam_size,
        batch_size=settings.batch_size,
    )
    transcriber = Transcriber(config)
    # Lone words between long pauses are speech, if of no use for training: length and rate refuse nothing here.
    filters = FilterConfig(min_s=0, min_snr_db=-100, min_chars_per_s=2)

    recording = Recording("engine", "bench", "files", "engine", "file:engine")

    def run(waveform: np.ndarray) -> list[Segment]:
        samples = to_int16(waveform)
        cuts = list(cut_stream((samples[at : at + RATE_HZ] for at in range(0, len(samples), RATE_HZ)), ClipConfig()))
        segments = []
        for cut, heard in zip(cuts, transcriber.transcribe([cut.samples for cut in cuts]), strict=True):
            names = ("text", "avg_logprob", "no_speech_prob", "compression_ratio")
            columns = {name: getattr(heard, name) for name in names} | score_audio(cut.samples)
            columns["chars_per_s"] = len(heard.text) / len(cut.samples) * RATE_HZ
            clip = sound_clip(recording, cut.span.start, cut.samples, **columns)
            text = "" if drop_reason(clip, filters) else heard.text
            segments.append((cut.span.start / RATE_HZ, cut.span.end / RATE_HZ, text))
        return segments

    return run


def faster_whisper(settings: argparse.Namespace) -> Callable[[np.ndarray], list[Segment]]:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    pipeline = BatchedInferencePipeline(WhisperModel(settings.model, device="cpu", compute_type="int8", cpu_threads=1))

    def run(waveform: np.ndarray) -> list[Segment]:
        found, _ = pipeline.transcribe(
            soxr.resample(waveform, RATE_HZ, 16_000),
            language="en",
            beam_size=settings.beam_size,
            batch_size=settings.batch_size,
            word_timestamps=True,
        )
        return [(one.start, one.end, one.text) for one in found]

    return run


def whisperx(settings: argparse.Namespace) -> Callable[[np.ndarray], list[Segment]]:
    """Without its word alignment, whose weights lie on a hub: its time is that of detection and recognition alone."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    try:
        import torchaudio  # noqa: F401
    except ImportError:  # imported by modules that a detection of voice at 16 kHz never calls
        for name in ("", ".compliance", ".compliance.kaldi", ".transforms", ".functional", ".pipelines"):
            _stand_in(f"torchaudio{name}")
    import torch
    import whisperx

    torch.set_num_threads(1)
    options = {"beam_size": settings.beam_size}
    model = whisperx.load_model(
        settings.model, "cpu", compute_type="int8", language="en", threads=1, asr_options=options
    )

    def run(waveform: np.ndarray) -> list[Segment]:
        audio = soxr.resample(waveform, RATE_HZ, 16_000)
        found = model.transcribe(audio, batch_size=settings.batch_size)["segments"]
        return [(one["start"], one["end"], one["text"]) for one in found]

    return run


def _stand_in(name: str) -> None:
    import sys

    module = mock.MagicMock(name=name)
    module.__path__, module.__version__ = [], "0"
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules[name] = module


ENGINES = {"triforce": ours, "faster-whisper": faster_whisper, "whisperx": whisperx}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=sorted(ENGINES))
    parser.add_argument("recording", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    settings = parser.parse_args()
    waveform = np.load(settings.recording)
    run = ENGINES[settings.engine](settings)
    run(waveform[: 20 * RATE_HZ])
    cpu, wall = time.process_time(), time.perf_counter()
    segments = run(waveform)
    result = {
        "segments": segments,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    settings.result.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
