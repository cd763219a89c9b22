"""The kept clips of a corpus as a dataset that others read, with a card that says what it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.records import Clip, Status
from triforce.ingest.corpus.stats import recording_index
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.export.card import dataset_card
from triforce.ingest.export.config import ExportConfig
from triforce.ingest.export.summary import ExportSummary
from triforce.ingest.export.writers import WRITERS, Exported


def export_dataset(
    corpus: Corpus, folder: Path, config: ExportConfig, *, on_clip: Callable[[], object] = lambda: None
) -> ExportSummary:
    """Write the kept clips of a corpus to ``folder``, which appears once it is complete.

    Raises ValueError where the folder has anything in it, or where no clip is left to export.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: there is something already; name a folder that is empty or new")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{storage.TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-{folder.name}")
    temporary.mkdir()
    try:
        with storage.named_disk_errors(folder):
            summary, used = _write(corpus, temporary, config, on_clip)
            if not summary.num_clips:
                raise ValueError(f"{corpus.uri}: no clip is left to export:\n{summary.table()}")
            card = dataset_card(summary, config, config.name or folder.name)
            (temporary / "README.md").write_text(card, encoding="utf-8")
        if gone := used - {name for names in fetched(corpus, config).values() for name in names}:
            raise RuntimeError(
                f"{len(gone)} recordings were taken down meanwhile, {sorted(gone)[0]} among them: export again"
            )
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return summary


def _write(
    corpus: Corpus, folder: Path, config: ExportConfig, on_clip: Callable[[], object]
) -> tuple[ExportSummary, set[str]]:
    summary, used = ExportSummary(), set[str]()
    writer = WRITERS[config.format](folder, config.audio)
    for exported in select(corpus, config, summary.left_out):
        if reason := writer.add(exported):
            summary.left_out[reason] += 1
            continue
        summary.add(exported)
        used.add(exported.clip.recording_id)
        on_clip()
    writer.close()
    return summary, used


def fetched(corpus: Corpus, config: ExportConfig) -> dict[str, dict[str, str | None]]:
    """Return the recordings that are not taken down or rejected, by source, each with its split."""
    found: dict[str, dict[str, str | None]] = {}
    for source in config.sources or corpus.sources():
        found[source] = {}
        for rows in recording_index(corpus, source).batches():
            for row in rows.select(["recording_id", "status", "metadata"]).to_pylist():
                metadata = dict(row["metadata"] or [])
                if row["status"] == Status.FETCHED and "removed_at" not in metadata:
                    found[source][row["recording_id"]] = metadata.get("split")
    return found


def select(corpus: Corpus, config: ExportConfig, left_out: Counter) -> Iterator[Exported]:
    """Yield the clips to export by source, recording and time, and count the others by why they are left out."""
    for source, recordings in fetched(corpus, config).items():
        for recording_id, split in sorted(recordings.items()):
            for clip in _clips(corpus, source, recording_id):
                if reason := _unwanted(clip, config):
                    left_out[reason] += 1
                else:
                    yield Exported(clip, split)


def _clips(corpus: Corpus, source: str, recording_id: str) -> Iterator[Clip]:
    """A recording's clips; a row group is in memory at a time. None, where it was not cut yet, or was removed."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(overlay.open_file(corpus.clips_uri(source, recording_id)))
        except FileNotFoundError:
            return
        parquet = stack.enter_context(pq.ParquetFile(file))
        for group in range(parquet.num_row_groups):
            for row in parquet.read_row_group(group).to_pylist():
                yield Clip.from_row(row)


def _unwanted(clip: Clip, config: ExportConfig) -> str | None:
    if clip.modality not in (None, "speech"):
        return "no speech"
    if clip.drop_reason:
        return clip.drop_reason
    if not clip.text:
        return "no text"
    for name, wanted in (("speaker", config.speakers), ("language", config.languages)):
        if wanted and getattr(clip, name) not in wanted:
            return f"another {name}"
    for name, least in config.min_scores.items():
        value = getattr(clip, name)
        if value is None or value < least:
            return f"{name} under {least:g}, or not measured"
    return None
