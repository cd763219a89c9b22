"""The same voice in several recordings of a source gets one name.

Within a recording `triforce.ingest.clips.speakers` has told the voices apart. Here each of them is one vector, the mean
of its clips by their length, and the voices of a source are grouped as the clips of a recording were.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from triforce.ingest.clips.speakers import SpeakerConfig
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.records import DATASET, Recording
from triforce.ingest.corpus.rewrite import replace_columns
from triforce.ingest.corpus.store import Corpus

MAX_GROUPED = 4000
"""Voices that are grouped by all their similarities, in 130 MB; those of fewer seconds join the nearest group."""
GENERATED = re.compile(r".+#\d+")
"""Names that are made here and not stated by a source."""


@dataclass(frozen=True)
class Voice:
    """A speaker of one recording."""

    recording_id: str
    label: str
    """As the clips have it."""
    seconds: float
    embedding: np.ndarray
    """``(D,) float32``, a unit vector."""
    is_certain: bool = False
    """Whether the source states this very name for who speaks, as a library of audiobooks its reader."""


def link_speakers(corpus: Corpus, source: str, config: SpeakerConfig) -> int:
    """Give the clips of a source one name for each voice, whatever recording they are of; return the number of voices.

    Recordings without embeddings are left alone, and so are datasets, which know who speaks. Only files whose names
    change are written, each atomically.
    """
    voices: list[Voice] = []
    for recording_id in sorted(corpus.clipped_ids(source)):
        recording = corpus.read_recording(source, recording_id)
        if recording.source_kind != DATASET:
            voices += _voices_of(corpus, recording)
    names = name_voices(voices, group_voices(voices, config))
    renamed: dict[str, dict[str, str]] = defaultdict(dict)
    for voice, name in zip(voices, names, strict=True):
        if name != voice.label:
            renamed[voice.recording_id][voice.label] = name
    for recording_id, changes in renamed.items():
        uri = corpus.clips_uri(source, recording_id)
        labels = _read(uri, ["speaker"])["speaker"]
        replace_columns(uri, {"speaker": [changes.get(label, label) for label in labels]})
    return len(set(names))


def group_voices(voices: list[Voice], config: SpeakerConfig) -> np.ndarray:
    """Return the group of each voice, ``(V,) int``: voices that are similar on average, the most similar first."""
    if len(voices) < 2:
        return np.zeros(len(voices), int)
    from scipy.cluster.hierarchy import fcluster, linkage

    embeddings = np.stack([voice.embedding for voice in voices]).astype(np.float64)
    order = np.argsort([-voice.seconds for voice in voices], kind="stable")
    first = order[:MAX_GROUPED]
    groups = np.zeros(len(voices), int)
    tree = linkage(embeddings[first], method="average", metric="cosine")
    groups[first] = fcluster(tree, 1.0 - config.min_linked_similarity, criterion="distance")
    if len(order) > len(first):
        found = np.unique(groups[first])
        means = np.stack([embeddings[first][groups[first] == group].mean(axis=0) for group in found])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        for index in order[MAX_GROUPED:]:
            similarity = means @ embeddings[index]
            best = int(np.argmax(similarity))
            is_near = similarity[best] >= config.min_linked_similarity
            groups[index] = found[best] if is_near else groups.max() + 1
    return groups


def name_voices(voices: list[Voice], groups: np.ndarray) -> list[str]:
    """Return a name for each voice.

    A name that is certain stays. Else a group has the name that the source states for most of its seconds, unless
    another group has more seconds of that name: an author is the author of all recordings, and one of their voices. A
    group without a name has that of its first voice in the order of recordings.
    """
    own = [_own_name(voices, at) for at in range(len(voices))]
    seconds: dict[tuple[str, int], float] = defaultdict(float)
    for voice, group in zip(voices, groups.tolist(), strict=True):
        if not GENERATED.fullmatch(voice.label):
            seconds[voice.label, group] += voice.seconds
    by_group: dict[int, str] = {}
    taken: set[str] = set()
    for (label, group), _ in sorted(seconds.items(), key=lambda item: (-item[1], item[0])):
        if group not in by_group and label not in taken:
            by_group[group] = label
            taken.add(label)
    for at, group in sorted(enumerate(groups.tolist()), key=lambda item: own[item[0]]):
        by_group.setdefault(group, own[at])
    return [
        voice.label if voice.is_certain else by_group[group]
        for voice, group in zip(voices, groups.tolist(), strict=True)
    ]


def _own_name(voices: list[Voice], at: int) -> str:
    """The name of a voice by its recording, where it is not stated."""
    voice = voices[at]
    return voice.label if GENERATED.fullmatch(voice.label) else f"{voice.recording_id}#0"


def _voices_of(corpus: Corpus, recording: Recording) -> list[Voice]:
    uri = corpus.clips_uri(recording.source, recording.recording_id)
    rows = _read(uri, ["speaker", "voice", "duration_s"])
    if not rows.get("voice") or not all(rows["speaker"]) or any(voice is None for voice in rows["voice"]):
        return []
    reader = recording.metadata.get("reader")
    embeddings, lengths = np.asarray(rows["voice"], np.float32), np.asarray(rows["duration_s"], np.float32)
    labels = np.asarray(rows["speaker"])
    voices = []
    for label in sorted(set(rows["speaker"])):
        here = labels == label
        mean = (embeddings[here] * lengths[here, None]).sum(axis=0)
        length = float(np.linalg.norm(mean))
        if length > 0:
            certain = label == reader and ";" not in label
            voices.append(
                Voice(recording.recording_id, label, float(lengths[here].sum()), mean / length, is_certain=certain)
            )
    return voices


def _read(uri: str, columns: list[str]) -> dict[str, list]:
    with overlay.open_file(uri) as file, pq.ParquetFile(file) as parquet:
        known = [name for name in columns if name in parquet.schema_arrow.names]
        return parquet.read(columns=known).to_pydict()
