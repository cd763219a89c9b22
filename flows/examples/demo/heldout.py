"""The held-out prompts as a corpus of their own, with the text that a person wrote; all figures are measured on it."""

from __future__ import annotations

import dataclasses
import shutil

from triforce.flows.examples.demo.speech import Prompt, SpeechDataset
from triforce.ingest import storage
from triforce.ingest.asr.transcribe import TranscribeConfig, Transcriber
from triforce.ingest.clips.clip_recording import ClipConfig, clip_recording
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.make_clip import sound_clip
from triforce.ingest.clips.scores import score_audio
from triforce.ingest.corpus.records import (
    SAMPLE_RATE_HZ,
    TRANSCRIPT,
    Clip,
    DropReason,
    Recording,
    Status,
    make_recording_id,
)
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.samples import to_int16

SOURCE = "heldout"
SHORTEST_S = 1.0
"""Shortest clip, as in an evaluation, which leaves out shorter ones; training clips are longer."""
LONGEST_S = 25.0
"""Longest prompt that is one clip; Whisper takes 30 s at a time."""


def write_heldout(speech: SpeechDataset, corpus: Corpus, judge: str = "base") -> int:
    """Write every held-out prompt as recording and clips, leaving those that are there; return how many are kept.

    A prompt with a transcript is one clip. One without, or a long one, is cut, and transcribed by the Whisper model
    ``judge``. A prompt without words is kept with the drop reason ``no_text``.
    """
    done = corpus.clipped_ids(SOURCE)
    transcriber: Transcriber | None = None
    for prompt in speech.heldout:
        recording = _recording(prompt, speech)
        if recording.recording_id in done:
            continue
        if prompt.text is not None and prompt.duration_s <= LONGEST_S:
            corpus.write_recording(recording)
            corpus.write_clips(recording, [_clip(recording, prompt)])
            continue
        transcriber = transcriber or Transcriber(TranscribeConfig(model=judge))
        recording = _with_media(recording, prompt, corpus)
        corpus.write_recording(recording)
        config = ClipConfig(transcribe=transcriber.config, filter=FilterConfig(min_s=SHORTEST_S))
        clip_recording(recording, corpus, config, transcriber)
    return len(corpus.clips(["clip_id"], source=SOURCE, kept_only=True))


def _recording(prompt: Prompt, speech: SpeechDataset) -> Recording:
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


def _clip(recording: Recording, prompt: Prompt) -> Clip:
    samples = to_int16(prompt.waveform())
    return sound_clip(
        recording,
        0,
        samples,
        text=prompt.text or None,
        asr_model=TRANSCRIPT,
        language="en",
        chars_per_s=len(prompt.text or "") / (len(samples) / SAMPLE_RATE_HZ),
        speaker=recording.author,
        drop_reason=None if prompt.text else DropReason.NO_TEXT.value,
        **score_audio(samples),
    )


def _with_media(recording: Recording, prompt: Prompt, corpus: Corpus) -> Recording:
    """Put the prompt's file beside its row, as ingest does."""
    media_path = corpus.media_path(SOURCE, recording.recording_id, prompt.path.suffix.lower().lstrip("."))
    with storage.atomic_file(storage.join(corpus.uri, media_path)) as target:
        shutil.copyfile(prompt.path, target)
    return dataclasses.replace(recording, media_path=media_path)
