"""Check a corpus against itself: every file is complete, every row matches its media, nothing is left over."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from triforce.ingest import ledger, storage
from triforce.ingest.cores import map_ahead
from triforce.ingest.corpus.arrow_schema import CLIP_SCHEMA
from triforce.ingest.corpus.clip_index import READ_AHEAD_BYTES
from triforce.ingest.corpus.file_index import num_readers
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.packs.change import remove_files
from triforce.ingest.corpus.packs.check import broken_packs, remove_broken, rotten_files
from triforce.ingest.corpus.packs.pack_list import FOLDER
from triforce.ingest.corpus.records import DATASET, MEDIA_COLUMNS, Clip, Recording, Status, make_clip_id, make_clip_ids
from triforce.ingest.corpus.stats import files_by_recording
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.locks import maintenance
from triforce.ingest.media.pixels import PIXEL_MODALITIES, clip_pixels

logger = logging.getLogger(__name__)


class FaultKind(StrEnum):
    """What can be wrong with a corpus."""

    UNREADABLE_ROW = "unreadable_row"
    MISSING_MEDIA = "missing_media"
    WRONG_BYTES = "wrong_bytes"
    STRAY_MEDIA = "stray_media"
    UNREADABLE_CLIPS = "unreadable_clips"
    STRAY_CLIPS = "stray_clips"
    BAD_CLIP = "bad_clip"
    UNREADABLE_PACK = "unreadable_pack"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. ``path`` is relative to the corpus."""

    kind: FaultKind
    path: str
    detail: str


def verify(
    corpus: Corpus, *, deep: bool = True, repair: bool = False, on_progress: Callable[[str], None] | None = None
) -> list[Fault]:
    """Return the faults of a corpus. ``deep`` hashes every media file and everything in packs, and decodes every clip.

    With ``repair`` what is broken or left over is removed, so that the next sync and the next cut make it again, and
    lost claims, by which duplicates are found, are written again. Of a broken pack what is whole stays.
    ``on_progress`` is called with each recording's path.
    """
    faults: list[Fault] = []
    for source in corpus.sources():
        found = list(_verify_packs(corpus, source))
        faults += found
        if found and not (repair and _remove_broken(corpus, found)):
            continue  # what else there is cannot be told without them
        found = list(_verify_packed(corpus, source)) if deep else []
        rotten = {fault.path for fault in found}
        found += (
            fault for fault in _verify_source(corpus, source, deep, repair, on_progress) if fault.path not in rotten
        )
        faults += found
        if repair and found:
            _repair(corpus, source, found)
    if repair:
        storage.remove_stale_temporaries(corpus.uri)
    return faults


def _verify_packs(corpus: Corpus, source: str) -> Iterator[Fault]:
    for kind in ("recordings", "clips"):
        folder = f"{kind}/source={source}"
        for name, problem in broken_packs(storage.join(corpus.uri, folder)):
            yield Fault(FaultKind.UNREADABLE_PACK, f"{folder}/{FOLDER}/{name}", problem)


def _remove_broken(corpus: Corpus, faults: list[Fault]) -> bool:
    """Remove broken packs, and keep what is whole in them; return whether all are gone."""
    with maintenance(corpus.uri):
        for fault in faults:
            folder, _, name = fault.path.rsplit("/", 2)
            try:
                remove_broken(storage.join(corpus.uri, folder), name)
            except OSError as error:  # of a disk or a store, and no word on what the pack holds
                logger.warning("%s stays: %s", fault.path, error)
                return False
    return True


def _verify_packed(corpus: Corpus, source: str) -> Iterator[Fault]:
    kinds = (("recordings", FaultKind.UNREADABLE_ROW), ("clips", FaultKind.UNREADABLE_CLIPS))
    for folder, kind in kinds:
        folder = f"{folder}/source={source}"
        for name, pack in rotten_files(storage.join(corpus.uri, folder)):
            yield Fault(kind, f"{folder}/{name}", f"another checksum than {pack} says")


def _verify_source(corpus: Corpus, source: str, deep: bool, repair: bool, on_progress) -> Iterator[Fault]:
    files, clipped = files_by_recording(corpus, source), corpus.clipped_ids(source)
    sizes = storage.list_sizes(storage.join(corpus.uri, "recordings", f"source={source}"))
    fetched: set[str] = set()
    with_media: set[str] = set()  # what the cut rejects keeps its file

    def check(recording_id: str) -> tuple[str, Recording | None, list[Fault]]:
        row_path = f"recordings/source={source}/{recording_id}.parquet"
        try:
            recording = corpus.read_recording(source, recording_id)
        except (pa.ArrowException, OSError, TypeError, IndexError) as error:
            return row_path, None, [Fault(FaultKind.UNREADABLE_ROW, row_path, str(error))]
        return row_path, recording, list(_verify_recording(corpus, recording, row_path, sizes, clipped, deep))

    recording_ids = sorted(corpus.recording_ids(source))
    for row_path, recording, found in map_ahead(check, recording_ids, num_readers(corpus.uri)):
        if on_progress:
            on_progress(row_path)
        yield from found
        if recording is None:
            continue
        if recording.media_path:
            with_media.add(recording.recording_id)
        if recording.status != Status.FETCHED:
            continue
        fetched.add(recording.recording_id)
        if repair and recording.sha256:
            _restore_claims(corpus, recording)
    for recording_id in sorted(files.keys() - with_media):
        for name in files[recording_id]:
            yield Fault(FaultKind.STRAY_MEDIA, f"recordings/source={source}/{name}", "no row says that it was fetched")
    for recording_id in sorted(clipped - fetched):
        path = f"clips/source={source}/{recording_id}.parquet"
        if not _is_settled_without_media(corpus, source, recording_id):
            yield Fault(FaultKind.STRAY_CLIPS, path, "no row says that its recording was fetched")


def _verify_recording(
    corpus: Corpus, recording: Recording, row_path: str, sizes: dict[str, int], clipped: Collection[str], deep: bool
) -> Iterator[Fault]:
    """Yield the faults of what was fetched: its media file, of so many bytes as ``sizes`` says, and its clips."""
    if recording.status != Status.FETCHED:
        return
    recording_id = recording.recording_id
    if recording.source_kind != DATASET:
        yield from _verify_media(corpus, recording, sizes, deep)
    elif recording_id not in clipped:
        yield Fault(FaultKind.MISSING_MEDIA, row_path, f"{recording_id} of a dataset was imported, its clips are gone")
    if recording_id in clipped:
        yield from _verify_clips(corpus, recording, deep)


def _is_settled_without_media(corpus: Corpus, source: str, recording_id: str) -> bool:
    """Whether cutting rejected the recording: then its clips file is empty, and marks the recording as done."""
    try:
        with overlay.open_file(corpus.clips_uri(source, recording_id)) as file:
            return pq.ParquetFile(file).metadata.num_rows == 0
    except (pa.ArrowException, OSError):
        return False


def _verify_media(corpus: Corpus, recording: Recording, sizes: dict[str, int], deep: bool) -> Iterator[Fault]:
    path = recording.media_path or ""
    size = sizes.get(path.rsplit("/", 1)[-1])
    if size is None:
        yield Fault(FaultKind.MISSING_MEDIA, path, f"{recording.recording_id} was fetched, its file is gone")
        return
    uri = storage.join(corpus.uri, path)
    if size != recording.num_bytes:
        yield Fault(FaultKind.WRONG_BYTES, path, f"{size} bytes, {recording.num_bytes} on record")
    elif deep and (sha256 := storage.sha256_of(uri)) != recording.sha256:
        yield Fault(FaultKind.WRONG_BYTES, path, f"SHA-256 {sha256}, {recording.sha256} on record")


def _verify_clips(corpus: Corpus, recording: Recording, deep: bool) -> Iterator[Fault]:
    path = f"clips/source={recording.source}/{recording.recording_id}.parquet"
    try:
        uri, block_size = corpus.clips_uri(recording.source, recording.recording_id), None if deep else READ_AHEAD_BYTES
        with overlay.open_file(uri, block_size=block_size) as file:
            parquet, last_sample = pq.ParquetFile(file), 0
            if not _is_known(parquet.schema_arrow):
                yield Fault(FaultKind.BAD_CLIP, path, "another schema than this version writes")
                return
            places = ["clip_id", "recording_id", "start_sample", "end_sample"]
            if not deep and _places_hold(parquet.read(columns=places, use_threads=False), recording):
                return
            columns = [*places, "sample_rate_hz", "modality", *(MEDIA_COLUMNS if deep else ())]
            columns = [name for name in columns if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=32, columns=columns):
                for row in batch.to_pylist():
                    clip = Clip.from_row(row)
                    problem = _place_problem(clip, recording, last_sample) or (_media_problem(clip) if deep else None)
                    if problem:
                        yield Fault(FaultKind.BAD_CLIP, path, f"{clip.clip_id}: {problem}")
                    last_sample = clip.start_sample
    except (pa.ArrowException, OSError) as error:
        yield Fault(FaultKind.UNREADABLE_CLIPS, path, str(error))


def _is_known(schema: pa.Schema) -> bool:
    """Whether this version writes each of the columns; an older one wrote fewer."""
    if schema.equals(CLIP_SCHEMA):
        return True
    known = {field.name: field.type for field in CLIP_SCHEMA}
    return all(known.get(field.name) == field.type for field in schema)


def _places_hold(table: pa.Table, recording: Recording) -> bool:
    """Whether `_place_problem` finds nothing in a whole file."""
    starts, ends = (table[name].to_numpy() for name in ("start_sample", "end_sample"))
    if not ((starts < ends).all() and (starts[:1] >= 0).all() and (starts[1:] >= starts[:-1]).all()):
        return False
    return table["clip_id"].to_pylist() == make_clip_ids(recording.recording_id, starts.tolist()) and (
        table["recording_id"].unique().to_pylist() in ([], [recording.recording_id])
    )


def _place_problem(clip: Clip, recording: Recording, last_sample: int) -> str | None:
    start, end = clip.start_sample, clip.end_sample
    if clip.recording_id != recording.recording_id or clip.clip_id != make_clip_id(recording.recording_id, start):
        return f"its ids do not fit recording {recording.recording_id} and sample {start}"
    if not last_sample <= start < end:
        return f"samples {start} to {end} behind a clip from {last_sample} on"
    return None


def _media_problem(clip: Clip) -> str | None:
    return _pixel_problem(clip) if clip.modality in PIXEL_MODALITIES else _sound_problem(clip)


def _sound_problem(clip: Clip) -> str | None:
    try:
        info = soundfile.info(io.BytesIO(clip.media))
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        return f"its audio cannot be read: {error}"
    num_samples = clip.end_sample - clip.start_sample
    if (info.frames, info.samplerate, info.channels) != (num_samples, clip.sample_rate_hz, 1):
        return f"{info.frames} samples of {info.samplerate} Hz in {info.channels} channels, {num_samples} on record"
    return None


def _pixel_problem(clip: Clip) -> str | None:
    try:
        planes = clip_pixels(clip)
    except Rejected as error:
        return f"its {clip.modality} cannot be read: {error.detail}"
    except (TypeError, ValueError) as error:
        return f"its {clip.modality} cannot be read: {error}"
    num_frames, expected = planes.shape[1] if planes.ndim == 4 else 1, clip.end_sample - clip.start_sample
    return None if num_frames == expected else f"{num_frames} frames, {expected} on record"


def _restore_claims(corpus: Corpus, recording: Recording) -> None:
    keys = ledger.keys_of(recording, sha256=recording.sha256, pcm_sha256=recording.metadata.get("pcm_sha256"))
    with ledger.commit_lock(corpus):
        missing = {kind: key for kind, key in keys.items() if ledger.find_owner(corpus, recording, {kind: key}) is None}
        ledger.write_claims(corpus, recording, missing)


def _repair(corpus: Corpus, source: str, faults: list[Fault]) -> None:
    """Remove what is wrong, all of a folder at once, as each pack is written again."""
    wrong: dict[str, set[str]] = {}
    for fault in faults:
        for folder, _, name in (uri.rpartition("/") for uri in _wrong_files(corpus, source, fault)):
            wrong.setdefault(folder, set()).add(name)
    with maintenance(corpus.uri):
        for folder, names in wrong.items():
            remove_files(folder, names)
    ledger.forget_pages(corpus, source)  # or the next discovery would skip what is gone as known


def _wrong_files(corpus: Corpus, source: str, fault: Fault) -> list[str]:
    """What has to go for a fault; with a broken media file also its row and its clips."""
    wrong = [storage.join(corpus.uri, fault.path)] if fault.path else []
    recording_id = fault.path.rsplit("/", 1)[-1].split(".")[0]
    if fault.kind in (FaultKind.MISSING_MEDIA, FaultKind.WRONG_BYTES):
        wrong += [corpus.clips_uri(source, recording_id), corpus.recording_uri(source, recording_id)]
    if fault.kind in (FaultKind.BAD_CLIP, FaultKind.UNREADABLE_CLIPS):
        with contextlib.suppress(OSError, pa.ArrowException):  # its row is a fault of its own
            if corpus.read_recording(source, recording_id).source_kind == DATASET:  # `import` goes by rows
                wrong.append(corpus.recording_uri(source, recording_id))
    return wrong
