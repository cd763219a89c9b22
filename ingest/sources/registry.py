"""The class behind each source of a ``sources.yaml``: add a line here for a new kind of source."""

from __future__ import annotations

import pkgutil

from triforce.ingest.config import Settings, Source
from triforce.ingest.sources.base import SourceKind

IMPLEMENTATIONS = {
    "podcast": "triforce.ingest.sources.podcast:Podcast",
    "librivox": "triforce.ingest.sources.librivox:LibriVox",
    "archive.org": "triforce.ingest.sources.archive_org:ArchiveOrg",
    "folder": "triforce.ingest.sources.folder:Folder",
    "youtube": "triforce.ingest.sources.youtube:Youtube",
}
"""Module and class by `Source.implementation`; imported on first use, as yt-dlp takes a second to import."""


def open_source(source: Source, settings: Settings) -> SourceKind:
    """Return the object that lists and fetches ``source``."""
    return pkgutil.resolve_name(IMPLEMENTATIONS[source.implementation])(source, settings.settings)
