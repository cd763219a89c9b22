"""Transcripts beside recordings: encodings, and the text of a book that its sections share."""

from __future__ import annotations

import json

import pytest
from sync_loop import sync_source

from triforce.ingest import storage
from triforce.ingest.config import AudiobookSource
from triforce.ingest.corpus.takedown import remove
from triforce.ingest.fetch.transcripts import as_utf8, parse_cues
from triforce.ingest.sources.librivox import plain_text_url


def catalogue(site, sound, text_url: str) -> AudiobookSource:
    """A library with a book of three sections."""
    sections = [
        {
            "section_number": str(number),
            "title": f"Chapter {number}",
            "listen_url": site.put(f"/{number}.mp3", sound(number, 1.0, "MP3"), "audio/mpeg"),
        }
        for number in range(3)
    ]
    book = {"id": "7", "title": "Emma", "language": "English", "url_text_source": text_url, "sections": sections}
    site.put("/api?format=json&extended=1&limit=50&offset=0", json.dumps({"books": [book]}), "application/json")
    return AudiobookSource(name="books", base_url=site.base_url + "/api")


def test_the_text_of_a_book_is_fetched_once_for_its_sections(site, corpus, settings, sound):
    text = "Emma Woodhouse, handsome, clever, and rich, with a café.".encode("latin-1")
    source = catalogue(site, sound, site.put("/emma.txt", text, "text/plain; charset=iso-8859-1"))
    assert sync_source(source, settings, corpus).fetched == 3
    assert site.hits["/emma.txt"] == 1
    rows = list(corpus.recordings())
    for row in rows:
        path = storage.join(corpus.uri, row.metadata["transcript_path"])
        assert storage.read_bytes(path).decode().endswith("with a café.")
    remove(corpus, rows)
    assert not storage.exists(storage.join(corpus.uri, "state", "source=books", "transcripts"))


def test_a_text_that_is_missing_is_asked_for_once(site, corpus, settings, sound):
    source = catalogue(site, sound, site.base_url + "/gone.txt")
    assert sync_source(source, settings, corpus).fetched == 3
    assert site.hits["/gone.txt"] == 1
    assert all(row.metadata["transcript_fault"].startswith("not_found") for row in corpus.recordings())
    assert sync_source(source.model_copy(update={"texts": False}), settings, corpus).fetched == 0


def test_no_text_is_fetched_where_none_is_wanted(site, corpus, settings, sound):
    source = catalogue(site, sound, site.put("/emma.txt", "Emma", "text/plain"))
    assert sync_source(source.model_copy(update={"texts": False}), settings, corpus).fetched == 3
    assert site.hits["/emma.txt"] == 0


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("http://www.gutenberg.org/ebooks/158", "https://www.gutenberg.org/cache/epub/158/pg158.txt"),
        ("https://www.gutenberg.org/etext/158", "https://www.gutenberg.org/cache/epub/158/pg158.txt"),
        ("https://gutenberg.org/files/158/158-h/158-h.htm", "https://www.gutenberg.org/cache/epub/158/pg158.txt"),
        ("https://archive.org/details/emma00aust", "https://archive.org/download/emma00aust/emma00aust_djvu.txt"),
        ("https://en.wikisource.org/wiki/Emma", "https://en.wikisource.org/wiki/Emma"),
    ],
)
def test_a_page_about_a_book_is_not_taken_for_its_text(page, text):
    assert plain_text_url(page) == text


def test_texts_are_stored_in_utf8():
    russian = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. " * 3
    assert as_utf8(russian.encode("utf-8")).decode() == russian
    assert as_utf8(russian.encode("koi8-r"), "koi8-r").decode() == russian
    assert as_utf8(russian.encode("cp1251"), "utf-8").decode() == russian


def test_cues_in_json_may_lack_their_end():
    text = json.dumps({"segments": [{"startTime": 1, "body": "a"}, {"startTime": 2.5, "endTime": 3, "body": "b"}]})
    assert [(cue.start_s, cue.end_s) for cue in parse_cues(text, "json")] == [(1.0, 2.5), (2.5, 3.0)]
    assert parse_cues('{"segments": [7]}', "json") == []
