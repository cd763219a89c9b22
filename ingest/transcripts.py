"""Transcripts and captions that people published, kept beside the media file to compare recognised text with."""

from __future__ import annotations

from triforce.ingest import storage
from triforce.ingest.config import PodcastSource, Settings, Source, YoutubeSource
from triforce.ingest.corpus import Corpus, Recording
from triforce.ingest.errors import Rejected
from triforce.ingest.web import get_document

MAX_BYTES = 16 << 20
"""A day of speech with a time for each word takes 10 MB as JSON. Assumed."""

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
    """Where a transcript lies, relative to the corpus."""
    return f"recordings/source={recording.source}/{recording.recording_id}.transcript.{ending}"


def store(recording: Recording, source: Source, settings: Settings, corpus: Corpus) -> dict[str, str]:
    """Fetch the transcript that ``recording`` names and keep it; what to add to the recording's metadata.

    A transcript that cannot be had is no fault of the recording: the metadata says why it is missing.
    """
    url = recording.metadata.get("transcript_url")
    wanted = (isinstance(source, PodcastSource) and source.transcripts) or isinstance(source, YoutubeSource)
    if not url or not wanted:
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
