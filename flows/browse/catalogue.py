"""The clips of a corpus as columns on a local disk, which queries scan: about 300 bytes a clip, none of them held in
memory.

It is made from `score_index` and belongs to one state of the corpus, the names and stamps of its clip files. A local
corpus keeps it in ``state/browse/<state>/``, so that the next start finds it; of any other corpus it lies in a
temporary folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from triforce.flows.browse.columns import ColumnsWriter, read_numbers, read_texts
from triforce.ingest import storage
from triforce.ingest.clips.score_index import FLAGS, INTEGERS, NAMES, ORIGIN, SCORES, TEXT_SCORES, VERSION, score_index
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.records import make_clip_id
from triforce.ingest.corpus.store import Corpus

FORMAT = 1
"""Version of the folder's layout."""
NUMBERS: dict[str, type] = {
    "source": np.int16,
    "origin": np.int32,
    "row": np.int32,
    **dict.fromkeys(SCORES, np.float32),
    **dict.fromkeys(TEXT_SCORES, np.float64),
    **dict.fromkeys(INTEGERS, np.int64),
    **dict.fromkeys(FLAGS, np.int8),
    **dict.fromkeys(NAMES, np.int32),
}
"""Columns of clips: of `NAMES` the place in the catalogue's names, of ``row`` the place in the clip file."""
ORIGIN_NUMBERS: dict[str, type] = {"source": np.int16, "first": np.int64}
ORIGIN_TEXTS = ("recording_id", *ORIGIN)
Progress = Callable[[int, int], None]
"""Told how many clip files are done, and of how many."""


def state_of(corpus: Corpus) -> str:
    """Return a hash of the corpus's clip files, names and stamps: a listing a source, no file is opened.

    A file too young for a stamp makes it unlike any other.
    """
    total = hashlib.sha256(f"{FORMAT} {VERSION}\n".encode())
    for source in corpus.clip_sources():
        folder = storage.join(corpus.uri, "clips", f"source={source}")
        for name, stamp in overlay.list_stamps(folder).items():
            total.update(f"{source}/{name} {stamp or uuid.uuid4().hex}\n".encode())
    return total.hexdigest()[:24]


class Catalogue:
    """The columns of one state of a corpus; the order is by source, recording and time."""

    def __init__(self, folder: Path, state: str) -> None:
        self.folder, self.state = folder, state
        about = json.loads((folder / "about.json").read_text("utf-8"))
        self.num_clips: int = about["num_clips"]
        self.sources: list[str] = about["sources"]
        self.names: dict[str, list[str | None]] = about["names"]
        self.clips = {name: read_numbers(folder / "clips", name, kind) for name, kind in NUMBERS.items()}
        self.clips["text_is_null"] = read_numbers(folder / "clips", "text_is_null", np.uint8)
        self.text = read_texts(folder / "clips", "text")
        self.origins = {name: read_numbers(folder / "origins", name, kind) for name, kind in ORIGIN_NUMBERS.items()}
        self.origin_texts = {name: read_texts(folder / "origins", name) for name in ORIGIN_TEXTS}
        self.origin_nulls = {
            name: read_numbers(folder / "origins", f"{name}_is_null", np.uint8).astype(bool) for name in ORIGIN_TEXTS
        }

    @cached_property
    def hours(self) -> np.ndarray:
        """Hours of clips by source, float64."""
        return np.bincount(self.clips["source"], self.clips["duration_s"], len(self.sources)) / 3600

    def clip_id(self, row: int) -> str:
        """Return the id of a clip."""
        recording_id = self.origin_texts["recording_id"][int(self.clips["origin"][row])].as_py()
        return make_clip_id(recording_id, int(self.clips["start_sample"][row]))

    def find(self, clip_id: str) -> int | None:
        """Return the row of a clip, None where there is none of this id."""
        recording_id, _, start = clip_id.rpartition("-")
        found = np.flatnonzero(pc.equal(self.origin_texts["recording_id"], recording_id).to_numpy(zero_copy_only=False))
        if not len(found) or not (start.isascii() and start.isdigit()):
            return None
        stop = found[-1] + 1
        first = int(self.origins["first"][found[0]])
        last = int(self.origins["first"][stop]) if stop < len(self.origins["first"]) else self.num_clips
        rows = first + np.flatnonzero(self.clips["start_sample"][first:last] == int(start))
        return next((row for row in rows.tolist() if self.clip_id(row) == clip_id), None)

    def text_of(self, name: str, row: int) -> str | None:
        """Return a clip's text, one of its names or something of its origin."""
        if name == "source":
            return self.sources[int(self.clips["source"][row])]
        if name in NAMES:
            return self.names[name][int(self.clips[name][row])]
        if name == "text":
            return None if self.clips["text_is_null"][row] else self.text[row].as_py()
        origin = int(self.clips["origin"][row])
        return None if self.origin_nulls[name][origin] else self.origin_texts[name][origin].as_py()


def open_catalogue(corpus: Corpus, *, on_progress: Progress = lambda done, total: None) -> Catalogue:
    """Open the catalogue of the corpus as it is, made now where there is none of this state."""
    state = state_of(corpus)
    home = _home(corpus)
    folder = home / state
    if not (folder / "about.json").exists():
        temporary = home / f"{storage.TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}"
        try:
            _build(corpus, temporary, on_progress)
            with contextlib.suppress(OSError):  # another process was first
                os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    catalogue = Catalogue(folder, state)
    for other in home.iterdir():  # of older states; who reads them keeps the open files
        if other.name != state and not other.name.startswith(storage.TEMPORARY_PREFIX):
            shutil.rmtree(other, ignore_errors=True)
    return catalogue


def _home(corpus: Corpus) -> Path:
    if storage.is_local(corpus.uri):
        home = Path(storage.resolve(corpus.uri)[1]) / "state" / "browse"
        with contextlib.suppress(OSError):
            home.mkdir(parents=True, exist_ok=True)
            if os.access(home, os.W_OK):
                return home
    return _temporary_home(corpus.uri)


_TEMPORARY: dict[str, tempfile.TemporaryDirectory] = {}


def _temporary_home(uri: str) -> Path:
    """A folder that goes with this process."""
    if uri not in _TEMPORARY:
        _TEMPORARY[uri] = tempfile.TemporaryDirectory(prefix="triforce-browse-")
    return Path(_TEMPORARY[uri].name)


def _build(corpus: Corpus, folder: Path, on_progress: Progress) -> None:
    sources = corpus.clip_sources()
    places: dict[str, dict[str | None, int]] = {name: {} for name in NAMES}
    num_files = sum(len(corpus.clipped_ids(source)) for source in sources)
    num_clips = num_origins = num_done = 0
    with (
        ColumnsWriter(folder / "clips", NUMBERS, ["text"]) as clips,
        ColumnsWriter(folder / "origins", ORIGIN_NUMBERS, ORIGIN_TEXTS) as origins,
    ):
        for number, source in enumerate(sources):
            for batch in score_index(corpus, source).batches():
                batch = batch.combine_chunks()
                count = _put_clips(clips, batch, number, num_origins, places)
                num_origins += _put_origins(origins, batch, number, num_clips)
                num_clips += count
                num_done += len(batch)
                on_progress(num_done, num_files)
    about: dict[str, Any] = {"num_clips": num_clips, "sources": sources}
    about["names"] = {name: list(found) or [None] for name, found in places.items()}
    (folder / "about.json").write_text(json.dumps(about), "utf-8")


def _list(batch: pa.Table, name: str) -> pa.ListArray:
    chunks = batch[name].chunks
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)


def _put_clips(
    writer: ColumnsWriter, batch: pa.Table, source: int, first_origin: int, places: dict[str, dict[str | None, int]]
) -> int:
    """Append the clips of some files; return how many they are."""
    for name in (*SCORES, *TEXT_SCORES, *INTEGERS, *FLAGS):
        writer.numbers(name, _list(batch, name).flatten().to_numpy(zero_copy_only=False))
    writer.texts("text", _list(batch, "text").flatten())
    for name in NAMES:
        encoded = _list(batch, name).flatten().dictionary_encode(null_encoding="encode")
        known = places[name]
        codes = [known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()]
        writer.numbers(name, np.array(codes, np.int32)[encoded.indices.to_numpy(zero_copy_only=False)])
    sizes = _list(batch, "duration_s").value_lengths().to_numpy(zero_copy_only=False)
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    file_firsts = ends - sizes
    writer.numbers("row", np.arange(total) - np.repeat(file_firsts, sizes))
    writer.numbers("source", np.full(total, source))
    begins = np.zeros(total, np.int64)
    begins[_origin_firsts(batch, file_firsts)] = 1
    writer.numbers("origin", first_origin + np.cumsum(begins) - 1)
    return total


def _origin_firsts(batch: pa.Table, file_firsts: np.ndarray) -> np.ndarray:
    """Of each run of clips with the same origin, the number of its first clip in the batch."""
    starts = _list(batch, "origin_starts")
    return starts.flatten().to_numpy(zero_copy_only=False) + np.repeat(
        file_firsts, starts.value_lengths().to_numpy(zero_copy_only=False)
    )


def _put_origins(writer: ColumnsWriter, batch: pa.Table, source: int, first_clip: int) -> int:
    sizes = _list(batch, "duration_s").value_lengths().to_numpy(zero_copy_only=False)
    firsts = _origin_firsts(batch, np.cumsum(sizes) - sizes)
    lengths = _list(batch, "origin_starts").value_lengths().to_numpy(zero_copy_only=False)
    writer.texts(
        "recording_id", batch["name"].combine_chunks().take(pa.array(np.repeat(np.arange(len(batch)), lengths)))
    )
    for name in ORIGIN:
        writer.texts(name, _list(batch, name).flatten())
    writer.numbers("first", first_clip + firsts)
    writer.numbers("source", np.full(len(firsts), source))
    return len(firsts)


def each_name(catalogue: Catalogue) -> Iterator[tuple[str, list[str]]]:
    """Yield the columns of few texts with what they hold, in order: what a page offers to choose from."""
    yield "source", catalogue.sources
    for name in NAMES:
        yield name, sorted(value for value in catalogue.names[name] if value is not None)
