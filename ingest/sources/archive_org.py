"""Items of archive.org: the best file of each recording in them, with the checksum that the archive states."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import quote, urlencode

from triforce.ingest.config import AudiobookSource
from triforce.ingest.corpus.schema import Recording, RejectReason, Status, make_recording_id
from triforce.ingest.errors import Rejected
from triforce.ingest.sources.podcast import language_code, parse_duration

FORMATS = (
    *("flac", "24bit flac", "wave", "apple lossless audio", "mpeg-4 audio", "vbr mp3", "mp3"),
    *(
        "320kbps mp3",
        "256kbps mp3",
        "192kbps mp3",
        "128kbps mp3",
        "ogg vorbis",
        "96kbps mp3",
        "64kbps mp3",
        "32kbps mp3",
    ),
)
"""The archive's names of audio formats, best first. 24-bit files lose to 16-bit ones: clips have 16."""


SEARCH_ROWS = 100


def search_url(source: AudiobookSource, page: int) -> str:
    """Address of a page of the search for ``source.query``, from 1."""
    query = {
        "q": source.query,
        "fl[]": "identifier",
        "sort[]": "addeddate asc",
        "rows": SEARCH_ROWS,
        "page": page,
        "output": "json",
    }
    return f"{source.library_url}/advancedsearch.php?{urlencode(query)}"


def parse_search(body: bytes, url: str) -> list[str]:
    """The identifiers on a search page; none behind the last one."""
    try:
        rows = json.loads(body)["response"]["docs"]
        return [str(row["identifier"]) for row in rows if check_identifier(str(row["identifier"]))]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: not a page of search results: {error!r}") from error


def check_identifier(identifier: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}", identifier))


def metadata_url(source: AudiobookSource, identifier: str) -> str:
    return f"{source.library_url}/metadata/{identifier}"


def parse_item(body: bytes, url: str, identifier: str, source: AudiobookSource) -> Iterator[Recording]:
    """The recordings of an item, in the order of their names; `Rejected` for what is no item."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: not JSON: {error}") from error
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, list):
        raise Rejected(RejectReason.NOT_FOUND, f"{url}: the archive has no item {identifier!r}, or took it down")
    item = document.get("metadata")
    for file in best_files([file for file in files if isinstance(file, dict)]):
        yield _recording(file, item if isinstance(item, dict) else {}, identifier, source)


def best_files(files: list[dict]) -> list[dict]:
    """Of each recording the best of its formats. Derived files name the original they were made from."""
    groups: dict[str, list[dict]] = {}
    for file in files:
        if _rank(file) < len(FORMATS) and isinstance(file.get("name"), str) and not file.get("private"):
            original = file.get("original") if file.get("source") == "derivative" else file["name"]
            stem = str(original or file["name"]).rsplit(".", 1)[0]
            groups.setdefault(stem, []).append(file)
    return [min(group, key=_rank) for _, group in sorted(groups.items())]


def _rank(file: dict) -> int:
    name = str(file.get("format", "")).lower()
    return FORMATS.index(name) if name in FORMATS else len(FORMATS)


def _recording(file: dict, item: dict, identifier: str, source: AudiobookSource) -> Recording:
    source_id = f"archive.org/{identifier}/{file['name'].rsplit('.', 1)[0]}"
    extra = {
        "item": identifier,
        "track": file.get("track"),
        "declared_bytes": file.get("size"),
        "format": file.get("format"),
    }
    extra |= {f"declared_{name}": file.get(name) for name in ("sha1", "md5")}
    return Recording(
        recording_id=make_recording_id(source.name, source_id),
        source=source.name,
        source_kind=source.kind,
        source_id=source_id,
        url=f"{source.library_url}/download/{identifier}/{quote(file['name'])}",
        page_url=f"{source.library_url}/details/{identifier}",
        title=_first(file.get("title")) or file["name"].rsplit("/", 1)[-1],
        author=_first(file.get("artist")) or _first(item.get("creator")),
        collection=_first(item.get("title")),
        published=_first(item.get("date")),
        licence=_first(item.get("licenseurl")) or source.licence or _first(item.get("rights")),
        language=source.language or language_code(_first(item.get("language"))),
        duration_s=parse_duration(_first(file.get("length"))),
        status=Status.DISCOVERED,
        metadata={key: str(value) for key, value in extra.items() if value not in (None, "")},
    )


def _first(value: object) -> str | None:
    """The archive gives a field as a text or as a list of texts."""
    value = value[0] if isinstance(value, list) and value else value
    return str(value).strip() or None if isinstance(value, str | int | float) else None
