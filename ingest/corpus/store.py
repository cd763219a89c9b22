"""Read and write a corpus at a URI."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.corpus.arrow_schema import CLIP_SCHEMA, RECORDING_SCHEMA, clip_writer
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.records import MEDIA_COLUMNS, Clip, Recording

ROW_GROUP_CLIPS = 32
"""Clips in a Parquet row group: about 5 MB, the unit of streaming reads. Assumed."""


MAX_LOOKUPS, MAX_REMOTE_LOOKUPS = 10_000, 100
"""Recordings looked for one by one, on a local disk and in an object store, before all are listed: about as many as
a listing of a million takes the time of. Assumed."""


SHARED_COLUMNS = ("title", "author", "collection", "url", "licence")
"""Columns of a clip that its recording knows."""


@dataclass(frozen=True)
class Corpus:
    """A corpus at a URI: a local folder, or a prefix of an object store."""

    uri: str

    def __post_init__(self) -> None:
        """Raises ValueError for a path that a library would take for another, or cannot write down."""
        if not storage.is_local(self.uri):
            return
        if "::" in self.uri:
            raise ValueError(f"corpus path {self.uri!r}: '::' means a chain of filesystems; rename the folder")
        if self.uri != storage.readable(self.uri):
            raise ValueError(f"corpus path {storage.readable(self.uri)!r} is not UTF-8, as Parquet needs; rename it")

    def recording_uri(self, source: str, recording_id: str) -> str:
        return storage.join(self.uri, "recordings", f"source={source}", f"{recording_id}.parquet")

    def media_path(self, source: str, recording_id: str, extension: str) -> str:
        """Return where a media file lies, relative to the corpus. ``extension`` is checked: it comes from outside."""
        if not re.fullmatch(r"[a-z0-9]{1,5}", extension) or extension == "parquet":
            raise ValueError(f"media extension {extension!r}: use 1 to 5 lower-case letters and digits, as in 'mp3'")
        return f"recordings/source={source}/{recording_id}.{extension}"

    def clips_uri(self, source: str, recording_id: str) -> str:
        return storage.join(self.uri, "clips", f"source={source}", f"{recording_id}.parquet")

    def sources(self) -> list[str]:
        return [name.removeprefix("source=") for name in storage.list_folders(storage.join(self.uri, "recordings"))]

    def recording_ids(self, source: str) -> set[str]:
        """The ids of the recordings on record, whatever their status: one listing, no file is opened."""
        return _stems(overlay.list_files(storage.join(self.uri, "recordings", f"source={source}")))

    def known_recordings(self, source: str) -> KnownRecordings:
        """The same ids, listed only where many of them are asked for."""
        return KnownRecordings(self, source)

    def clipped_ids(self, source: str) -> set[str]:
        """The ids of the recordings whose clips are written."""
        return _stems(overlay.list_files(storage.join(self.uri, "clips", f"source={source}")))

    def write_recording(self, recording: Recording) -> None:
        with storage.atomic_file(self.recording_uri(recording.source, recording.recording_id)) as path:
            path.write_bytes(recording_file(recording))

    def read_recording(self, source: str, recording_id: str) -> Recording:
        return read_recording(self.recording_uri(source, recording_id))

    def recordings(self, source: str | None = None) -> Iterator[Recording]:
        """Yield every recording on record, by source and id."""
        for name in [source] if source else self.sources():
            for recording_id in sorted(self.recording_ids(name)):
                yield self.read_recording(name, recording_id)

    def write_clips(self, recording: Recording, clips: Iterable[Clip]) -> int:
        """Write a recording's clips as they come, in order of time, in one atomic file; return how many they were.

        Title, author, collection, url and licence are the recording's where a clip has none of its own.
        """
        shared = {name: getattr(recording, name) for name in SHARED_COLUMNS}
        count = 0
        with (
            storage.atomic_file(self.clips_uri(recording.source, recording.recording_id)) as path,
            clip_writer(path) as writer,
        ):
            group: list[dict] = []
            for clip in clips:
                row = clip.to_row()
                group.append(row | {name: value for name, value in shared.items() if row[name] is None})
                count += 1
                if len(group) == ROW_GROUP_CLIPS:
                    writer.write_table(pa.Table.from_pylist(group, schema=CLIP_SCHEMA))
                    group = []
            if group:
                writer.write_table(pa.Table.from_pylist(group, schema=CLIP_SCHEMA))
        return count

    def clip_sources(self) -> list[str]:
        """The sources that have clips."""
        return [name.removeprefix("source=") for name in storage.list_folders(storage.join(self.uri, "clips"))]

    def clip_files(self, source: str | None = None) -> list[str]:
        """Return the URIs of all clip files, sorted by source and recording."""
        folders = [
            storage.join(self.uri, "clips", f"source={name}") for name in ([source] if source else self.clip_sources())
        ]
        return [storage.join(folder, file) for folder in folders for file in overlay.list_files(folder)]

    def clips(
        self, columns: list[str] | None = None, *, source: str | None = None, kept_only: bool = False
    ) -> pa.Table:
        """Return the clips as one table, by default with every column but the media; for a corpus that is larger than
        memory see `dataset`.
        """
        if columns is None:
            columns = [name for name in CLIP_SCHEMA.names if name not in MEDIA_COLUMNS]
        dataset = self.dataset(source)
        return dataset.to_table(columns=columns, filter=pads.field("drop_reason").is_null() if kept_only else None)

    def dataset(self, source: str | None = None, *, files: list[str] | None = None) -> pads.FileSystemDataset:
        """Return the clips, or those in ``files``, as a pyarrow dataset, for streaming, filters and column choice."""
        uris = self.clip_files(source) if files is None else files
        filesystem, paths = overlay.arrow_filesystem(self.uri, uris), [storage.resolve(uri)[1] for uri in uris]
        return pads.dataset(paths, schema=CLIP_SCHEMA, format="parquet", filesystem=filesystem)


class KnownRecordings(Collection[str]):
    """The ids of a source's recordings on record.

    The first `MAX_LOOKUPS` questions look for one file each, and further ones list the folder once: so one new item
    among a million known recordings is found without listing them, and a feed of a million items without a million
    requests.
    """

    def __init__(self, corpus: Corpus, source: str) -> None:
        self._corpus, self._source = corpus, source
        self._lookups_left = MAX_LOOKUPS if storage.is_local(corpus.uri) else MAX_REMOTE_LOOKUPS
        self._listed: set[str] | None = None

    @property
    def _all(self) -> set[str]:
        if self._listed is None:
            self._listed = self._corpus.recording_ids(self._source)
        return self._listed

    def __contains__(self, recording_id: object) -> bool:
        if self._listed is None and self._lookups_left:
            self._lookups_left -= 1
            return overlay.exists(self._corpus.recording_uri(self._source, str(recording_id)))
        return recording_id in self._all

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def recording_file(recording: Recording) -> bytes:
    """Return the bytes of the file that holds a recording's row."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([recording.to_row()], schema=RECORDING_SCHEMA), file)
    return file.getvalue()


def read_recording(uri: str) -> Recording:
    """Read the row at ``uri``."""
    with overlay.open_file(uri) as file, pq.ParquetFile(file) as parquet:
        return Recording.from_row(parquet.read(use_threads=False).to_pylist()[0])


def _stems(names: list[str]) -> set[str]:
    return {name.removesuffix(".parquet") for name in names}
