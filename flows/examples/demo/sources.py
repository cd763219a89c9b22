"""The demo's ``sources.yaml``: where its three sites are found."""

from __future__ import annotations

from pathlib import Path

import yaml

from triforce.ingest import storage

SOURCES = {"podcast": "please-hold", "audiobook": "book-of-prompts", "youtube": "talks"}
"""Name of the demo's source of each kind."""


def write_sources(folder: Path, base_url: str) -> Path:
    """Write ``sources.yaml`` into the run's folder for the sites in ``sites/``, served at ``base_url``."""
    pages = sorted(path.name for path in (folder / "sites/videos").glob("talk-*.html"))
    places = {
        "podcast": {"feeds": [f"{base_url}/podcast/feed.xml"]},
        "audiobook": {"base_url": f"{base_url}/library/api/feed/audiobooks"},
        "youtube": {"urls": [f"{base_url}/videos/{name}" for name in pages]},
    }
    document = {
        "contact": "demo@example.org",
        "allow_private_hosts": True,  # the sites are on loopback
        "requests_per_s": 50,
        "sources": [{"name": SOURCES[kind], "kind": kind, "language": "en"} | place for kind, place in places.items()],
    }
    path = folder / "sources.yaml"
    storage.write_bytes(path, yaml.safe_dump(document, sort_keys=False).encode())
    return path
