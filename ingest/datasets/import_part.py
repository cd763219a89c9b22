"""Utterances become a recording and its clips: decoded, scored, filtered, and written with the texts as they are."""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from triforce.ingest.asr.transcribe import TranscribeConfig, Transcriber
from triforce.ingest.clips.filters import drop_reason
from triforce.ingest.clips.make_clip import sound_clip
from triforce.ingest.clips.scores import score_audio
from triforce.ingest.corpus.records import (
    DATASET,
    PUBLISHED,
    RECOGNISER,
    SAMPLE_RATE_HZ,
    TRANSCRIPT,
    UTTERANCES,
    Clip,
    Recording,
    RejectReason,
    Status,
    Word,
    make_recording_id,
)
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.datasets.audio import Sound, read_sounds
from triforce.ingest.datasets.utterance import DatasetConfig, Embedded, Faulty, Utterance, split_hashes, utterance_hash

TOOLS = ("av", "soundfile", "soxr")
"""Packages whose versions are noted in each row."""
WHISPER_S = 30.0
"""Longest clip that is transcribed: Whisper's window."""


@dataclass(frozen=True)
class Part:
    """Utterances that become one recording."""

    name: str
    """The first one's id, which is the recording's source id."""
    utterances: tuple[Utterance, ...]
    faulty: tuple[Faulty, ...] = ()
    form: str = ""
    """The dataset's format."""
    page: str = ""
    """Address of the dataset."""


@dataclass
class Counts:
    """What became of utterances: numbers and seconds by reason; None is what was kept."""

    clips: Counter = field(default_factory=Counter)
    seconds: defaultdict[str | None, float] = field(default_factory=lambda: defaultdict(float))
    rejected: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """Of each reason of a rejection the first that was met."""
    known: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of another part to these."""
        self.clips.update(other.clips)
        for reason, seconds in other.seconds.items():
            self.seconds[reason] += seconds
        self.rejected.update(other.rejected)
        self.examples = other.examples | self.examples
        self.known += other.known

    @property
    def num_in(self) -> int:
        """Rows of the dataset that were looked at."""
        return self.known + self.clips.total() + self.rejected.total()


def import_part(part: Part, corpus: Corpus, config: DatasetConfig) -> Counts:
    """Write the recording of a part, its clips, and what was rejected; return the counts.

    The clips come first and the row last, so that a killed import does the part again. Raises only what is not the
    utterances' fault, as a full disk.
    """
    run = _Run(part, config)
    clips = run.clips()
    first = next(clips, None)
    if first is not None:
        corpus.write_clips(run.recording, _chained(first, clips))
    for row in run.rejections():
        _write_merged(corpus, row)
    if first is not None:
        corpus.write_recording(run.finished())
    return run.counts


def _chained(first: Clip, rest: Iterator[Clip]) -> Iterator[Clip]:
    yield first
    yield from rest


class _Run:
    """One part on its way to clips."""

    def __init__(self, part: Part, config: DatasetConfig):
        self._part, self._config = part, config
        self.counts = Counts()
        self._rejected: dict[RejectReason, dict[str, str]] = {}
        self._imported: list[Utterance] = []
        self._clips_s = 0.0
        self.recording = _recording(part, config)
        for item in part.faulty:
            self._reject(item.utterance_id, item.reason, item.detail)

    def clips(self) -> Iterator[Clip]:
        """Yield the clips in order: the files of the utterances stand one behind another."""
        base, last = 0, -1
        batch: list[tuple[int, Sound]] = []
        for sounds in read_sounds(self._part.utterances, self._config.max_utterance_s):
            end = base
            for sound in sorted(sounds, key=lambda sound: sound.start):
                if sound.problem is not None:
                    self._reject(sound.utterance.utterance_id, sound.problem.reason, sound.problem.detail)
                    continue
                start = max(base + sound.start, last + 1)  # two that begin together need ids of their own
                sound.samples = sound.samples[start - base - sound.start :]
                if not len(sound.samples):
                    self._reject(sound.utterance.utterance_id, RejectReason.TOO_SHORT, "no sample of its own")
                    continue
                last, end = start, max(end, start + len(sound.samples))
                batch.append((start, sound))
            base = end
            if self._is_full(batch):
                yield from self._finish(batch)
                batch = []
        yield from self._finish(batch)

    def finished(self) -> Recording:
        """The row, once all clips are written."""
        marks = "".join(utterance_hash(each.utterance_id) for each in self._imported)
        metadata = self.recording.metadata | {UTTERANCES: marks, "decoded_duration_s": f"{self._clips_s:.3f}"}
        return replace(self.recording, metadata=metadata, duration_s=self._clips_s)

    def rejections(self) -> Iterator[Recording]:
        """A row for each reason, that names each utterance with what was wrong; passing reasons leave none, so that the
        next import tries again."""
        for reason, found in self._rejected.items():
            if reason.transient:
                continue
            name = f"{self._part.name}!{reason}"
            marks = "".join(utterance_hash(each) for each in found)
            yield replace(
                self.recording,
                recording_id=make_recording_id(self._config.source, name),
                source_id=name,
                status=Status.REJECTED,
                reason=reason.value,
                detail=next(iter(found.values())),
                metadata=self.recording.metadata
                | {UTTERANCES: marks}
                | {f"utterance {key}": found[key] for key in found},
            )

    def _is_full(self, batch: Sequence[tuple[int, Sound]]) -> bool:
        if self._config.transcribe is None:
            return True
        return sum(len(sound.samples) for _, sound in batch) > self._config.transcribe.batch_size * 27 * SAMPLE_RATE_HZ

    def _finish(self, batch: Sequence[tuple[int, Sound]]) -> Iterator[Clip]:
        heard = _transcribed([sound for _, sound in batch], self._config)
        for start, sound in batch:
            yield self._clip(start, sound, heard.get(sound.utterance.utterance_id))

    def _clip(self, start: int, sound: Sound, heard: dict[str, Any] | None) -> Clip:
        said, length_s = sound.utterance, len(sound.samples) / SAMPLE_RATE_HZ
        text = said.text or ""
        columns: dict[str, Any] = score_audio(sound.samples) | {
            "text": text,
            "asr_model": TRANSCRIPT,
            "text_source": PUBLISHED if text.strip() else None,
            "words": said.words,
            "language": said.language or self._config.language,
        }
        columns |= heard or {}
        columns["chars_per_s"] = None if columns["text"] is None else len(columns["text"]) / length_s
        clip = sound_clip(
            self.recording,
            start,
            sound.samples,
            speaker=said.speaker or self._config.speaker,
            title=said.title or said.utterance_id,
            author=said.author,
            url=said.url or _address(said),
            licence=said.licence or self._config.licence,
            **columns,
        )
        reason = drop_reason(clip, self._config.filter)
        self.counts.clips[reason and str(reason)] += 1
        self.counts.seconds[reason and str(reason)] += length_s
        self._imported.append(said)
        self._clips_s += length_s
        return clip if reason is None else replace(clip, drop_reason=str(reason))

    def _reject(self, utterance_id: str, reason: RejectReason, detail: str) -> None:
        self._rejected.setdefault(reason, {})[utterance_id] = detail
        self.counts.rejected[reason.value] += 1
        self.counts.examples.setdefault(reason.value, f"{utterance_id}: {detail}")


def _recording(part: Part, config: DatasetConfig) -> Recording:
    return Recording(
        recording_id=make_recording_id(config.source, part.name),
        source=config.source,
        source_kind=DATASET,
        source_id=part.name,
        url=f"{part.page}#{quote(part.name)}",
        page_url=part.page,
        title=_common(each.group for each in part.utterances) or part.name,
        author=_common(each.author for each in part.utterances) or config.author,
        licence=_common(each.licence or config.licence for each in part.utterances),
        language=_common(each.language for each in part.utterances) or config.language,
        fetched_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tool_versions={name: version(name) for name in TOOLS},
        metadata={"format": part.form}
        | ({"split": split} if (split := _common(e.split for e in part.utterances)) else {}),
    )


def _common(values: Iterable[str | None]) -> str | None:
    """The value that all have, None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _address(utterance: Utterance) -> str:
    place = utterance.audio
    if isinstance(place, Embedded):
        return f"{Path(place.path).as_uri()}#{place.row_group}-{place.row}"
    uri = Path(place).as_uri()
    if utterance.start_s is None:
        return uri
    end = "" if utterance.duration_s is None else f",{utterance.start_s + utterance.duration_s:.3f}"
    return f"{uri}#t={utterance.start_s:.3f}{end}"


def _write_merged(corpus: Corpus, row: Recording) -> None:
    """Write what was rejected, with what an earlier import rejected under the same name."""
    try:
        before = corpus.read_recording(row.source, row.recording_id).metadata
    except FileNotFoundError:
        before = {}
    marks = [mark for found in (before, row.metadata) for mark in split_hashes(found.get(UTTERANCES, ""))]
    metadata = before | row.metadata | {UTTERANCES: "".join(dict.fromkeys(marks))}
    number = sum(key.startswith("utterance ") for key in metadata)
    corpus.write_recording(replace(row, title=f"{number} utterances", metadata=metadata))


def _transcribed(sounds: Sequence[Sound], config: DatasetConfig) -> dict[str, dict[str, Any]]:
    """What a recogniser writes of the utterances without a text, by their ids."""
    longest = WHISPER_S * SAMPLE_RATE_HZ
    silent = [each for each in sounds if not (each.utterance.text or "").strip() and len(each.samples) <= longest]
    if config.transcribe is None or not silent:
        return {}
    transcriber, waveforms = _transcriber(config.transcribe), [np.asarray(each.samples) for each in silent]
    hint = _common(each.utterance.language for each in silent) or config.language
    language, _ = transcriber.detect_language(waveforms, hint=hint)
    columns = (
        "text",
        "language",
        "language_probability",
        "avg_logprob",
        "no_speech_prob",
        "compression_ratio",
        "temperature",
    )
    return {
        each.utterance.utterance_id: {name: getattr(found, name) for name in columns}
        | {
            "words": tuple(Word(word.word, word.start_s, word.end_s, word.probability) for word in found.words),
            "asr_model": found.asr_model,
            "text_source": RECOGNISER,
        }
        for each, found in zip(silent, transcriber.transcribe(waveforms, language=language), strict=True)
    }


@lru_cache(maxsize=1)
def _transcriber(config: TranscribeConfig) -> Transcriber:
    """The recogniser of this process, loaded once."""
    return Transcriber(config)
