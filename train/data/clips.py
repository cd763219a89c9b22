"""The kept clips of a corpus, by group and row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from triforce.ingest import storage
from triforce.train.data.config import CROP_AXES
from triforce.train.data.order import GroupCache

if TYPE_CHECKING:
    from triforce.ingest.corpus.store import Corpus


@dataclass(frozen=True)
class _RowGroup:
    uri: str
    index: int
    rows: tuple[int, ...]
    clip_ids: tuple[str, ...]
    texts: tuple[str, ...]


class ClipStore:
    """The kept clips of one modality of a corpus, by group and row. Columns without media are read once; media when
    they are asked for.
    """

    def __init__(
        self,
        corpus: Corpus,
        sample_rate_hz: int,
        keep: Callable[[str], bool],
        max_bytes: int,
        modality: str = "speech",
    ) -> None:
        self._corpus, self._sample_rate_hz, self.modality = corpus, sample_rate_hz, modality
        self.groups = [group for uri in corpus.clip_files() for group in _row_groups(uri, keep, modality)]
        self._cache: GroupCache[list[np.ndarray]] = GroupCache(self._read, max_bytes)

    @property
    def group_sizes(self) -> list[int]:
        return [len(group.rows) for group in self.groups]

    def __len__(self) -> int:
        return sum(self.group_sizes)

    def waveform(self, group: int, row: int) -> np.ndarray:
        """Samples ``(N,)`` int16 of a clip."""
        return self._cache[group][row]

    def text(self, group: int, row: int) -> str:
        return self.groups[group].texts[row]

    def pixels(self, group: int, row: int) -> np.ndarray:
        """Pixels ``(*size, 3)`` uint8 of an image or a video."""
        return self._cache[group][row]

    def _read(self, index: int) -> tuple[list[np.ndarray], int]:
        import pyarrow.parquet as pq

        group = self.groups[index]
        fs, path = storage.resolve(group.uri)
        with fs.open(path, "rb") as file:
            name = self.modality if self.modality in CROP_AXES else "audio"
            column = pq.ParquetFile(file).read_row_group(group.index, columns=[name])[name]
        clips = [self._decode(column[row].as_py()["bytes"]) for row in group.rows]
        return clips, sum(clip.nbytes for clip in clips)

    def _decode(self, data: bytes) -> np.ndarray:
        if self.modality in CROP_AXES:
            from triforce.ingest.media.pixels import decode_pixels

            return decode_pixels(data, self.modality)
        from triforce.tokenize.read import decode_flac

        return decode_flac(data, self._sample_rate_hz, "int16")


def _row_groups(uri: str, keep: Callable[[str], bool], modality: str) -> list[_RowGroup]:
    import pyarrow.parquet as pq

    fs, path = storage.resolve(uri)
    groups = []
    with fs.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        for index in range(parquet.num_row_groups):
            columns = parquet.read_row_group(index, columns=["clip_id", "drop_reason", "modality", "text"]).to_pylist()
            kept = [
                (i, row["clip_id"], row["text"] or "")
                for i, row in enumerate(columns)
                if row["drop_reason"] is None and (row.get("modality") or "speech") == modality and keep(row["clip_id"])
            ]
            if kept:
                groups.append(_RowGroup(uri, index, *(tuple(values) for values in zip(*kept, strict=True))))
    return groups
