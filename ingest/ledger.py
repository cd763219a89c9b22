"""Ledger of a sync: what it remembers between runs, in the corpus itself.

::

    state/source=<source>/pending.jsonl     discovered recordings that are not settled yet, in order of discovery
    state/source=<source>/pages.json        validators and hashes of feeds and pages, as of when ``pending`` was written
    state/claims/<kind>/<aa>/<hash>         "<source>/<recording_id>": who had this guid, address, bytes or sound first
    state/partial/<recording_id>            a download under way

All of it can be lost: then feeds are read in full and recordings looked at once more, and nothing is fetched twice.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from triforce.ingest import storage
from triforce.ingest.corpus.records import Recording, RejectReason, Status
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.locks import exclusive

CLAIM_KINDS = {
    "guid": RejectReason.DUPLICATE_ID,
    "url": RejectReason.DUPLICATE_URL,
    "bytes": RejectReason.DUPLICATE_BYTES,
    "audio": RejectReason.DUPLICATE_AUDIO,
}

TRACKING_KEY = re.compile(
    # Who asks and from where, then what signs an address for a day.
    r"utm_.*|fbclid|gclid|dclid|msclkid|mc_[ce]id|_ga|aw_0_1st\.(playerid|ts|skey)|aw_0_azn\..*"
    r"|x-(amz|goog)-.*|key-pair-id|awsaccesskeyid|googleaccessid|signature|expires|policy",
    re.IGNORECASE,
)
"""Keys of a query that never name a recording. All others may: ``id``, ``src``, ``token``."""

# Redirectors that count listeners and put the true address behind their own: "<redirector>/<true host>/<true path>".
TRACKING_PREFIX = re.compile(
    r"^(?:(?:www\.|dts\.)?podtrac\.com/(?:pts/)?redirect\.\w+|pdst\.fm/e|chtbl\.com/track/\w+|chrt\.fm/track/\w+|op3\.dev/e(?:,[^/]*)?"
    r"|mgln\.ai/e/\w+|pscrb\.fm/rss/p|verifi\.podscribe\.com/rss/p|prfx\.byspotify\.com/e|pdcn\.co/e|media\.blubrry\.com/[\w-]+"
    r"|claritaspod\.com/measure|arttrk\.com/p/\w+|swap\.fm/track/\w+)/",
    re.IGNORECASE,
)


def canonical_url(url: str) -> str:
    """Return ``url`` without scheme, fragment and what only counts visitors, for comparing; not for fetching.

    Addresses that are equal by it are likely of the same recording, no more: `SourceKind.is_same` settles it.
    """
    try:
        parts = urlsplit(url)
        port = "" if parts.port in (None, 80, 443) else f":{parts.port}"
    except ValueError:
        return url  # no address, as the download will find
    if parts.scheme == "file":
        return url  # with its fragment, which names the chapter
    bare = f"{(parts.hostname or '').removeprefix('www.')}{port}{parts.path}"
    while match := TRACKING_PREFIX.match(bare):
        bare = re.sub(r"^https?(://|:/|/)", "", bare[match.end() :])
    kept = [
        (key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if not TRACKING_KEY.fullmatch(key)
    ]
    return f"{bare}?{urlencode(sorted(kept))}" if kept else bare


def _state(corpus: Corpus, *parts: str) -> str:
    return storage.join(corpus.uri, "state", *parts)


# Pending recordings and page validators.


def read_pending(corpus: Corpus, source: str) -> list[Recording] | None:
    """Return the recordings discovered earlier, None where the list is lost or there never was one."""
    try:
        data = storage.read_bytes(_state(corpus, f"source={source}", "pending.jsonl"))
        return [Recording(**json.loads(line)) for line in data.splitlines()]
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_pending(corpus: Corpus, source: str, recordings: Iterable[Recording]) -> None:
    """Write the recordings that are discovered and not settled."""
    with (
        storage.atomic_file(_state(corpus, f"source={source}", "pending.jsonl")) as path,
        path.open("w", encoding="utf-8") as file,
    ):
        for recording in recordings:
            file.write(json.dumps(vars(recording), ensure_ascii=False) + "\n")


def read_pages(corpus: Corpus, source: str) -> dict[str, dict[str, Any]]:
    """Return notes by page address: ``etag``, ``last_modified``, ``sha256``, and what a source adds, as ``next``."""
    try:
        return json.loads(storage.read_bytes(_state(corpus, f"source={source}", "pages.json")))
    except (FileNotFoundError, ValueError):
        return {}


def write_pages(corpus: Corpus, source: str, pages: dict[str, dict[str, Any]]) -> None:
    """Write the notes that `read_pages` returns."""
    storage.write_bytes(
        _state(corpus, f"source={source}", "pages.json"), json.dumps(pages, indent=0, sort_keys=True).encode()
    )


def forget_pages(corpus: Corpus, source: str) -> None:
    """Forget validators, so that the next discovery reads every page in full."""
    storage.remove(_state(corpus, f"source={source}", "pages.json"))


# Claims: what makes a duplicate.


def keys_of(recording: Recording, *, sha256: str | None = None, pcm_sha256: str | None = None) -> dict[str, str]:
    """Return what ``recording`` may share with another one, by kind of claim."""
    keys = {"url": canonical_url(recording.url)} if recording.url else {}
    if is_universal(recording.source_id):
        keys["guid"] = recording.source_id
    if sha256:
        keys["bytes"] = sha256
    if pcm_sha256:
        keys["audio"] = pcm_sha256
    return keys


def is_universal(identifier: str) -> bool:
    """Whether an id is likely the only one of its kind in the world: an address, a UUID, but not "episode-3"."""
    if "://" in identifier or identifier.startswith("tag:"):
        return True
    return len(identifier) >= 20 and len(set(identifier)) >= 8


def find_owner(corpus: Corpus, recording: Recording, keys: dict[str, str]) -> tuple[str, Recording] | None:
    """Return the kind of claim and the other recording that holds it; None if this one is the first."""
    for kind in CLAIM_KINDS:
        if kind not in keys:
            continue
        try:
            source, recording_id = storage.read_bytes(_claim_uri(corpus, kind, keys[kind])).decode().split("/")
            if recording_id == recording.recording_id:
                continue
            owner = corpus.read_recording(source, recording_id)
        except (FileNotFoundError, ValueError):
            continue  # no claim, or its owner was never finished
        if owner.status == Status.FETCHED or "removed_at" in owner.metadata:
            return kind, owner
    return None


def write_claims(corpus: Corpus, recording: Recording, keys: dict[str, str]) -> None:
    """Record that the keys are those of ``recording``, without waiting for the disk.

    A claim lost in a power cut is one duplicate missed, and `verify` restores it.
    """
    owner = f"{recording.source}/{recording.recording_id}".encode()
    for kind, key in keys.items():
        uri = _claim_uri(corpus, kind, key)
        if not storage.is_local(corpus.uri):
            storage.write_bytes(uri, owner)
            continue
        path = Path(storage.resolve(uri)[1])
        temporary = path.with_name(f"{storage.TEMPORARY_PREFIX}{recording.recording_id}-{path.name}")
        with storage.named_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(owner)
            temporary.replace(path)


def _claim_uri(corpus: Corpus, kind: str, key: str) -> str:
    name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return _state(corpus, "claims", kind, name[:2], name)


# Places and locks.


def partial_path(corpus: Corpus, recording_id: str) -> Path:
    """Return a local file to download into, inside the corpus where that is local, so that a later run resumes it."""
    if storage.is_local(corpus.uri):
        return Path(storage.resolve(_state(corpus, "partial"))[1]) / recording_id
    name = hashlib.sha256(corpus.uri.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"triforce-partial-{name}" / recording_id


def discard_partial(corpus: Corpus, recording_id: str) -> None:
    """Remove the files that a download of this recording left behind, whatever their extensions."""
    path = partial_path(corpus, recording_id)
    for file in path.parent.glob(f"{recording_id}*"):
        if file.suffix != ".lock":
            file.unlink(missing_ok=True)


STALE_TEMPORARY_S, STALE_PARTIAL_S = 86_400.0, 30 * 86_400.0
"""Age at which files of killed runs are removed: a day for half-written ones, 30 days for downloads that no run
resumed. Assumed.
"""


def sweep(corpus: Corpus, source: str) -> int:
    """Remove half-written files of this source that killed runs left, and downloads given up; return their number.

    Once a day at most: it lists every file of the source.
    """
    swept = _state(corpus, f"source={source}", "swept")
    path = Path(storage.resolve(swept)[1])
    if not storage.is_local(corpus.uri) or (path.exists() and time.time() - path.stat().st_mtime < STALE_TEMPORARY_S):
        return 0
    folders = [storage.join(corpus.uri, name, f"source={source}") for name in ("recordings", "clips", "state")]
    count = sum(storage.remove_stale_temporaries(folder, older_than_s=STALE_TEMPORARY_S) for folder in folders)
    partial = _state(corpus, "partial")
    count += storage.remove_stale_temporaries(partial, prefix="", older_than_s=STALE_PARTIAL_S)
    storage.write_bytes(swept, b"")
    return count


def commit_lock(corpus: Corpus) -> AbstractContextManager:
    """Return the lock held from the search for duplicates until the row is written, so that one of two equals wins."""
    return exclusive(partial_path(corpus, "commit").with_suffix(".lock"))
