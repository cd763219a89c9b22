"""Faults in a sources.yaml are named with their line and their fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from triforce.ingest.config import SourcesConfig, load_sources
from triforce.ingest.sources.registry import IMPLEMENTATIONS

GOOD = """\
contact: corpus@example.org
tries: 3
sources:
  - name: talk
    kind: podcast
    feeds: [https://example.org/feed.xml]
  - name: books
    kind: audiobook
    author: Austen
  - name: lectures
    kind: youtube
    urls: ["https://www.youtube.com/@example", "ytsearch3:phonetics"]
"""


def load(tmp_path, text: str) -> SourcesConfig:
    path = tmp_path / "sources.yaml"
    path.write_text(text, encoding="utf-8")
    return load_sources(str(path))


def test_a_good_file_is_read(tmp_path):
    config = load(tmp_path, GOOD)
    assert [source.kind for source in config.sources] == ["podcast", "audiobook", "youtube"]
    assert config.source("books").author == "Austen"
    assert config.settings.tries == 3
    assert config.user_agent_header == "triforce-ingest/0.1 (corpus@example.org)"
    assert not config.allow_private_hosts
    assert hash(config.settings) == hash(load(tmp_path, GOOD).settings)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("tries: 3", "trys: 3", "2: trys = 3: unknown key; did you mean 'tries'?"),
        ("tries: 3", "tries: yes", "2: tries = 'yes': Input should be a valid integer"),
        ("tries: 3", "tries: &a\n  - *a", "2: what begins here holds itself"),
        (
            "[https://example.org/feed.xml]",
            "https://example.org/feed.xml",
            "6: sources[0].feeds = 'https://example.org",
        ),
        ("[https://example.org/feed.xml]", "https://example.org/feed.xml", ": not a list; write [one, two]"),
        ("feeds: [https://example.org/feed.xml]", "feeds: []", "needs 'feeds', a list"),
        ("tries: 3", "tries: 99", "2: tries = 99: Input should be less than or equal to 20"),
        ("tries: 3", "tries: 3\ntries: 4", "3: key 'tries' is there twice, first in line 2; keep one"),
        (
            "    feeds:",
            "    feedz:",
            "6: sources[0].feedz = ['https://example.org/feed.xml']: unknown key; did you mean 'feeds'?",
        ),
        (
            "kind: podcast",
            "kind: podcasts",
            "4: sources[0].kind = 'podcasts': use one of 'podcast', 'audiobook', 'youtube'",
        ),
        ("name: books", "name: Books!", "7: sources[1].name = 'Books!': source name 'Books!': use 1 to 40"),
        ("https://example.org/feed.xml", "file:///x", "6: sources[0].feeds[0] = 'file:///x': not a web address"),
        ("contact: corpus@example.org\n", "", "1: contact: missing; add it"),
        ("contact: corpus@example.org", "contact: nobody", "1: contact = 'nobody': not a contact; give an e-mail"),
        ("  - name: books", "  - [name: books", "8: not YAML"),
        (
            "    author: Austen",
            "    author: Austen\n    hue: red",
            "10: sources[1].hue = 'red': unknown key; use one of: author,",
        ),
        ("    author: Austen", "    library: folder", "library 'folder' needs 'path'"),
        ("    author: Austen", "    path: books", "'path' belongs to library 'folder', not to 'librivox'; remove it"),
        (
            '    urls: ["https',
            '    licences: ["(cc"]\n    urls: ["https',
            "12: sources[2].licences = ['(cc']: '(cc' is no regular expression",
        ),
        ("    author: Austen", "    min_duration_s: 9\n    max_duration_s: 9", "min_duration_s 9.0 must be below"),
        (
            '    urls: ["https',
            '    published_after: 2024-01-01\n    published_before: 2023-01-01\n    urls: ["https',
            "must be before",
        ),
        (
            '    urls: ["https',
            '    cookies_file: none.txt\n    urls: ["https',
            "none.txt: no such file; export it again",
        ),
        ("name: books", "name: talk", "source names ['talk'] are there more than once"),
    ],
)
def test_each_fault_names_line_value_and_fix(tmp_path, old, new, expected):
    assert old in GOOD
    with pytest.raises(ValueError, match=r"sources\.yaml:") as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    line_first = expected[0].isdigit()
    assert (f"sources.yaml:{expected}" if line_first else expected) in str(caught.value)


def test_relative_paths_begin_beside_the_file(tmp_path):
    config = load(tmp_path, GOOD.replace("author: Austen", "library: folder\n    path: books"))
    assert config.source("books").path == str(tmp_path / "books")


def test_words_that_yaml_takes_for_truth(tmp_path):
    config = load(tmp_path, GOOD.replace("kind: podcast", "kind: podcast\n    language: no\n    enabled: no"))
    assert (config.source("talk").language, config.source("talk").enabled) == ("no", False)


def test_the_example_in_the_readme_is_a_good_file(tmp_path):
    text = (Path(__file__).parents[3] / "ingest" / "sources" / "README.md").read_text(encoding="utf-8")
    example = text.split("```yaml\ncontact:")[1].split("```")[0]
    sources = load(tmp_path, f"contact:{example}").sources
    assert list(dict.fromkeys(source.kind for source in sources)) == ["podcast", "audiobook", "youtube"]
    assert {source.implementation for source in sources} == set(IMPLEMENTATIONS), "an example of each"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load_sources(str(tmp_path / "none.yaml"))


def test_what_is_wrong_in_a_list_does_not_make_it_empty(tmp_path):
    with pytest.raises(ValueError, match=r"unknown key") as caught:
        load(tmp_path, "contact: a@b.org\nsources:\n  - {name: x, kind: podcast, feed: y}\n")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError, match=r"2: sources = \[\]: an empty list; add"):
        load(tmp_path, "contact: a@b.org\nsources: []\n")
