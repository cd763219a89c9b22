"""The held-out prompts as a corpus of their own, with the text a person wrote: what every figure is measured on."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np

from triforce.flows.examples.demo.speech import Prompt, Speech
from triforce.ingest import storage
from triforce.ingest.asr.transcribe import TranscribeConfig, Transcriber
from triforce.ingest.clips.clip_recording import ClipConfig, clip_recording, encode_flac
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.scores import score_audio
from triforce.ingest.corpus.schema import SAMPLE_RATE_HZ, DropReason, Recording, Status, make_clip_id, make_recording_id
from triforce.ingest.corpus.store import Corpus

SOURCE = "heldout"
TRANSCRIPT = "transcript"
"""In place of a recogniser's name, where a person wrote the text."""
SHORTEST_S = 1.0
"""As in an evaluation, which leaves out what is shorter; for training clips are longer."""
LONGEST_S = 25.0
"""A prompt up to this is one clip; the judge hears 30 s at a time."""


def write_heldout(speech: Speech, corpus: Corpus, judge: str = "base") -> int:
    """Write every held-out prompt as recording and clips, leaving those that are there; how many clips are to be used.

    A prompt with a transcript is one clip. One without, or a long one, is cut, and transcribed by the Whisper model
    ``judge``. A prompt in which nothing is said stays with the reason ``no_text``.
    """
    done = corpus.clipped_ids(SOURCE)
    transcriber: Transcriber | None = None
    for prompt in speech.heldout:
        recording = _recording(prompt, speech)
        if recording.recording_id in done:
            continue
        if prompt.text is not None and prompt.duration_s <= LONGEST_S:
            corpus.write_recording(recording)
            corpus.write_clips(recording, [_row(recording, prompt)])
            continue
        transcriber = transcriber or Transcriber(TranscribeConfig(model=judge))
        recording = _with_media(recording, prompt, corpus)
        corpus.write_recording(recording)
        config = ClipConfig(transcribe=transcriber.config, filter=FilterConfig(min_s=SHORTEST_S))
        clip_recording(recording, corpus, config, transcriber)
    return len(corpus.clips(["clip_id"], source=SOURCE, kept_only=True))


def _recording(prompt: Prompt, speech: Speech) -> Recording:
    return Recording(
        recording_id=make_recording_id(SOURCE, prompt.name),
        source=SOURCE,
        source_kind="file",
        source_id=prompt.name,
        url=prompt.path.absolute().as_uri(),
        title=prompt.name,
        author=speech.author,
        collection=speech.origin,
        licence=speech.licence,
        language="en",
        duration_s=prompt.duration_s,
        num_bytes=prompt.path.stat().st_size,
        sha256=storage.sha256_of(prompt.path),
        status=Status.FETCHED,
    )


def _row(recording: Recording, prompt: Prompt) -> dict:
    waveform = np.round(prompt.waveform().clip(-1, 1) * 32767).astype(np.int16)
    duration_s = len(waveform) / SAMPLE_RATE_HZ
    return {
        "clip_id": make_clip_id(recording.recording_id, 0),
        "start_sample": 0,
        "end_sample": len(waveform),
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "duration_s": duration_s,
        "audio": {"bytes": encode_flac(waveform), "path": None},
        "text": prompt.text or None,
        "asr_model": TRANSCRIPT,
        "language": "en",
        "chars_per_s": len(prompt.text) / duration_s,
        "speaker": recording.author,
        "drop_reason": None if prompt.text else DropReason.NO_TEXT.value,
    } | score_audio(waveform)


def _with_media(recording: Recording, prompt: Prompt, corpus: Corpus) -> Recording:
    """The prompt's file beside its row, as ingest leaves it."""
    media_path = corpus.media_path(SOURCE, recording.recording_id, prompt.path.suffix.lower().lstrip("."))
    with storage.atomic_file(storage.join(corpus.uri, media_path)) as target:
        shutil.copyfile(prompt.path, target)
    return dataclasses.replace(recording, media_path=media_path)
