"""Hugging Face's audio datasets: files beside a ``metadata.csv`` or ``.jsonl``, or Parquet with the audio inside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.datasets.columns import Columns, find_audio
from triforce.ingest.datasets.tables import cells, header
from triforce.ingest.datasets.utterance import DatasetConfig, Embedded, Faulty, Item
from triforce.ingest.json_lines import read_lines

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of the tables of an audio folder."""
SPLITS = frozenset({"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"})
"""Names of folders that are splits. Others only hold files."""
ROWS = 256
"""Rows read at a time. Assumed."""


def read_audio_folder(root: Path, tables: Sequence[Path], config: DatasetConfig) -> Iterator[Item]:
    """Yield the rows of an audio folder's tables; ``file_name`` is relative to its table, and
    may not lead out of its folder."""
    for path in tables:
        place = path.parent.relative_to(root).as_posix()
        split = path.parent.name if path.parent.name in SPLITS else None
        prefix = "" if place == "." else f"{place}/"
        for where, row, fault in _table_rows(path, config):
            name = where if row is None else row.get(_audio_column(row, config, path))
            if row is None or not isinstance(name, str) or not name:
                detail = f"{where} of {prefix}{path.name}: {fault or 'no file_name'}"
                yield Faulty(f"{prefix}{path.name}:{where}", RejectReason.BAD_METADATA, detail, place)
                continue
            if os.path.isabs(name) or os.path.normpath(name).startswith(".."):
                detail = f"{where} of {prefix}{path.name}: {name!r} is outside of the folder"
                yield Faulty(prefix + name, RejectReason.BAD_METADATA, detail, place)
                continue
            columns = Columns(row.keys(), config.columns, str(path), needed=())
            yield columns.item(row, find_audio(path.parent, name), prefix + name, group=place, split=split)


def _audio_column(row: Mapping[str, Any], config: DatasetConfig, path: Path) -> str:
    if "audio" in config.columns:
        return config.columns["audio"]
    return "file_name" if "file_name" in row else Columns(row.keys(), {}, str(path), needed=("audio",)).by_role["audio"]


def _table_rows(path: Path, config: DatasetConfig) -> Iterator[tuple[str, Mapping[str, Any] | None, str]]:
    """The rows of a folder's table: where each is, its values by column, and why there are none."""
    if path.suffix == ".csv":
        names, rows = header(path, config.model_copy(update={"names": ()})), cells(path, ",", quoted=True)
        next(rows)
        for line, row, fault in rows:
            fits = row is not None and len(row) == len(names)
            words = fault or f"{len(row or ())} cells, the header has {len(names)}"
            yield f"line {line}", dict(zip(names, row or (), strict=True)) if fits else None, words
    elif path.suffix == ".parquet":
        with pq.ParquetFile(path) as parquet:
            for number, row in enumerate(row for batch in parquet.iter_batches(ROWS) for row in batch.to_pylist()):
                yield f"row {number}", row, ""
    else:
        yield from ((f"line {line}", row, fault) for line, row, fault in read_lines(path))


def read_parquet(root: Path, paths: Sequence[Path], config: DatasetConfig) -> Iterator[Item]:
    """Yield the rows of Parquet files whose audio is a struct of bytes and a path. The audio is not read here."""
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            yield from _parquet_rows(path, name, config)
        except (pa.ArrowException, OSError, ValueError) as error:
            yield Faulty(name, RejectReason.BAD_METADATA, f"{name} cannot be read: {error}", name)


def _parquet_rows(path: Path, name: str, config: DatasetConfig) -> Iterator[Item]:
    split = split_of(path)
    with pq.ParquetFile(path) as parquet:
        schema = parquet.schema_arrow
        audio = audio_column(schema, config, path)
        others = [each.name for each in schema if not _is_media(each.type) and not pa.types.is_binary(each.type)]
        columns = Columns([audio, *others], config.columns | {"audio": audio}, name)
        for group in range(parquet.num_row_groups):
            batches = parquet.iter_batches(ROWS, row_groups=[group], columns=others)
            for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
                place = Embedded(str(path), group, number, audio)
                yield columns.item(row, place, f"{name}#{group}-{number}", group=name, split=split)


def has_audio(path: Path, config: DatasetConfig) -> bool:
    """Return whether a Parquet file can be read and holds audio."""
    try:
        with pq.ParquetFile(path) as parquet:
            audio_column(parquet.schema_arrow, config, path)
    except (pa.ArrowException, OSError, ValueError):
        return False
    return True


def audio_column(schema: pa.Schema, config: DatasetConfig, path: Path) -> str:
    """Return the name of the column that holds audio. Raises ValueError where none does, or several."""
    found = [each.name for each in schema if _is_media(each.type)]
    chosen = config.columns.get("audio")
    if chosen is not None and chosen in found:
        return chosen
    if "audio" in found:
        return "audio"
    if len(found) != 1 or "audio" in config.columns:
        raise ValueError(
            f"{path}: {len(found)} columns of bytes and a path ({', '.join(found) or 'as Hugging Face stores audio'}); "
            "name the audio's by --set columns.audio=NAME"
        )
    return found[0]


def _is_media(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}


def split_of(path: Path) -> str | None:
    """Return the split by a file's name, as in ``train-00000-of-00012.parquet``, or by its folder's."""
    if named := re.match(r"(.+?)-\d+(-of-\d+)?(-[0-9a-f]+)?\.parquet$", path.name):
        return named[1]
    if path.parent.name in SPLITS or re.fullmatch(r"\w+\.\w+", path.parent.name):
        return path.parent.name
    return path.stem if path.stem in SPLITS else None


def embedded_audio(places: Sequence[Embedded]) -> Iterator[tuple[bytes | None, str | None]]:
    """Yield the bytes and the path of each place, of one file and in order; a batch of rows is in memory at a time."""
    wanted: dict[int, dict[int, None]] = {}
    for place in places:
        wanted.setdefault(place.row_group, {})[place.row] = None
    with pq.ParquetFile(places[0].path) as parquet:
        for group, rows in wanted.items():
            first, last = 0, max(rows)
            for batch in parquet.iter_batches(32, row_groups=[group], columns=[places[0].column]):
                held = batch.column(0)
                for row in (row for row in rows if first <= row < first + len(batch)):
                    value = held[row - first].as_py() or {}
                    yield value.get("bytes"), value.get("path")
                first += len(batch)
                if first > last:
                    break
