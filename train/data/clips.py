"""The kept clips of a corpus, by group and row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from triforce.train.data.config import CROP_AXES
from triforce.train.data.order import GroupCache, Part

if TYPE_CHECKING:
    from triforce.ingest.corpus.store import Corpus


class _Clips(NamedTuple):
    """The clips of a group, decoded."""

    arrays: list[np.ndarray]
    texts: list[str]
    ids: list[str]
    words: list[list[tuple[str, float, float]] | None]


class ClipStore:
    """The kept clips of one modality of a corpus that are in a part of it, by group and row.

    A group is a row group of a clip file that has such clips. How many, the corpus's index tells; rows are read, and
    media decoded, with the group. So memory holds a few bytes a group, and nothing a clip.
    """

    def __init__(
        self,
        corpus: Corpus,
        sample_rate_hz: int,
        part: Part,
        max_bytes: int,
        modality: str = "speech",
        words: bool = False,
    ) -> None:
        """``words`` reads the times of words too."""
        self._columns = ["clip_id", "drop_reason", "modality", "text", *["words"] * words]
        self._sample_rate_hz, self._part, self.modality = sample_rate_hz, part, modality
        self._uris: list[str] = []
        places = list(self._places(corpus)) or [np.empty((3, 0), np.int64)]
        self._files, self._row_groups, self.group_sizes = np.concatenate(places, axis=1)
        self._cache: GroupCache[_Clips] = GroupCache(self._read, max_bytes)

    def _places(self, corpus: Corpus) -> Iterator[np.ndarray]:
        """Yield files, row groups and numbers of clips, ``(3, N)``, of one file after the other."""
        from triforce.ingest.corpus.clip_index import kept_clips

        for clips in kept_clips(corpus, self.modality):
            groups, sizes = np.unique(clips.groups[self._part.has(clips.draws)], return_counts=True)
            yield np.stack([np.full(len(groups), len(self._uris)), groups, sizes]).astype(np.int32)
            self._uris.append(corpus.clips_uri(clips.source, clips.recording_id))

    def __len__(self) -> int:
        return int(self.group_sizes.sum())

    def waveform(self, group: int, row: int) -> np.ndarray:
        """Samples ``(N,)`` int16 of a clip."""
        return self._cache[group].arrays[row]

    def pixels(self, group: int, row: int) -> np.ndarray:
        """Pixels ``(*size, 3)`` uint8 of an image or a video."""
        return self._cache[group].arrays[row]

    def text(self, group: int, row: int) -> str:
        return self._cache[group].texts[row]

    def words(self, group: int, row: int) -> list[tuple[str, float, float]] | None:
        """A clip's words with start and end in seconds; None where they are not known, or not read."""
        return self._cache[group].words[row]

    def clip_ids(self, group: int) -> list[str]:
        """Ids of a group's clips."""
        return self._cache[group].ids

    def _read(self, index: int) -> tuple[_Clips, int]:
        import pyarrow.parquet as pq

        from triforce.ingest.corpus.packs import overlay

        uri = self._uris[self._files[index]]
        medium = self.modality if self.modality in CROP_AXES else "audio"
        with overlay.open_file(uri) as file:
            columns = [*self._columns, medium]
            rows = pq.ParquetFile(file).read_row_group(int(self._row_groups[index]), columns=columns)
        about = rows.drop_columns([medium]).to_pylist()
        kept = [
            i
            for i, row in enumerate(about)
            if row["drop_reason"] is None
            and (row.get("modality") or "speech") == self.modality
            and row["clip_id"] in self._part
        ]
        if len(kept) != self.group_sizes[index]:
            raise ValueError(f"{uri}: its kept clips have changed since this run began; start it again")
        arrays = [self._decode(rows[medium][i].as_py()["bytes"]) for i in kept]
        texts, ids = ([about[i][name] or "" for i in kept] for name in ("text", "clip_id"))
        words = [_times(about[i].get("words")) for i in kept]
        return _Clips(arrays, texts, ids, words), sum(array.nbytes for array in arrays)

    def _decode(self, data: bytes) -> np.ndarray:
        if self.modality in CROP_AXES:
            from triforce.ingest.media.pixels import decode_pixels

            return decode_pixels(data, self.modality)
        from triforce.tokenize.read import decode_flac

        return decode_flac(data, self._sample_rate_hz, "int16")


def _times(words: list[dict[str, Any]] | None) -> list[tuple[str, float, float]] | None:
    return [(word["word"], word["start_s"], word["end_s"]) for word in words] if words else None
