"""A corpus without speech recognition: harmonic sweeps with known text, for what reads corpora."""

from __future__ import annotations

import numpy as np

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, TRANSCRIPT, Clip, Media, Recording, Word, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.encode import encode_flac

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def sweep(duration_s: float, seed: int) -> np.ndarray:
    """``(N,)`` float32: a voice-like sound whose pitch and loudness wander."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    pitch = generator.uniform(90, 200) + 40 * np.sin(2 * np.pi * generator.uniform(0.5, 2) * time)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    loudness = 0.5 + 0.5 * np.sin(2 * np.pi * generator.uniform(1, 3) * time)
    return (0.1 * voice * loudness + 0.002 * generator.normal(size=time.shape)).astype(np.float32)


def add_recording(
    corpus: Corpus, source: str, source_id: str, num_clips: int, *, drop: int = 0, seed: int = 0, timed: bool = False
) -> list[str]:
    """Write a recording of ``num_clips`` clips of 1 to 3 s, the first ``drop`` of them dropped; the kept clips' ids.

    With ``timed`` their four words have times, a quarter of the clip each.
    """
    recording = Recording(
        make_recording_id(source, source_id), source, "podcast", source_id, f"http://127.0.0.1/{source_id}.mp3"
    )
    generator = np.random.default_rng([seed, num_clips])
    clips, start = [], 0
    for index in range(num_clips):
        waveform = sweep(generator.uniform(1, 3), seed * 1000 + index)
        chosen = generator.choice(WORDS, 4)
        quarter_s = len(waveform) / SAMPLE_RATE_HZ / 4
        words = tuple(Word(str(word), i * quarter_s, (i + 1) * quarter_s) for i, word in enumerate(chosen))
        clips.append(
            Clip.cut(
                recording,
                start,
                start + len(waveform),
                SAMPLE_RATE_HZ,
                audio=Media(encode_flac(waveform)),
                text=" ".join(chosen),
                words=words if timed else None,
                asr_model=TRANSCRIPT,
                speaker=f"speaker-{source_id}",
                drop_reason="quiet" if index < drop else None,
            )
        )
        start += len(waveform)
    corpus.write_recording(recording)
    corpus.write_clips(recording, clips)
    return [clip.clip_id for clip in clips if clip.drop_reason is None]
