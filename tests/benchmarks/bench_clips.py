"""Clips against known truth: ours and faster-whisper's own batched pipeline on one recording, as one table.

    python tests/benchmarks/bench_clips.py --prompts FOLDER --texts TEXTS.gz --seconds 240

The prompts are Debian's: ``apt-get download asterisk-core-sounds-en-g722 asterisk-core-sounds-en``, unpacked by
``dpkg-deb -x``. Speeds are in seconds of recording by seconds of processor time, so a busy machine disturbs them
less.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jiwer
import numpy as np
import soxr
from known_speech import KnownRecording, build_recording, coverage, cuts_in_words, read_prompts

from triforce.ingest.clips import ClipConfig, cut_stream, encode_flac
from triforce.ingest.corpus import SAMPLE_RATE_HZ
from triforce.ingest.filters import FilterConfig, drop_reason
from triforce.ingest.scores import score_audio
from triforce.ingest.transcribe import TranscribeConfig, Transcriber

Result = tuple[list[tuple[int, int]], list[str]]
"""Spans in samples, and the text of each."""


def ours(recording: KnownRecording, transcriber: Transcriber) -> Result:
    samples = np.round(recording.waveform * 32_767).astype(np.int16)
    blocks = [samples[at : at + SAMPLE_RATE_HZ] for at in range(0, len(samples), SAMPLE_RATE_HZ)]
    cuts = list(cut_stream(blocks, ClipConfig()))
    transcripts = transcriber.transcribe([cut.samples for cut in cuts])
    spans, texts = [], []
    for cut, transcript in zip(cuts, transcripts, strict=True):
        encode_flac(cut.samples)
        row = {"text": transcript.text, "avg_logprob": transcript.avg_logprob, "words": None}
        row |= {"no_speech_prob": transcript.no_speech_prob, "compression_ratio": transcript.compression_ratio}
        row |= {"chars_per_s": len(transcript.text) / len(cut.samples) * SAMPLE_RATE_HZ} | score_audio(cut.samples)
        is_refused = drop_reason(row, FilterConfig(min_s=0, min_snr_db=-100, min_chars_per_s=2)) is not None
        spans.append((cut.span.start, cut.span.end))
        texts.append("" if is_refused else transcript.text)
    return spans, texts


def faster_whisper_batched(recording: KnownRecording, transcriber: Transcriber) -> Result:
    from faster_whisper import BatchedInferencePipeline

    config = transcriber.config
    waveform = soxr.resample(recording.waveform, SAMPLE_RATE_HZ, 16_000)
    segments, _ = BatchedInferencePipeline(transcriber._whisper).transcribe(
        waveform, language="en", beam_size=config.beam_size, batch_size=config.batch_size, word_timestamps=True
    )
    segments = list(segments)
    spans = [(round(one.start * SAMPLE_RATE_HZ), round(one.end * SAMPLE_RATE_HZ)) for one in segments]
    return spans, [one.text for one in segments]


def measure(name: str, run: Callable[[], Result], recording: KnownRecording) -> str:
    started = time.process_time()
    spans, texts = run()
    speed = len(recording.waveform) / SAMPLE_RATE_HZ / (time.process_time() - started)
    wer = jiwer.wer(_plain(recording.text), _plain(" ".join(texts)) or "-")
    false_chars = sum(
        len(text)
        for (start, end), text in zip(spans, texts, strict=True)
        if not any(start < b and a < end for a, b in recording.speech)
    )
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{name:26} {coverage(recording, spans):9.2%} {cuts_in_words(recording, spans):13d} {wer:7.2%} "
        f"{false_chars:11d} {speed:9.1f}x {peak_mb:9.0f}"
    )


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower().replace("-", " ")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    recording = build_recording(read_prompts(arguments.prompts, arguments.texts), arguments.seconds, arguments.seed)
    transcriber = Transcriber(TranscribeConfig(model=arguments.model, beam_size=arguments.beam_size))
    header = (
        f"{'':26} {'coverage':>9} {'cuts in words':>13} {'WER':>7} {'false chars':>11} {'speed':>10} {'peak MB':>9}"
    )
    sys.stdout.write(header + "\n")
    for name, run in (("triforce", ours), ("faster-whisper batched", faster_whisper_batched)):
        sys.stdout.write(measure(name, lambda run=run: run(recording, transcriber), recording) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
