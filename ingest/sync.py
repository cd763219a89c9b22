"""Bring a corpus up to date with its sources: `discover` lists what to fetch, `fetch` fetches one recording.

The way of a recording: `discover` (a `SourceKind` lists it) -> `fetch` -> `SourceKind.bring` (the media on the local
disk) -> `_examined` (what the file really is) -> `_commit` (media and row in the corpus). Wherever it fails, `Rejected`
with a reason becomes its row.

Plain functions on plain values, which Prefect tasks call.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import itertools
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from triforce.ingest import ledger, storage
from triforce.ingest.config import Settings, Source
from triforce.ingest.corpus.records import GIVEN_UP, Recording, RejectReason, Status
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import REASONS, Rejected
from triforce.ingest.fetch import transcripts
from triforce.ingest.fetch.download import discard
from triforce.ingest.fetch.examine import examine
from triforce.ingest.listing import Listing
from triforce.ingest.locks import exclusive
from triforce.ingest.sources.base import LocalMedia
from triforce.ingest.sources.registry import open_source

logger = logging.getLogger(__name__)

UNWANTED = {RejectReason.FILTERED, RejectReason.TOO_SHORT, RejectReason.TOO_LONG}
"""Reasons that the settings ask for: such a recording counts as rejected, and not as failed."""

TOOLS = ("av", "feedparser", "httpx", "yt-dlp")
"""Packages whose versions are noted in each row."""


def discover(
    source: Source, settings: Settings, corpus: Corpus, *, on_problem: Callable[[Rejected], None] | None = None
) -> Iterator[Recording]:
    """Yield the recordings of ``source`` to fetch: new ones first, then those whose failure may have passed.

    One conditional request per feed or page; what is settled in the corpus is never yielded. A feed that cannot be
    read is reported to ``on_problem`` (by default it is logged) and the others go on; `Rejected` if none could be read
    and nothing is pending.
    """
    on_problem = on_problem or (lambda problem: logger.warning("%s: %s", source.name, problem))
    listing = Listing(source, settings.settings, corpus, on_problem)
    yield from itertools.islice(listing.pending(), source.max_new)
    ledger.sweep(corpus, source.name)


def fetch(recording: Recording, source: Source, settings: Settings, corpus: Corpus) -> Recording:
    """Fetch one discovered recording; return its row as written: FETCHED, DUPLICATE, or REJECTED with a reason.

    A bad recording never raises. What is settled already is returned as it is, so calling twice, at the same time or
    after a crash, does no harm.
    """
    partial = ledger.partial_path(corpus, recording.recording_id)
    with exclusive(partial.with_name(f"{recording.recording_id}.lock")):
        known = _known(recording, corpus)
        if known and known.is_settled:
            return known
        try:
            return _fetch(recording, source, settings.settings, corpus, partial)
        except Rejected as rejection:
            return _record_rejection(recording, known, rejection, settings.settings, corpus, partial)


def _record_rejection(
    recording: Recording,
    known: Recording | None,
    rejection: Rejected,
    settings: Settings,
    corpus: Corpus,
    partial: Path,
) -> Recording:
    """Record why a recording was not fetched; the last of ``max_runs`` tries settles a failure that did not pass."""
    runs, detail = int(known.metadata.get("runs", "0")) + 1 if known else 1, rejection.detail
    learnt = {"runs": str(runs)}
    if rejection.reason.transient and runs >= settings.max_runs:
        learnt[GIVEN_UP] = _now()
        detail = f"{detail}; given up after {runs} runs"
    if not rejection.reason.transient or GIVEN_UP in learnt:
        discard(partial)
    row = replace(recording, metadata=recording.metadata | learnt)
    return _record(row, corpus, status=Status.REJECTED, reason=rejection.reason.value, detail=detail)


def _known(recording: Recording, corpus: Corpus) -> Recording | None:
    try:
        return corpus.read_recording(recording.source, recording.recording_id)
    except FileNotFoundError:
        return None


def _fetch(recording: Recording, source: Source, settings: Settings, corpus: Corpus, partial: Path) -> Recording:
    kind = open_source(source, settings)
    if claimed := ledger.find_owner(corpus, recording, ledger.keys_of(recording)):
        claim, owner = claimed
        if claim != "url" or "removed_at" in owner.metadata or kind.is_same(recording, owner):
            return _record_duplicate(recording, corpus, claim, owner)
    shortest_s, longest_s = source.duration_limits_s(settings)  # of the sound, not of what the source says of it
    media = kind.bring(recording, partial)
    try:
        found, extension = _examined(media, shortest_s, longest_s)
        if kind.wants_transcripts:
            found = replace(found, metadata=found.metadata | transcripts.store(found, settings, corpus))
        return _commit(found, corpus, media.path, extension)
    finally:
        discard(media.path)


def _examined(media: LocalMedia, shortest_s: float, longest_s: float) -> tuple[Recording, str]:
    """Return the recording with what its media really is, and the extension for its file name."""
    recording = media.recording
    sound = examine(media.path, max_duration_s=longest_s)
    if sound.duration_s < shortest_s:
        raise Rejected(RejectReason.TOO_SHORT, f"{sound.duration_s:.2f} s of sound, the least is {shortest_s} s")
    metadata = recording.metadata | {
        "pcm_sha256": sound.pcm_sha256,
        "decoded_duration_s": f"{sound.duration_s:.3f}",
        "codec": sound.codec,
        "sample_rate_hz": str(sound.sample_rate_hz),
        "channels": str(sound.num_channels),
    }
    return replace(recording, num_bytes=media.num_bytes, sha256=media.sha256, metadata=metadata), sound.extension


def _commit(recording: Recording, corpus: Corpus, path: Path, extension: str) -> Recording:
    """Place the media file, then the row, unless another recording has the same bytes or sound."""
    media_path = corpus.media_path(recording.source, recording.recording_id, extension)
    keys = ledger.keys_of(recording, sha256=recording.sha256, pcm_sha256=recording.metadata["pcm_sha256"])
    beyond_doubt = {kind: key for kind, key in keys.items() if kind != "url"}
    with ledger.commit_lock(corpus):
        if owner := ledger.find_owner(corpus, recording, beyond_doubt):
            return _record_duplicate(recording, corpus, *owner)
        ledger.write_claims(corpus, recording, keys)
        with storage.atomic_file(storage.join(corpus.uri, media_path)) as temporary:
            _move(path, temporary)
        return _record(recording, corpus, status=Status.FETCHED, reason=None, detail=None, media_path=media_path)


def _move(path: Path, target: Path) -> None:
    try:
        path.replace(target)
    except OSError:  # the corpus is on another filesystem
        shutil.copyfile(path, target)


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
    """Return the installed versions of `TOOLS`."""
    return {name: importlib.metadata.version(name) for name in TOOLS}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _record(recording: Recording, corpus: Corpus, **outcome) -> Recording:
    row = replace(recording, fetched_at=_now(), tool_versions=tool_versions(), **outcome)
    corpus.write_recording(row)
    return row


class BlockCounter:
    """Count of blocks (HTTP 429 and the like) in a row; past ``allowed`` a source is left alone for this run."""

    def __init__(self, allowed: int):
        self._allowed, self._in_a_row = allowed, 0
        self.exceeded = False

    def add(self, reason: str | None) -> None:
        """Count a recording that was rejected for ``reason``, None where it was not."""
        self._in_a_row = self._in_a_row + 1 if reason == RejectReason.BLOCKED else 0
        self.exceeded |= self._in_a_row >= self._allowed


@dataclass
class SyncSummary:
    """Counts of what a sync of one source did."""

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
        """Count a row as `fetch` returned it."""
        self.fetched += recording.status == Status.FETCHED
        self.duplicates += recording.status == Status.DUPLICATE
        self.num_bytes += (recording.num_bytes or 0) if recording.status == Status.FETCHED else 0
        if recording.status == Status.REJECTED:
            self.rejected[recording.reason] += 1

    def add_problem(self, problem: Rejected) -> None:
        """Count a feed or page that `discover` could not read."""
        self.problems.append(str(problem))
        self.blocked |= problem.reason is RejectReason.BLOCKED

    @property
    def failed(self) -> Counter:
        """Rejected recordings by reason, without those that the settings leave out."""
        return Counter({reason: count for reason, count in self.rejected.items() if reason not in UNWANTED})

    @property
    def failed_share(self) -> float:
        """Share of failed recordings in all that were looked at."""
        done = self.fetched + self.duplicates + self.rejected.total()
        return self.failed.total() / done if done else 0.0

    def failure(self, settings: Settings) -> str | None:
        """Return why this sync counts as failed, None if it went well enough."""
        if self.failed_share > settings.max_failed_share:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.failed.most_common())
            limit = f"the limit is {settings.max_failed_share:.0%}"
            advice = REASONS[RejectReason(self.failed.most_common(1)[0][0])].advice
            return f"{self.source}: {self.failed_share:.0%} rejected ({reasons}), {limit}; {advice}"
        if self.problems and not self.discovered:
            return f"{self.source}: nothing could be read: {self.problems[0]}"
        return None
