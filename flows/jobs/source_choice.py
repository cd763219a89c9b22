"""Which of a ``sources.yaml``'s sources a run visits."""

from __future__ import annotations

from typing import Literal

from triforce.ingest.config import Source, SourcesConfig, load_sources

Kind = Literal["podcast", "audiobook", "youtube"]


def choose_sources(uri: str, kind: Kind, only: list[str] | None = None) -> tuple[SourcesConfig, list[Source]]:
    """The file at ``uri``, and its enabled sources of one kind or, with ``only``, those of that kind that are named.

    Raises ValueError for a bad file, for a name that is not in it, and where nothing is left to visit.
    """
    config = load_sources(uri)
    for name in only or []:
        config.source(name)
    chosen = [
        source
        for source in config.sources
        if source.kind == kind and (source.name in only if only is not None else source.enabled)
    ]
    if not chosen:
        raise ValueError(f"{uri}: no enabled source of kind {kind!r}{f' among {only}' if only else ''}; add one")
    return config, chosen


def kinds_of(uri: str) -> list[Kind]:
    """The kinds of the enabled sources in the file at ``uri``, in its order."""
    return list(dict.fromkeys(source.kind for source in load_sources(uri).sources if source.enabled))
