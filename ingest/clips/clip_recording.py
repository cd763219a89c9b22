"""A recording becomes clips: decoded, cut in silence, transcribed, scored, filtered, and written in one atomic file.

Everything streams: one batch of clips for the transcriber is in memory at a time, whatever the recording's length.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from triforce.ingest import storage
from triforce.ingest.align.config import AlignConfig
from triforce.ingest.align.prefer import prefer_published
from triforce.ingest.asr.transcribe import TranscribeConfig, Transcriber, Transcript
from triforce.ingest.clips.cut import CutConfig, Cutter, Span
from triforce.ingest.clips.filters import FilterConfig, drop_reason
from triforce.ingest.clips.make_clip import sound_clip
from triforce.ingest.clips.scores import score_audio
from triforce.ingest.clips.vad import Smoother, VadConfig, detect
from triforce.ingest.corpus.records import (
    CLIP_TRIES,
    RECOGNISER,
    SAMPLE_RATE_HZ,
    Clip,
    Recording,
    RejectReason,
    Status,
    Word,
)
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.media.decode import decode

logger = logging.getLogger(__name__)

MAX_TRIES = 3
"""Runs that meet an error which is not put down to the recording, before it is rejected for good. Assumed."""


class ClipConfig(BaseModel):
    """All settings from a media file to its clips."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vad: VadConfig = Field(default_factory=VadConfig, description="Where speech is.")
    cut: CutConfig = Field(default_factory=CutConfig, description="Where clips begin and end.")
    transcribe: TranscribeConfig = Field(default_factory=TranscribeConfig, description="What is said.")
    align: AlignConfig = Field(default_factory=AlignConfig, description="Which transcripts are preferred to it.")
    filter: FilterConfig = Field(default_factory=FilterConfig, description="Which clips are for training.")
    max_recording_s: float = Field(
        24 * 3600.0, gt=0, description="Longer recordings are refused once that much is decoded, seconds."
    )


@dataclass(frozen=True)
class ClipSummary:
    """What became of one recording."""

    recording_id: str
    status: str
    reason: str | None = None
    """Why it was rejected, a `RejectReason`."""
    detail: str | None = None
    num_clips: int = 0
    num_kept: int = 0
    recording_s: float = 0.0
    """Decoded length, seconds."""
    clips_s: float = 0.0
    kept_s: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)
    """Dropped clips by `DropReason`."""
    wall_s: float = 0.0


def clip_recording(
    recording: Recording,
    corpus: Corpus,
    config: ClipConfig,
    transcriber: Transcriber | None,
    progress: Callable[[float], None] | None = None,
) -> ClipSummary:
    """Write the clips of a fetched recording; a file that gives none is put on record as rejected, and raises nothing.

    ``transcriber`` may be None: then clips have no text and no scores of it. ``progress`` is called with the seconds
    of the recording that are done. Raises only what is not the recording's fault: a full disk, a missing media file.
    Running it again gives the same bytes. A transient rejection leaves it to a later run, `MAX_TRIES` times in all.
    """
    if not recording.media_path:
        raise ValueError(f"recording {recording.recording_id} has no media file: fetch it first")
    started = time.monotonic()
    run = _Run(recording, config, transcriber, progress)
    try:
        with _local_file(corpus, recording.media_path) as path:
            clips = prefer_published(run.clips(path), recording, corpus, config.align)
            num_clips = corpus.write_clips(recording, run.judged(clips))
    except Rejected as error:
        return _reject(recording, corpus, error, started)
    if not storage.exists(storage.join(corpus.uri, recording.media_path)):
        return _taken_down(recording, corpus, started)
    if not num_clips:
        return _reject(recording, corpus, Rejected(RejectReason.NO_SPEECH, "nobody speaks in it"), started)
    return dataclasses.replace(run.summary(), wall_s=time.monotonic() - started)


def _taken_down(recording: Recording, corpus: Corpus, started: float) -> ClipSummary:
    """Remove the clips of a recording that was removed while it was cut."""
    storage.remove(corpus.clips_uri(recording.source, recording.recording_id))
    detail = "removed while it was cut"
    logger.warning("recording %s of %s: %s", recording.recording_id, recording.source, detail)
    return ClipSummary(
        recording.recording_id,
        Status.REJECTED,
        RejectReason.FORBIDDEN.value,
        detail,
        wall_s=time.monotonic() - started,
    )


def _reject(recording: Recording, corpus: Corpus, error: Rejected, started: float) -> ClipSummary:
    """Put the recording on record as rejected; an empty clip file marks it as done, unless a later run may differ."""
    if not storage.exists(storage.join(corpus.uri, recording.media_path or "")):
        return _taken_down(recording, corpus, started)
    logger.warning("recording %s of %s: %s: %s", recording.recording_id, recording.source, error.reason, error.detail)
    if error.reason.transient:
        tries = int(recording.metadata.get(CLIP_TRIES, "0")) + 1
        if tries < MAX_TRIES:
            counted = recording.metadata | {CLIP_TRIES: str(tries)}
            corpus.write_recording(dataclasses.replace(recording, metadata=counted, detail=error.detail))
            return ClipSummary(
                recording.recording_id,
                Status.REJECTED,
                str(error.reason),
                error.detail,
                wall_s=time.monotonic() - started,
            )
        error = Rejected(RejectReason.UNDECODABLE, f"{error.detail}; given up after {tries} runs")
    corpus.write_recording(
        dataclasses.replace(recording, status=Status.REJECTED, reason=str(error.reason), detail=error.detail)
    )
    corpus.write_clips(recording, [])
    return ClipSummary(
        recording.recording_id, Status.REJECTED, str(error.reason), error.detail, wall_s=time.monotonic() - started
    )


@contextlib.contextmanager
def _local_file(corpus: Corpus, media_path: str) -> Iterator[Path]:
    """The media file on a local disk: itself, or a temporary copy of one in an object store."""
    uri = storage.join(corpus.uri, media_path)
    fs, path = storage.resolve(uri)
    if storage.is_local(uri):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="triforce-") as folder:
        target = Path(folder) / path.rsplit("/", 1)[-1]
        with fs.open(path, "rb") as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        yield target


@dataclass(frozen=True)
class Cut:
    """A stretch of speech before it is a clip."""

    span: Span
    samples: np.ndarray
    """``(N,) int16`` at the corpus rate."""


class _Run:
    """One recording on its way to clips."""

    def __init__(
        self,
        recording: Recording,
        config: ClipConfig,
        transcriber: Transcriber | None,
        progress: Callable[[float], None] | None,
    ):
        self._recording, self._config, self._transcriber = recording, config, transcriber
        self._progress = progress or (lambda seconds: None)
        self._speaker = recording.metadata.get("reader") or recording.author
        self._language: str | None = None
        self._num_samples = 0
        self._clips_s = self._kept_s = 0.0
        self._reasons: Counter[str | None] = Counter()

    def clips(self, path: Path) -> Iterator[Clip]:
        for batch in self._batches(cut_stream(self._count(decode(path)), self._config)):
            transcripts = self._transcribe([cut.samples for cut in batch])
            for cut, transcript in zip(batch, transcripts, strict=True):
                yield self._clip(cut, transcript)
            self._progress(batch[-1].span.end / SAMPLE_RATE_HZ)

    def judged(self, clips: Iterable[Clip]) -> Iterator[Clip]:
        """Yield the clips with the reasons why they are dropped, and count them."""
        for clip in clips:
            reason = drop_reason(clip, self._config.filter)
            self._reasons[reason and str(reason)] += 1
            self._clips_s += clip.duration_s
            self._kept_s += 0.0 if reason else clip.duration_s
            yield clip if reason is None else dataclasses.replace(clip, drop_reason=str(reason))

    def summary(self) -> ClipSummary:
        return ClipSummary(
            self._recording.recording_id,
            Status.FETCHED,
            num_clips=self._reasons.total(),
            num_kept=self._reasons[None],
            recording_s=self._num_samples / SAMPLE_RATE_HZ,
            clips_s=self._clips_s,
            kept_s=self._kept_s,
            dropped={reason: count for reason, count in sorted(self._reasons.items(), key=str) if reason},
        )

    def _count(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        limit = self._config.max_recording_s * SAMPLE_RATE_HZ
        for block in blocks:
            self._num_samples += len(block)
            if self._num_samples > limit:
                raise Rejected(
                    RejectReason.TOO_LONG, f"longer than {self._config.max_recording_s:.0f} s (max_recording_s)"
                )
            yield block

    def _batches(self, cuts: Iterable[Cut]) -> Iterator[list[Cut]]:
        """Yield as much audio as the transcriber takes at a time."""
        limit = self._transcriber.config.batch_size * 27 * SAMPLE_RATE_HZ if self._transcriber else 0
        batch: list[Cut] = []
        held = 0
        for cut in cuts:
            batch.append(cut)
            held += len(cut.samples)
            if held >= limit:
                yield batch
                batch, held = [], 0
        if batch:
            yield batch

    def _transcribe(self, clips: list[np.ndarray]) -> list[Transcript | None]:
        if self._transcriber is None:
            return [None] * len(clips)
        if self._language is None:
            self._language, _ = self._transcriber.detect_language(clips, hint=self._recording.language)
        return list(self._transcriber.transcribe(clips, language=self._language))

    def _clip(self, cut: Cut, transcript: Transcript | None) -> Clip:
        columns: dict[str, Any] = score_audio(cut.samples) | {"cut_blind": cut.span.is_blind, "speaker": self._speaker}
        if transcript is not None and self._transcriber is not None:
            heard = dataclasses.asdict(transcript)
            columns |= heard | {
                "words": tuple(Word(**word) for word in heard["words"]),
                "text_source": RECOGNISER if transcript.text is not None else None,
                "chars_per_s": _chars_per_s(transcript.text, len(cut.samples) / SAMPLE_RATE_HZ),
            }
        return sound_clip(self._recording, cut.span.start, cut.samples, **columns)


def cut_stream(blocks: Iterable[np.ndarray], config: ClipConfig) -> Iterator[Cut]:
    """Yield the stretches of speech in a stream of ``(N,) int16`` blocks at the corpus rate, in order."""
    smoother, cutter = Smoother(config.vad), Cutter(config.cut)
    held = _Held()
    levels = np.zeros(0, np.float32)
    for frames in detect(blocks, config.vad):
        held.append(frames.samples)
        is_speech = smoother.push(frames.is_voiced)
        levels = np.concatenate([levels, frames.level_db])
        for span in cutter.push(is_speech, levels[: len(is_speech)]):
            yield Cut(span, held.slice(span.start, span.end))
        levels = levels[len(is_speech) :]
        held.forget(cutter.needed_from)
    is_speech = smoother.finish()
    spans = [*cutter.push(is_speech, levels[: len(is_speech)]), *cutter.finish(held.end)]
    yield from (Cut(span, held.slice(span.start, span.end)) for span in spans)


def _chars_per_s(text: str | None, duration_s: float) -> float | None:
    return None if text is None else len(text) / duration_s


class _Held:
    """The samples that a later clip may still need."""

    def __init__(self) -> None:
        self._blocks: deque[np.ndarray] = deque()
        self._start = self.end = 0

    def append(self, block: np.ndarray) -> None:
        self._blocks.append(block)
        self.end += len(block)

    def slice(self, start: int, end: int) -> np.ndarray:
        return np.concatenate(self._blocks)[start - self._start : end - self._start]

    def forget(self, before: int) -> None:
        while self._blocks and self._start + len(self._blocks[0]) <= before:
            self._start += len(self._blocks.popleft())
