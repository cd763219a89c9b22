"""Put the many small files of a corpus into few packs, and take them out again.

What an ingest has done with goes into packs: settled rows, and clips. Each pack is written whole, and only then are the
files removed that it holds, each if it is still the one that was read. Killed at any moment, a file is there by itself,
in a pack, or both, with the same bytes; the next call goes on.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from triforce.ingest import storage
from triforce.ingest.clips.score_index import score_index
from triforce.ingest.corpus.clip_index import clip_index
from triforce.ingest.corpus.file_index import FileIndex
from triforce.ingest.corpus.packs.change import packed_content, publish, take_out
from triforce.ingest.corpus.packs.overlay import ENDING, list_files
from triforce.ingest.corpus.packs.pack_file import MAX_FILE_BYTES, Content, Section, next_order, pack_name
from triforce.ingest.corpus.packs.pack_list import forget_removed, packs_of, stamp_of
from triforce.ingest.corpus.records import DATASET, Status
from triforce.ingest.corpus.stats import list_recordings, recording_index
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.locks import maintenance

MAX_PACK_BYTES = 1 << 30
"""Size that packs are filled up to: what a takedown of one recording writes again, at most. Assumed."""
MAX_PACK_FILES = 4096
"""Files in a pack, at most. Assumed."""
MAX_SMALL_PACKS = 8
"""Packs under half full from which on they are joined: each joining writes them again. Assumed."""
WHOLE_BYTES = 16 << 20
"""Size up to which a file is asked for in one request. Assumed."""
INDEXES: dict[str, tuple[Callable[[Corpus, str], FileIndex], ...]] = {
    "recordings": (recording_index,),
    "clips": (clip_index, score_index),
}
"""What is remembered of the files of each kind, and need not be read again once they are packed."""


@dataclass(frozen=True)
class Compacted:
    """What a call did with one folder."""

    folder: str
    """``recordings`` or ``clips``, and the source."""
    num_files: int
    """Files that went into packs, or came out of them."""
    num_bytes: int
    num_packs: int
    """Packs that there are now."""


def compact(
    corpus: Corpus,
    *,
    source: str | None = None,
    max_bytes: int = MAX_PACK_BYTES,
    on_pack: Callable[[str], None] = lambda name: None,
) -> list[Compacted]:
    """Put what is settled of a corpus into packs; return what was done in each folder.

    An ingest may run meanwhile. Takedowns, refilters and the like wait for the pack that is being written, and a file
    that cannot be read is left for `verify`. ``on_pack`` is called with each pack's address once it counts.
    """
    done = []
    for name in [source] if source else corpus.sources():
        for kind in INDEXES:
            done.append(_Compaction(corpus, kind, name, max_bytes, on_pack).run())
    return done


def unpack(corpus: Corpus, *, source: str | None = None) -> list[Compacted]:
    """Make every file of a corpus one by itself again, just as it was before it was packed."""
    done = []
    for name in [source] if source else corpus.sources():
        for kind in INDEXES:
            folder = storage.join(corpus.uri, kind, f"source={name}")
            packs, files = packs_of(folder), []
            with maintenance(corpus.uri):
                files = list(packs.look().sections().items())
                single = set(storage.list_files(folder, ENDING))
                for file, section in files:
                    if file not in single:
                        take_out(packs, file, packs.holders[file], section)
                for pack in packs.names:
                    storage.remove(packs.uri(pack))
                if files:
                    packs.look()
                    forget_removed(folder)
            num_bytes = sum(section.size for _, section in files)
            done.append(Compacted(f"{kind}/source={name}", len(files), num_bytes, 0))
    return done


class _Compaction:
    """The compaction of one folder."""

    def __init__(self, corpus: Corpus, kind: str, source: str, max_bytes: int, on_pack: Callable[[str], None]) -> None:
        self._corpus, self._kind, self._source, self._on_pack = corpus, kind, source, on_pack
        self._max_bytes = max_bytes
        self._folder = storage.join(corpus.uri, kind, f"source={source}")
        self._packs = packs_of(self._folder)
        self._stamps: dict[str, tuple[str, str]] = {}
        """Of each file that was packed, by its name without ending, the stamps that it had and has."""

    def run(self) -> Compacted:
        settled = self._settled()
        sizes, stamps = storage.list_sizes(self._folder, ENDING), storage.list_stamps(self._folder, ENDING)
        largest = min(MAX_FILE_BYTES, self._max_bytes)
        names = [  # one written a moment ago has no stamp yet, and is left for the next time
            name
            for name, size in sizes.items()
            if size <= largest and stamps.get(name) and name.removesuffix(ENDING) in settled
        ]
        num_files = num_bytes = 0
        for batch in self._batches([(name, sizes[name]) for name in names]):
            with maintenance(self._corpus.uri):  # for a pack at a time: a takedown need not wait for all of them
                packed = self._pack({name: sizes[name] for name in batch}, stamps)
            num_files, num_bytes = num_files + len(packed), num_bytes + sum(sizes[name] for name in packed)
        with maintenance(self._corpus.uri):  # a takedown must not be forgetting meanwhile what is carried over
            for index in INDEXES[self._kind]:
                index(self._corpus, self._source).carry_over(self._stamps)
            self._join_small()
        return Compacted(f"{self._kind}/source={self._source}", num_files, num_bytes, len(self._packs.look().names))

    def _settled(self) -> set[str]:
        """The recordings whose file no ingest will write again."""
        clipped = {name.removesuffix(ENDING) for name in list_files(self._clips)}
        if self._kind == "clips":
            return clipped
        return {
            row.recording_id
            for row in list_recordings(self._corpus, source=self._source)
            if row.is_settled
            and (row.status != Status.FETCHED or row.source_kind == DATASET or row.recording_id in clipped)
        }

    @property
    def _clips(self) -> str:
        return storage.join(self._corpus.uri, "clips", f"source={self._source}")

    def _batches(self, files: list[tuple[str, int]]) -> Iterator[list[str]]:
        """Yield as many names at a time as a pack has room for."""
        batch: list[str] = []
        total = 0
        for name, size in files:
            if batch and (total + size > self._max_bytes or len(batch) == MAX_PACK_FILES):
                yield batch
                batch, total = [], 0
            batch.append(name)
            total += size
        if batch:
            yield batch

    def _pack(self, sizes: dict[str, int], stamps: dict[str, str]) -> list[str]:
        """Pack files that were listed with these stamps; return the names of those that were still there."""
        names, sections = list(sizes), dict[str, Section]()
        while names:
            try:
                sections = self._publish([self._single(name, sizes[name]) for name in names])
                break
            except FileNotFoundError:  # taken out since the listing
                names = [name for name in names if storage.exists(storage.join(self._folder, name))]
        uris = {name: storage.join(self._folder, name) for name in names}
        same = [name for name, uri in uris.items() if storage.stamp_of(uri) == stamps[name]]
        storage.remove_all([uris[name] for name in same])
        self._stamps |= {name.removesuffix(ENDING): (stamps[name], stamp_of(sections[name])) for name in same}
        return names

    def _single(self, name: str, size: int) -> Content:
        fs, path = storage.resolve(storage.join(self._folder, name))
        if size > WHOLE_BYTES:
            return Content(name, size, lambda: fs.open(path, "rb"))
        return Content(name, size, lambda: io.BytesIO(fs.cat_file(path)))

    def _publish(self, files: list[Content]) -> dict[str, Section]:
        name = pack_name(next_order(self._packs.look().names), 0, uuid.uuid4().hex[:12])
        sections = publish(self._packs, name, files)
        self._on_pack(self._packs.uri(name))
        return sections

    def _join_small(self) -> None:
        """Join packs of few files that count, and remove those of none."""
        packs = self._packs.look()
        contents, holders = packs.contents, packs.holders
        small: dict[str, int] = {}
        gone = set()
        for pack, sections in contents.items():
            sizes = {name: section.size for name, section in sections.items() if holders[name] == pack}
            if not sizes:
                gone.add(pack)
            elif sum(sizes.values()) < self._max_bytes / 2 and len(sizes) < MAX_PACK_FILES / 2:
                small |= sizes
        joined = {holders[name] for name in small}
        if len(joined) >= MAX_SMALL_PACKS:
            for batch in self._batches(sorted(small.items())):
                places = [(name, holders[name]) for name in batch]
                self._publish([packed_content(packs, pack, name, contents[pack][name]) for name, pack in places])
            gone |= joined
        for pack in gone:
            storage.remove(packs.uri(pack))
        if gone:
            packs.look()
            forget_removed(self._folder)
