"""The plan: which clip goes into which shard. It is decided before any work, and only ever added to.

Layout below a tokens URI: ``meta.json`` (dVAE, settings) and ``tokenizer.json``, written once;
``plan/part-000000.parquet`` for each run that found new clips; ``shard-000000.json`` and then ``shard-000000.tar`` for
each shard; ``index.json`` over all of them. A shard exists or it does not; there is no other state, so a run that was
killed at any moment continues by being run again.

Neither plan nor corpus is ever in memory: both are read in the order of recordings, side by side.

The plan says in which shard a clip belongs; the corpus says whether it is kept. A shard is up to date when it was made
of the very clips and texts that both name now. So clips that were taken out or filtered out leave their shard on the
next run, and only their shards are made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.corpus.clip_index import KeptClips, kept_clips
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.records import make_clip_id
from triforce.ingest.corpus.store import Corpus
from triforce.models.dvae import DVAE
from triforce.models.reading.front_end import front_end_kind, make_front_end
from triforce.models.release_files import TrainedNetwork, load_tokenizer_of
from triforce.models.text import clean_text
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.planning.plan_files import (
    PLAN_SCHEMA,
    ROW_GROUP_ROWS,
    PlannedClips,
    num_planned_shards,
    part_uris,
    planned_by_recording,
)
from triforce.tokenize.shards import load_tokenizer

ADDED = {"text": "bpe", "normalised": False, "refine_times": False}
"""Settings that came later, with what folders that do not name them have."""
FORMAT = 2
"""Version of the layout."""
TEXTS = 1_000_000
"""Texts that a text front end learns from: of a larger corpus, those of some recordings, evenly spread. Assumed."""


@dataclass(frozen=True)
class PlannedShard:
    """A shard that has clips."""

    tokens: str
    """URI of the folder whose plan says which."""
    index: int
    num_clips: int
    """Its clips that are kept now."""
    stamp: str
    """Changes with the clip files that it is made of; empty where one of them is too young to tell."""


def open_tokens(config: TokenizeConfig, dvae: TrainedNetwork[DVAE]) -> dict:
    """Return ``meta.json`` of the tokens folder, which the first run writes.

    Raises ValueError for a folder that was begun with another dVAE or other settings, and where no clip is kept.
    """
    meta_uri = storage.join(config.tokens, "meta.json")
    given = None if config.init_from is None else load_tokenizer_of(config.init_from)
    text, normalised = (config.text, config.normalised) if given is None else front_end_kind(given)
    wanted = {
        "format": FORMAT,
        "dvae_hash": dvae.codes_hash,
        "clips_per_shard": config.clips_per_shard,
        "num_codes": dvae.model.config.num_codes,
        "text": text,
        "normalised": normalised,
        "refine_times": config.refine_times,
    }
    if config.refine_times and text == "bpe":
        raise ValueError(f"refine_times: {config.init_from} reads by bpe, which keeps no words apart; leave it out")
    if storage.exists(meta_uri):
        meta = read_meta(config.tokens)
        for key, value in wanted.items():
            begun = meta.get(key, ADDED.get(key))
            if begun != value:
                raise ValueError(
                    f"{config.tokens}: begun with {key} {begun}, this run has {value}; shards of both would not belong "
                    "together. Use another tokens folder, or remove this one"
                )
        if given is not None and given.to_json() != load_tokenizer(config.tokens).to_json():
            raise ValueError(
                f"{config.tokens}: begun with another text front end than init_from {config.init_from} has; use "
                "another tokens folder"
            )
        return meta
    modality = modality_of(dvae.card)
    corpus = Corpus(config.corpus)
    num_kept = sum(len(clips.starts) for clips in kept_clips(corpus, modality))
    if not num_kept:
        raise ValueError(f"{config.corpus}: no {modality} clip to keep; run `triforce ingest`, or loosen the filters")
    cleaned = (clean_text(text or "") for text in kept_texts(corpus, modality, every=-(-num_kept // TEXTS)))
    size = config.text_vocabulary_size
    tokenizer = given or make_front_end(config.text, cleaned, size, normalised=config.normalised)
    storage.write_bytes(storage.join(config.tokens, "tokenizer.json"), tokenizer.to_json().encode())
    meta = {key: value for key, value in wanted.items() if key not in ADDED or value != ADDED[key]} | {
        "modality": modality,
        "compression": list(dvae.model.config.compression),
        "text_vocabulary_size": tokenizer.size,
    }
    storage.write_bytes(meta_uri, json.dumps(meta, indent=1, sort_keys=True).encode())
    return meta


def read_meta(tokens: str) -> dict:
    """Return ``meta.json``; raises FileNotFoundError where no run began this folder."""
    uri = storage.join(tokens, "meta.json")
    if not storage.exists(uri):
        raise FileNotFoundError(f"{tokens}: no meta.json here; give a folder that `triforce tokenize` wrote")
    return json.loads(storage.read_bytes(uri))


def modality_of(card: dict) -> str:
    """Return the medium that a dVAE is for, by its card."""
    return card.get("modality") or "speech"


def kept_texts(corpus: Corpus, modality: str, *, every: int = 1) -> Iterator[str | None]:
    """Yield the texts of the kept clips of a medium, in the order of the plan, of each ``every``-th recording."""
    for number, clips in enumerate(kept_clips(corpus, modality)):
        if number % every == 0:
            uri = corpus.clips_uri(clips.source, clips.recording_id)
            with overlay.open_file(uri) as file, pq.ParquetFile(file) as parquet:
                table = parquet.read(columns=["clip_id", "text"], use_threads=False).to_pydict()
            texts = dict(zip(table["clip_id"], table["text"], strict=True))
            yield from (texts[make_clip_id(clips.recording_id, start)] for start in np.sort(clips.starts).tolist())


def extend_plan(config: TokenizeConfig) -> list[PlannedShard]:
    """Plan the kept clips that are in no shard yet, and return all shards that have clips; call `open_tokens` first.

    A killed run leaves the plan as it was, or whole.
    """
    first, parts = num_planned_shards(config.tokens), part_uris(config.tokens)
    uri = storage.join(config.tokens, "plan", f"part-{len(parts):06d}.parquet")
    with contextlib.ExitStack() as stack:
        writer = _PartWriter(uri, first, config.clips_per_shard, stack)
        return planned_shards(config.tokens, Corpus(config.corpus), writer.add)


def planned_shards(
    tokens: str, corpus: Corpus, unplanned: Callable[[KeptClips, np.ndarray], np.ndarray]
) -> list[PlannedShard]:
    """Return the shards that have clips, by the plan and by what is kept now.

    ``unplanned`` is told of each recording with kept clips that are not planned, with the first samples ``(N,)`` of
    these, and returns the shards that they go into, if any.
    """
    census = _Census(tokens)
    for clips, planned in _side_by_side(kept_clips(corpus, read_meta(tokens)["modality"]), tokens):
        starts = np.sort(clips.starts)
        new = starts[~np.isin(starts, np.concatenate([part.starts for part in planned]))] if planned else starts
        for part in planned:
            census.add(clips, part.shards[np.isin(part.starts, starts)])
        if len(new):
            census.add(clips, unplanned(clips, new))
    return census.shards()


def _side_by_side(kept: Iterator[KeptClips], tokens: str) -> Iterator[tuple[KeptClips, list[PlannedClips]]]:
    """Yield each recording's kept clips with what is planned of them, in one pass over both."""
    planned = planned_by_recording(tokens)
    waiting = next(planned, None)
    for clips in kept:
        key, found = (clips.source, clips.recording_id), []
        while waiting is not None and waiting[:2] <= key:
            if waiting[:2] == key:
                found.append(waiting)
            waiting = next(planned, None)
        yield clips, found


class _PartWriter:
    """Writes a part of the plan, from the first new clip on; without any there is none."""

    def __init__(self, uri: str, first_shard: int, clips_per_shard: int, stack: contextlib.ExitStack) -> None:
        self._uri, self._first, self._clips_per_shard, self._stack = uri, first_shard, clips_per_shard, stack
        self._writer: pq.ParquetWriter | None = None
        self._batches: list[pa.RecordBatch] = []
        self._num_clips = 0

    def add(self, clips: KeptClips, starts: np.ndarray) -> np.ndarray:
        """Plan clips of a recording, by their first samples; return their shards ``(N,)``."""
        if self._writer is None:
            path = self._stack.enter_context(storage.atomic_file(self._uri))
            self._writer = self._stack.enter_context(pq.ParquetWriter(path, PLAN_SCHEMA))
            self._stack.callback(self._flush)
        shards = self._first + (self._num_clips + np.arange(len(starts))) // self._clips_per_shard
        self._num_clips += len(starts)
        ids = [make_clip_id(clips.recording_id, start) for start in starts.tolist()]
        names = ([name] * len(ids) for name in (clips.recording_id, clips.source))
        columns = [pa.array(shards, pa.int32()), pa.array(ids), *map(pa.array, names)]
        self._batches.append(pa.RecordBatch.from_arrays(columns, schema=PLAN_SCHEMA))
        if sum(map(len, self._batches)) >= ROW_GROUP_ROWS:
            self._flush()
        return shards

    def _flush(self) -> None:
        if self._writer is not None and self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches))
            self._batches = []


class _Census:
    """Counts the kept clips of each shard, and notes of which files they are."""

    def __init__(self, tokens: str) -> None:
        self._tokens = tokens
        self._counts: dict[int, int] = {}
        self._stamps: dict[int, bytes] = {}

    def add(self, clips: KeptClips, shards: np.ndarray) -> None:
        """Count clips of a recording in their shards ``(N,)``."""
        for shard, count in zip(*(each.tolist() for each in np.unique(shards, return_counts=True)), strict=True):
            self._counts[shard] = self._counts.get(shard, 0) + count
            line = f"{clips.source}/{clips.recording_id} {clips.stamp}".encode()
            before = self._stamps.get(shard, b"-")
            joined = hashlib.blake2b(before + line, digest_size=16).digest()
            self._stamps[shard] = joined if clips.stamp and before else b""

    def shards(self) -> list[PlannedShard]:
        """The shards that have clips."""
        return [
            PlannedShard(self._tokens, shard, count, self._stamps[shard].hex())
            for shard, count in sorted(self._counts.items())
        ]
