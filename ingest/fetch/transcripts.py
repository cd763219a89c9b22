"""Transcripts and captions that people published, stored beside the media file, to compare recognised text with."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass

from triforce.ingest import storage
from triforce.ingest.config import Settings
from triforce.ingest.corpus.records import Recording
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.web import get_document

MAX_BYTES = 16 << 20
"""Largest transcript in bytes: a day of speech with a time for each word takes 10 MB as JSON. Assumed."""

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

    A transcript that cannot be had is no fault of the recording: the metadata says why it is missing.
    """
    url = recording.metadata.get("transcript_url")
    if not url:
        return {}
    kind = recording.metadata.get("transcript_type", "").split(";")[0].strip().lower()
    ending = kind if kind in ENDINGS.values() else ENDINGS.get(kind, "txt")
    try:
        limit = min(MAX_BYTES, settings.max_document_bytes)
        document = get_document(url, settings.model_copy(update={"max_document_bytes": limit}))
    except Rejected as rejection:
        return {"transcript_fault": str(rejection)}
    path = transcript_path(recording, ending)
    storage.write_bytes(storage.join(corpus.uri, path), document.body or b"")
    return {"transcript_path": path}


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
        return [Cue(float(row["startTime"]), float(row["endTime"]), _spoken(str(row["body"]))) for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError):
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
