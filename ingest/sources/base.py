"""Base class of all kinds of sources: the methods that discovery and fetching call."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from triforce.ingest.config import Settings, Source
from triforce.ingest.corpus.records import Recording
from triforce.ingest.fetch.download import check_declared, download
from triforce.ingest.fetch.web import is_unchanged
from triforce.ingest.sources.pages import Pages

Config = TypeVar("Config", bound=Source)


@dataclass(frozen=True)
class LocalMedia:
    """A recording's media file on the local disk."""

    recording: Recording
    """The recording, with what was learnt while its media was fetched."""
    path: Path
    num_bytes: int
    sha256: str


class SourceKind(abc.ABC, Generic[Config]):
    """A source of a ``sources.yaml`` at work. Subclasses list its recordings; most need no other method.

    Instances hold settings alone and are made where they are needed: what is remembered between runs is in `Pages`.
    """

    def __init__(self, config: Config, settings: Settings):
        self.config, self.settings = config, settings

    @abc.abstractmethod
    def listings(self, pages: Pages) -> Iterator[Iterable[Recording]]:
        """Yield the source's feeds, books or channels, each as its recordings.

        Iterating over one of them may raise `Rejected`: it is reported, and the others are read all the same.
        """

    def bring(self, recording: Recording, target: Path) -> LocalMedia:
        """Bring the media of ``recording`` to the local disk, at ``target`` or beside it; `Rejected` if it cannot be.

        By default the recording's URL is downloaded and compared with the checksum that the source states.
        """
        result = download(recording.url, target, self.settings)
        check_declared(recording, target)
        learnt = {"final_url": result.url} if result.url != recording.url else {}
        for name in ("content_type", "etag", "last_modified"):
            learnt |= {name: value} if (value := getattr(result, name)) else {}
        recording = replace(recording, metadata=recording.metadata | learnt)
        return LocalMedia(recording, target, result.num_bytes, result.sha256)

    def is_same(self, recording: Recording, other: Recording) -> bool:
        """Whether ``recording`` is the fetched ``other``, whose address it has. If not, its bytes are compared.

        By default the server is asked whether what it serves there has changed since.
        """
        validators = {name: other.metadata.get(name) for name in ("etag", "last_modified")}
        return is_unchanged(recording.url, self.settings, **validators)

    @property
    def wants_transcripts(self) -> bool:
        """Whether a transcript that a recording's metadata names is fetched and stored beside it."""
        return False

    @property
    def blocks_allowed(self) -> int:
        """Number of blocks (HTTP 429 and the like) in a row after which the source is left alone for this run."""
        return self.settings.max_blocks
