"""Every kind of source has its class, and is found without importing the others."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

from triforce.ingest.config import KINDS, AudiobookSource, PodcastSource, Settings, SourcesConfig, YoutubeSource
from triforce.ingest.sources.base import SourceKind
from triforce.ingest.sources.registry import IMPLEMENTATIONS, open_source

SETTINGS = Settings(contact="a@b.org", max_blocks=7, min_duration_s=2.0, max_duration_s=9.0)
EXAMPLES = {
    "podcast": PodcastSource(name="x", feeds=["https://example.org/f"]),
    "librivox": AudiobookSource(name="x"),
    "archive.org": AudiobookSource(name="x", library="archive.org", items=["y"]),
    "folder": AudiobookSource(name="x", library="folder", path="books"),
    "youtube": YoutubeSource(name="x", urls=["https://example.org/v"]),
}


def test_every_kind_has_a_class():
    assert {source.kind for source in EXAMPLES.values()} == set(KINDS)
    assert set(IMPLEMENTATIONS) == set(EXAMPLES)
    for name, place in IMPLEMENTATIONS.items():
        assert EXAMPLES[name].implementation == name
        assert issubclass(pkgutil.resolve_name(place), SourceKind)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_source_is_opened_with_the_settings_alone(name):
    config = SourcesConfig(**dict(SETTINGS), sources=[EXAMPLES[name]])
    opened = open_source(EXAMPLES[name], config)
    assert (type(opened.settings), opened.settings, opened.config) == (Settings, SETTINGS, EXAMPLES[name])
    assert opened.blocks_allowed == (1 if name == "youtube" else 7)
    assert opened.wants_transcripts == (name in ("podcast", "youtube", "librivox"))


def test_transcripts_are_left_out_where_a_podcast_says_so():
    source = PodcastSource(name="x", feeds=["https://example.org/f"], transcripts=False)
    assert not open_source(source, SETTINGS).wants_transcripts


def test_a_sources_own_limits_come_first():
    assert EXAMPLES["podcast"].duration_limits_s(SETTINGS) == (2.0, 9.0)
    own = PodcastSource(name="x", feeds=["https://example.org/f"], min_duration_s=0, max_duration_s=5)
    assert own.duration_limits_s(SETTINGS) == (0, 5)


def test_yt_dlp_is_imported_only_for_its_own_sources():
    code = "import sys, triforce.ingest.sync, triforce.flows.jobs.source_choice; print('yt_dlp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
