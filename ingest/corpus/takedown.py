"""Remove recordings from a corpus for good, and everything that was derived from them."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from triforce.ingest import ledger, storage
from triforce.ingest.clips.marks import remove_marks
from triforce.ingest.clips.score_index import score_index
from triforce.ingest.corpus.clip_index import clip_index
from triforce.ingest.corpus.packs.change import remove_files, replace_packed
from triforce.ingest.corpus.records import UTTERANCES, Recording, RejectReason, Status
from triforce.ingest.corpus.shard_names import shard_name, shard_stem, stale_mark
from triforce.ingest.corpus.stats import clips_of, files_by_recording, recording_index
from triforce.ingest.corpus.store import Corpus, recording_file
from triforce.ingest.locks import maintenance


@dataclass(frozen=True)
class Removal:
    """What a takedown removed."""

    recordings: list[Recording]
    num_clips: int
    num_bytes: int
    stale_shards: list[str]
    """Shards that hold samples of what was removed: `triforce tokenize` makes them again."""


def remove(
    corpus: Corpus,
    recordings: Iterable[Recording],
    *,
    tokens: str | None = None,
    forget: bool = False,
    dry_run: bool = False,
) -> Removal:
    """Remove recordings: media, transcripts, clips, marks, and what was remembered of them.

    Shards at ``tokens`` with samples of theirs are marked stale. Each recording leaves a row that says when it was
    removed and nothing else, but for hashes of a dataset's utterances: it keeps a later sync or import from bringing
    the same again, also from another address. With ``forget`` no such row is left. Packs that hold a recording are
    written again without it. A killed removal is finished by running it again: the row, by which recordings are found,
    is removed last, when nothing that is remembered of the recording is left.
    """
    chosen = list(recordings)
    stale = mark_stale(tokens, {item.recording_id for item in chosen}, dry_run=dry_run) if tokens else []
    num_clips = 0
    for source in sorted({item.source for item in chosen}):
        ours = [item for item in chosen if item.source == source]
        tables = (clips_of(corpus, recording, ["clip_id"]) for recording in ours)
        num_clips += sum(clips.num_rows for clips in tables if clips is not None)
        if not dry_run:
            _remove_all(corpus, source, ours, forget=forget)
    return Removal(chosen, num_clips, sum(item.num_bytes or 0 for item in chosen), stale)


def _remove_all(corpus: Corpus, source: str, recordings: list[Recording], *, forget: bool) -> None:
    """Remove recordings of one source, their rows last."""
    files, ids = files_by_recording(corpus, source), {item.recording_id for item in recordings}
    with maintenance(corpus.uri):
        remove_files(storage.join(corpus.uri, "clips", f"source={source}"), {f"{one}.parquet" for one in ids})
        for recording_id in sorted(ids):
            for name in files.get(recording_id, []):
                storage.remove(storage.join(corpus.uri, "recordings", f"source={source}", name))
            ledger.discard_partial(corpus, recording_id)
        remove_marks(corpus, source, ids)
        _forget_pending(corpus, source, ids)
        for index in (recording_index(corpus, source), clip_index(corpus, source), score_index(corpus, source)):
            index.purge(also=ids)
        storage.remove(storage.join(corpus.uri, "state", "browse"), recursive=True)  # the same, as a page reads it
        storage.remove(storage.join(corpus.uri, "state", f"source={source}", "transcripts"), recursive=True)
        _remove_rows(corpus, source, recordings, forget=forget)
        recording_index(corpus, source).purge()  # of who looked meanwhile
        if forget:
            ledger.forget_pages(corpus, source)  # an unchanged feed would count as read, and never yield them


def _remove_rows(corpus: Corpus, source: str, recordings: list[Recording], *, forget: bool) -> None:
    """Replace rows by tombstones, or remove them: first in packs, so that a kill leaves none behind another."""
    tombstones = {} if forget else {f"{item.recording_id}.parquet": _tombstone(item) for item in recordings}
    names = [f"{item.recording_id}.parquet" for item in recordings]
    contents = {name: recording_file(tombstones[name]) if name in tombstones else None for name in names}
    folder = storage.join(corpus.uri, "recordings", f"source={source}")
    packed = replace_packed(folder, contents)
    for name in names:
        if forget:
            storage.remove(storage.join(folder, name))
        elif name not in packed or storage.exists(storage.join(folder, name)):
            corpus.write_recording(tombstones[name])


def _tombstone(recording: Recording) -> Recording:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Recording(
        recording_id=recording.recording_id,
        source=recording.source,
        source_kind=recording.source_kind,
        source_id="",
        url="",
        status=Status.REJECTED,
        reason=RejectReason.FORBIDDEN.value,
        detail="removed",
        metadata={"removed_at": now}
        | {key: recording.metadata[key] for key in (UTTERANCES,) if key in recording.metadata},
    )


def _forget_pending(corpus: Corpus, source: str, recording_ids: set[str]) -> None:
    pending = ledger.read_pending(corpus, source) or []
    kept = [item for item in pending if item.recording_id not in recording_ids]
    if len(kept) != len(pending):
        ledger.write_pending(corpus, source, kept)


def mark_stale(tokens: str, recording_ids: set[str], *, dry_run: bool = False) -> list[str]:
    """Mark the shards at ``tokens`` that hold samples of these recordings by ``<shard>.stale``, a JSON list of their
    ids.

    Which shard holds what is read from the plan beside the shards (``plan/*.parquet``: shard, recording_id).
    """
    shards: dict[int, set[str]] = {}
    wanted = pa.array(recording_ids, pa.string())
    for name in storage.list_files(storage.join(tokens, "plan"), ".parquet"):
        fs, path = storage.resolve(storage.join(tokens, "plan", name))
        with fs.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(columns=["shard", "recording_id"]):
                found = batch.filter(pc.is_in(batch["recording_id"], wanted))
                for shard, recording_id in zip(*found.to_pydict().values(), strict=True):
                    shards.setdefault(shard, set()).add(recording_id)
    names = []
    for index, ids in sorted(shards.items()):
        names.append(shard_stem(index))
        uri = stale_mark(storage.join(tokens, shard_name(index)))
        with contextlib.suppress(FileNotFoundError, ValueError):
            ids |= set(json.loads(storage.read_bytes(uri)))
        if not dry_run:
            storage.write_bytes(uri, json.dumps(sorted(ids)).encode())
    return names
