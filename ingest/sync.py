"""Bring a corpus up to date with its sources: what is new, fetch it, write down what became of it.

Plain functions on plain values: `sync_source` is their loop, and Prefect or Ray tasks call `discover` and `fetch`
alike.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from triforce.ingest import ledger, storage
from triforce.ingest.config import AudiobookSource, PodcastSource, Settings, Source
from triforce.ingest.corpus.schema import Recording, RejectReason, Status
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch import examine as media
from triforce.ingest.fetch import transcripts
from triforce.ingest.fetch.download import discard, download
from triforce.ingest.listing import Listing
from triforce.ingest.sources import folder

logger = logging.getLogger(__name__)

UNWANTED = {RejectReason.FILTERED, RejectReason.TOO_SHORT, RejectReason.TOO_LONG}

TOOLS = ("av", "feedparser", "httpx", "yt-dlp")


def discover(
    source: Source, settings: Settings, corpus: Corpus, *, on_problem: Callable[[Rejected], None] | None = None
) -> Iterator[Recording]:
    """The recordings of ``source`` that a sync should fetch: new ones first, then those whose failure may have passed.

    One conditional request per feed or page; what is settled in the corpus is never yielded. A feed that cannot be
    read is told to ``on_problem`` (by default it is logged) and the others go on; `Rejected` if none could be read and
    nothing is pending.
    """
    listing = Listing(
        source,
        settings.settings,
        corpus,
        on_problem or (lambda problem: logger.warning("%s: %s", source.name, problem)),
    )
    yield from itertools.islice(listing.pending(), source.max_new)
    ledger.sweep(corpus, source.name)


def fetch(recording: Recording, source: Source, settings: Settings, corpus: Corpus) -> Recording:
    """Fetch one discovered recording; its row as written: FETCHED, DUPLICATE, or REJECTED with a reason.

    A bad recording never raises. What is settled already is given back as it is, so calling twice, at the same time or
    after a crash, does no harm.
    """
    settings = settings.settings
    partial = ledger.partial_path(corpus, recording.recording_id)
    with ledger.exclusive(partial.with_name(f"{recording.recording_id}.lock")):
        known = _known(recording, corpus)
        if known and known.is_settled:
            return known
        try:
            return _fetch(recording, source, settings, corpus, partial)
        except Rejected as rejection:
            if not rejection.reason.transient:
                discard(partial)
            runs = int(known.metadata.get("runs", "0")) + 1 if known else 1
            return _record(
                replace(recording, metadata=recording.metadata | {"runs": str(runs)}),
                corpus,
                status=Status.REJECTED,
                reason=rejection.reason.value,
                detail=rejection.detail,
            )


def _known(recording: Recording, corpus: Corpus) -> Recording | None:
    try:
        return corpus.read_recording(recording.source, recording.recording_id)
    except FileNotFoundError:
        return None


def _fetch(recording: Recording, source: Source, settings: Settings, corpus: Corpus, partial: Path) -> Recording:
    if owner := ledger.find_owner(corpus, recording, ledger.keys_of(recording)):
        return _record_duplicate(recording, corpus, *owner)
    shortest_s = settings.min_duration_s if source.min_duration_s is None else source.min_duration_s
    longest_s = source.max_duration_s or settings.max_duration_s
    if recording.duration_s and recording.duration_s > longest_s:
        raise Rejected(
            RejectReason.TOO_LONG, f"declared as {recording.duration_s:.0f} s, the limit is {longest_s:.0f} s"
        )
    path, num_bytes, sha256, recording = _bring(recording, source, settings, partial)
    try:
        with path.open("rb") as file:
            extension = media.sniff_extension(file.read(media.HEAD_BYTES))
        if extension is None:
            raise Rejected(RejectReason.NOT_AUDIO, f"{recording.url}: {num_bytes} bytes of no known audio format")
        sound = media.examine(path, max_duration_s=longest_s)
        if sound.duration_s < shortest_s:
            raise Rejected(RejectReason.TOO_SHORT, f"{sound.duration_s:.2f} s of sound, the least is {shortest_s} s")
        metadata = recording.metadata | {
            "pcm_sha256": sound.pcm_sha256,
            "decoded_duration_s": f"{sound.duration_s:.3f}",
            "codec": sound.codec,
            "sample_rate_hz": str(sound.sample_rate_hz),
            "channels": str(sound.num_channels),
        }
        metadata |= transcripts.store(recording, source, settings, corpus)
        found = replace(recording, num_bytes=num_bytes, sha256=sha256, metadata=metadata)
        return _commit(found, corpus, path, corpus.media_path(recording.source, recording.recording_id, extension))
    finally:
        discard(path)


def _bring(recording: Recording, source: Source, settings: Settings, partial: Path) -> tuple[Path, int, str, Recording]:
    """The media file on the local disk: path, bytes, SHA-256, and the recording with what was learnt on the way."""
    if isinstance(source, AudiobookSource) and source.library == "folder":
        num_bytes, sha256 = folder.copy_file(recording, source, partial, max_bytes=settings.max_bytes)
        return partial, num_bytes, sha256, recording
    if isinstance(source, PodcastSource | AudiobookSource):
        result = download(recording.url, partial, settings)
        check_declared(recording, partial)
        extra = {"final_url": result.url} if result.url != recording.url else {}
        extra |= {"content_type": result.content_type} if result.content_type else {}
        return partial, result.num_bytes, result.sha256, replace(recording, metadata=recording.metadata | extra)
    from triforce.ingest.sources import youtube  # yt-dlp takes a second to import

    path, info = youtube.fetch_video(recording, source, settings, partial)
    learnt = {
        "title": info.get("title"),
        "author": info.get("uploader") or info.get("channel"),
        "licence": info.get("license"),
        "language": info.get("language"),
        "duration_s": info.get("duration"),
    }
    known = {key: value for key, value in learnt.items() if value and not getattr(recording, key)}
    extra = youtube.captions_of(info, recording.language) if source.captions else {}
    recording = replace(recording, metadata=recording.metadata | extra, **known)
    return path, path.stat().st_size, storage.sha256_of(path), recording


def check_declared(recording: Recording, path: Path) -> None:
    """`Rejected` if the file is not the one whose checksum the source states."""
    for name in ("sha512", "sha384", "sha256", "sha1", "md5"):
        if declared := recording.metadata.get(f"declared_{name}"):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, name).hexdigest()
            if found != declared.lower():
                detail = f"{recording.url}: {name} {found}, the source states {declared}"
                raise Rejected(RejectReason.BAD_CHECKSUM, detail)
            return


def _commit(recording: Recording, corpus: Corpus, path: Path, media_path: str) -> Recording:
    """Place the media file, then the row, unless another recording has the same bytes or sound."""
    keys = ledger.keys_of(recording, sha256=recording.sha256, pcm_sha256=recording.metadata["pcm_sha256"])
    with ledger.commit_lock(corpus):
        if owner := ledger.find_owner(corpus, recording, keys):
            return _record_duplicate(recording, corpus, *owner)
        ledger.write_claims(corpus, recording, keys)
        with storage.atomic_file(storage.join(corpus.uri, media_path)) as temporary:
            _move(path, temporary)
        return _record(recording, corpus, status=Status.FETCHED, reason=None, detail=None, media_path=media_path)


def _move(path: Path, target: Path) -> None:
    try:
        path.replace(target)
    except OSError:  # the corpus is on another filesystem
        target.write_bytes(b"")
        with path.open("rb") as read, target.open("wb") as write:
            while block := read.read(1 << 20):
                write.write(block)


def _record_duplicate(recording: Recording, corpus: Corpus, kind: str, owner: Recording) -> Recording:
    name = f"{owner.source}/{owner.recording_id}"
    if "removed_at" in owner.metadata:
        raise Rejected(
            RejectReason.FORBIDDEN, f"same {kind} as {name}, which was removed on {owner.metadata['removed_at']}"
        )
    return _record(
        replace(recording, metadata=recording.metadata | {"duplicate_of": name}),
        corpus,
        status=Status.DUPLICATE,
        reason=ledger.CLAIM_KINDS[kind].value,
        detail=f"same {kind} as {name}",
    )


@functools.cache
def tool_versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in TOOLS}


def _record(recording: Recording, corpus: Corpus, **outcome) -> Recording:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    row = replace(recording, fetched_at=now, tool_versions=tool_versions(), **outcome)
    corpus.write_recording(row)
    return row


@dataclass
class SyncSummary:
    """What a sync of one source did."""

    source: str
    discovered: int = 0
    fetched: int = 0
    duplicates: int = 0
    rejected: Counter = field(default_factory=Counter)
    """Rejected recordings by reason."""
    num_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    """Feeds and pages that could not be read."""
    blocked: bool = False
    """Whether the source was left before its end, as it answered with blocks only."""

    def add(self, recording: Recording) -> None:
        self.fetched += recording.status == Status.FETCHED
        self.duplicates += recording.status == Status.DUPLICATE
        self.num_bytes += (recording.num_bytes or 0) if recording.status == Status.FETCHED else 0
        if recording.status == Status.REJECTED:
            self.rejected[recording.reason] += 1

    def add_problem(self, problem: Rejected) -> None:
        self.problems.append(str(problem))
        self.blocked |= problem.reason is RejectReason.BLOCKED

    @property
    def failed(self) -> Counter:
        """The rejected that somebody wanted: what the settings leave out is no failure."""
        return Counter({reason: count for reason, count in self.rejected.items() if reason not in UNWANTED})

    @property
    def failed_share(self) -> float:
        done = self.fetched + self.duplicates + self.rejected.total()
        return self.failed.total() / done if done else 0.0

    def failure(self, settings: Settings) -> str | None:
        """Why this sync must count as failed, None if it went well enough."""
        if self.failed_share > settings.max_failed_share:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.failed.most_common())
            limit = f"the limit is {settings.max_failed_share:.0%}"
            return f"{self.source}: {self.failed_share:.0%} rejected ({reasons}), {limit}"
        if self.problems and not self.discovered:
            return f"{self.source}: nothing could be read: {self.problems[0]}"
        return None


def sync_source(
    source: Source, settings: Settings, corpus: Corpus, *, on_recording: Callable[[Recording], None] | None = None
) -> SyncSummary:
    """Discover and fetch one source, one recording after the other.

    ``on_recording`` sees each row once it is written.
    """
    summary = SyncSummary(source.name)
    # `Rejected` is raised only when nothing could be read, and `on_problem` was told of each of those before.
    with contextlib.suppress(Rejected):
        found = discover(source, settings, corpus, on_problem=summary.add_problem)
        _fetch_all(found, source, settings, corpus, summary, on_recording)
    return summary


def blocks_allowed(source: Source, settings: Settings) -> int:
    """Blocks in a row after which a source is left alone for this run: the first is enough for sites that remember."""
    return 1 if source.kind == "youtube" else settings.max_blocks


def _fetch_all(
    found: Iterable[Recording], source: Source, settings: Settings, corpus: Corpus, summary: SyncSummary, on_recording
) -> None:
    blocks = 0
    for recording in found:
        summary.discovered += 1
        row = fetch(recording, source, settings, corpus)
        summary.add(row)
        if on_recording:
            on_recording(row)
        blocks = blocks + 1 if row.reason == RejectReason.BLOCKED else 0
        if blocks >= blocks_allowed(source, settings):
            summary.blocked = True
            logger.warning("%s: left alone for this run after %d blocks in a row", source.name, blocks)
            return
