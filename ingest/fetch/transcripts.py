"""Transcripts, captions and books' texts that people published, stored beside the media file in UTF-8.

What becomes of them is told in `triforce.ingest.align`.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import json
import re
import time
from dataclasses import dataclass

import charset_normalizer

from triforce.ingest import ledger, storage
from triforce.ingest.config import Settings
from triforce.ingest.corpus.records import Recording, RejectReason
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.web import get_document

MAX_BYTES = 16 << 20
"""Largest transcript in bytes: a day of speech with a time for each word takes 10 MB as JSON. Assumed."""

SAMPLE_BYTES = 64 << 10
"""Bytes that tell the encoding of a text that is not UTF-8. Assumed."""
SHARED = "transcript_shared"
"""Metadata key: the transcript is that of all recordings of a book."""
FORGIVE_S = 24 * 3600.0
"""Seconds after which a shared transcript that could not be had is asked for again. Assumed."""

ENDINGS = {
    "text/vtt": "vtt",
    "application/srt": "srt",
    "application/x-subrip": "srt",
    "text/srt": "srt",
    "application/json": "json",
    "text/html": "html",
    "text/plain": "txt",
}


def transcript_path(recording: Recording, ending: str) -> str:
    """Return the path of a transcript, relative to the corpus."""
    return f"recordings/source={recording.source}/{recording.recording_id}.transcript.{ending}"


def store(recording: Recording, settings: Settings, corpus: Corpus) -> dict[str, str]:
    """Fetch and store the transcript that ``recording`` names, if any; return what to add to its metadata.

    A transcript that cannot be had is no fault of the recording: the metadata says why it is missing. One that many
    recordings share, as a book's text, is fetched once, and remembered in the corpus's state.
    """
    url = recording.metadata.get("transcript_url")
    if not url:
        return {}
    kind = recording.metadata.get("transcript_type", "").split(";")[0].strip().lower()
    ending = kind if kind in ENDINGS.values() else ENDINGS.get(kind, "txt")
    try:
        body = (
            _fetch_shared(url, recording, settings, corpus) if SHARED in recording.metadata else _fetch(url, settings)
        )
    except Rejected as rejection:
        return {"transcript_fault": str(rejection)}
    path = transcript_path(recording, ending)
    storage.write_bytes(storage.join(corpus.uri, path), body)
    return {"transcript_path": path}


def _fetch(url: str, settings: Settings) -> bytes:
    limit = min(MAX_BYTES, settings.max_document_bytes)
    document = get_document(url, settings.model_copy(update={"max_document_bytes": limit}))
    return as_utf8(document.body or b"", document.charset)


def _fetch_shared(url: str, recording: Recording, settings: Settings, corpus: Corpus) -> bytes:
    """Fetch what another recording of the source may have fetched already, or found to be missing in the last day."""
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    kept = storage.join(corpus.uri, "state", f"source={recording.source}", "transcripts", name)
    with ledger.exclusive(ledger.partial_path(corpus, f"{name}.transcript").with_suffix(".lock")):
        with contextlib.suppress(FileNotFoundError):
            return storage.read_bytes(f"{kept}.txt")
        failed = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            failed = json.loads(storage.read_bytes(f"{kept}.json"))
        if 0 <= time.time() - failed.get("at", 0) < FORGIVE_S:
            raise Rejected(RejectReason(failed["reason"]), failed["detail"])
        try:
            body = _fetch(url, settings)
        except Rejected as error:
            failed = {"at": time.time(), "reason": error.reason.value, "detail": error.detail}
            storage.write_bytes(f"{kept}.json", json.dumps(failed).encode())
            raise
        storage.write_bytes(f"{kept}.txt", body)
        return body


def as_utf8(body: bytes, charset: str | None = None) -> bytes:
    """Return text in UTF-8: as it is where it is that, else by the ``charset`` that the server states, else by what its
    letters say."""
    for name in filter(None, ("utf-8", charset)):
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            return body if name == "utf-8" and body.decode(name) else body.decode(name).encode()
    best = charset_normalizer.from_bytes(body[:SAMPLE_BYTES]).best()
    return body.decode(best.encoding if best else "cp1252", "replace").encode()


@dataclass(frozen=True)
class Cue:
    """A line of a published transcript, and when it is said, in seconds of the recording."""

    start_s: float
    end_s: float
    text: str


TIMES = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})\s*-->\s*(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})")
"""Times of a cue, as WebVTT and SubRip write them."""


def parse_cues(text: str, ending: str) -> list[Cue]:
    """Return the cues of a transcript in WebVTT, SubRip or Podcasting 2.0's JSON; none where it has no times."""
    # webvtt-py refuses files that feeds carry: without the line WEBVTT, SubRip without numbers, times without hours.
    if ending == "json":
        return _json_cues(text)
    cues: list[Cue] = []
    if ending in ("vtt", "srt"):
        for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
            if match := TIMES.search(block):
                lines = block[match.end() :].split("\n")[1:]  # behind the times there may be settings
                start, end = match.groups()[:4], match.groups()[4:]
                cues.append(Cue(_seconds(*start), _seconds(*end), _spoken(" ".join(lines))))
    return cues


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction) / 10 ** len(fraction)


def _spoken(text: str) -> str:
    """Return ``text`` without tags, such as WebVTT's ``<v Name>`` for who speaks."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", text)).split())


def _json_cues(text: str) -> list[Cue]:
    try:
        rows = json.loads(text)["segments"]
        times = [float(row["startTime"]) for row in rows]
        return [  # the format leaves endTime to whoever writes it
            Cue(start, float(row.get("endTime") or following), _spoken(str(row["body"])))
            for row, start, following in zip(rows, times, [*times[1:], times[-1] if times else 0.0], strict=True)
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


def read_cues(corpus: Corpus, recording: Recording) -> list[Cue] | None:
    """Return the cues of the transcript stored beside ``recording``; None where there is none with times."""
    path = recording.metadata.get("transcript_path")
    if not path:
        return None
    try:
        text = storage.read_bytes(storage.join(corpus.uri, path)).decode("utf-8-sig", "replace")
    except FileNotFoundError:
        return None
    return parse_cues(text, path.rsplit(".", 1)[-1]) or None


def text_between(cues: list[Cue], start_s: float, end_s: float) -> str:
    """Return the text of the cues whose middle lies between two times."""
    return " ".join(cue.text for cue in cues if start_s <= (cue.start_s + cue.end_s) / 2 < end_s)
