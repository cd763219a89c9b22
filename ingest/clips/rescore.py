"""Scores that need models of their own, added to a finished corpus: speakers and DNSMOS.

Neither is part of an ingest, as both are optional and take longer than cutting; their scores lie beside the others, and
`triforce.ingest.clips.refilter.refilter` decides by them.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile
import soxr

from triforce.ingest.clips.dnsmos import DNSMOS
from triforce.ingest.clips.speakers import SpeakerConfig, SpeakerEncoder, cluster, conditioning, speaker_names
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.records import DATASET, Recording
from triforce.ingest.corpus.rewrite import replace_columns
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.speakers.link import link_speakers
from triforce.ingest.speakers.overlap import overlap_share

logger = logging.getLogger(__name__)

RATE_HZ = 16_000


@dataclass(frozen=True)
class Rescored:
    """Scores of one recording."""

    source: str
    recording_id: str
    num_clips: int
    num_speakers: int | None = None
    mean_dnsmos: float | None = None


def rescore(
    corpus: Corpus,
    *,
    voices: SpeakerConfig | None = None,
    dnsmos: bool = False,
    again: bool = False,
    source: str | None = None,
    on_recording: Callable[[Rescored], None] = lambda _: None,
) -> list[Rescored]:
    """Score every clip for its speaker, its quality or both, a recording at a time, each file written atomically.

    Then voices are compared across the recordings of each source (`link_speakers`). Recordings that have the scores are
    skipped, so a killed run goes on; ``again`` computes them again. Raises ImportError, with the command that installs
    it, where a model is not installed.
    """
    encoder = SpeakerEncoder() if voices else None
    quality = DNSMOS() if dnsmos else None
    results = []
    for name in [source] if source else corpus.sources():
        for recording_id in sorted(corpus.clipped_ids(name)):
            uri = corpus.clips_uri(name, recording_id)
            wanted = [column for column, on in (("voice", voices), ("dnsmos_ovrl", dnsmos)) if on]
            if not _is_speech(uri) or not (again or _lacks(uri, wanted)):
                continue
            columns = _score_clips(uri, encoder, quality)
            if voices:
                columns |= _speakers(uri, corpus.read_recording(name, recording_id), columns["voice"], voices)
            replace_columns(uri, columns)
            results.append(_summary(name, recording_id, columns))
            on_recording(results[-1])
        if voices and voices.across_recordings:  # also where nothing was left to score: it may have been killed here
            link_speakers(corpus, name, voices)
    return results


def _score_clips(uri: str, encoder: SpeakerEncoder | None, quality: DNSMOS | None) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for waveform in _waveforms(uri):
        if encoder is not None:
            voice = encoder(waveform)
            row: dict[str, Any] = {"voice": voice.embedding.tolist(), "voice_similarity": voice.similarity}
            row["overlap_share"] = overlap_share(waveform)
        else:
            row = {}
        if quality is not None:
            scores = quality(waveform, RATE_HZ)
            row |= {"dnsmos_ovrl": scores.overall, "dnsmos_sig": scores.signal, "dnsmos_bak": scores.background}
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns


def _speakers(uri: str, recording: Recording, voices: list[list[float]], config: SpeakerConfig) -> dict[str, list[Any]]:
    embeddings = np.asarray(voices, np.float32)
    rows = _read(uri, ["clip_id", "drop_reason", "speaker"])
    if recording.source_kind == DATASET and all(rows["speaker"]):  # the dataset knows who speaks in each clip
        labels = rows["speaker"]
        speakers = np.unique(labels, return_inverse=True)[1]
    else:
        stated = recording.metadata.get("reader") or recording.author
        speakers = cluster(embeddings, config)
        labels = speaker_names(speakers.tolist(), recording.recording_id, stated)
    usable = np.asarray([reason is None for reason in rows["drop_reason"]])
    best = conditioning(embeddings, speakers, usable, config.num_conditioning)
    return {
        "speaker": labels,
        "conditioning": [[rows["clip_id"][index] for index in indices] for indices in best],
    }


def _waveforms(uri: str) -> Iterator[np.ndarray]:
    """Each clip at 16 kHz, in order; a row group is in memory at a time."""
    with overlay.open_file(uri) as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            for audio in parquet.read_row_group(group, columns=["audio"])["audio"].to_pylist():
                waveform, rate_hz = soundfile.read(io.BytesIO(audio["bytes"]), dtype="float32")
                yield soxr.resample(waveform, rate_hz, RATE_HZ)


def _read(uri: str, columns: list[str]) -> dict[str, list[Any]]:
    with overlay.open_file(uri) as file:
        return pq.read_table(file, columns=columns, partitioning=None).to_pydict()


def _is_speech(uri: str) -> bool:
    """Whether the recording has clips, and none of them is music or a picture."""
    known = _columns(uri)
    clips = _read(uri, ["clip_id", *({"modality"} & known)])
    return bool(clips["clip_id"]) and not any(clips.get("modality", []))


def _lacks(uri: str, columns: list[str]) -> bool:
    if not set(columns) <= _columns(uri):
        return True
    return any(value is None for values in _read(uri, columns).values() for value in values)


def _columns(uri: str) -> set[str]:
    with overlay.open_file(uri) as file:
        return set(pq.read_schema(file).names)


def _summary(source: str, recording_id: str, columns: dict[str, list[Any]]) -> Rescored:
    speakers, scores = columns.get("speaker"), [score for score in columns.get("dnsmos_ovrl", []) if score is not None]
    return Rescored(
        source,
        recording_id,
        len(next(iter(columns.values()))),
        len(set(speakers)) if speakers else None,
        float(np.mean(scores)) if scores else None,
    )
