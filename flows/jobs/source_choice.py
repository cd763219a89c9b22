"""Choice of the sources of a ``sources.yaml`` that a run visits."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from triforce.ingest.config import KINDS, Source, SourcesConfig, load_sources


def _check_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; use one of {', '.join(KINDS)}")
    return kind


Kind = Annotated[str, AfterValidator(_check_kind), Field(json_schema_extra={"enum": list(KINDS)})]
"""A kind of source; Prefect's pages offer those there are."""


def choose_sources(uri: str, kind: Kind, only: list[str] | None = None) -> tuple[SourcesConfig, list[Source]]:
    """Return the file at ``uri`` and its enabled sources of one kind or, with ``only``, the named ones of that kind.

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
    """Return the kinds of the enabled sources in the file at ``uri``, in its order."""
    return list(dict.fromkeys(source.kind for source in load_sources(uri).sources if source.enabled))
