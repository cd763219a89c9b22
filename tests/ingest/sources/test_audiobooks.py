"""Audiobooks from archive.org and from folders."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from fractions import Fraction
from urllib.parse import parse_qs, urlsplit

import av
import pytest
from sync_loop import sync_source

from triforce.ingest import storage
from triforce.ingest.config import AudiobookSource
from triforce.ingest.corpus.records import RejectReason, Status
from triforce.ingest.media.chapters import Chapter, mend_chapters
from triforce.ingest.sources import folder as listed
from triforce.ingest.sources.archive_org import ArchiveOrg, best_files, scrape_url
from triforce.ingest.sources.pages import Pages
from triforce.ingest.sync import discover


@pytest.fixture
def archive(site, sound):
    """An archive of two items; ``put(name, **wrong)`` puts an item there."""

    def put(name: str, seed: int, **wrong) -> None:
        body = sound(seed)
        site.put(f"/download/{name}/one.flac", body)
        files = [
            {"name": "one.flac", "format": "Flac", "source": "original", "size": str(len(body)), "length": "1",
             "sha1": hashlib.sha1(body).hexdigest(), "title": "One", "artist": "A Reader"} | wrong,
            {"name": "one_64kb.mp3", "format": "64Kbps MP3", "source": "derivative", "original": "one.flac"},
            {"name": "cover.jpg", "format": "JPEG", "source": "original"},
        ]  # fmt: skip
        meta = {
            "title": f"Item {name}",
            "creator": ["Jane Austen"],
            "language": "eng",
            "licenseurl": "https://cc.example/zero",
        }
        site.put(f"/metadata/{name}", json.dumps({"files": files, "metadata": meta}))

    put("first", 1)
    put("second", 2)
    return put


def books(site, **options) -> AudiobookSource:
    return AudiobookSource(name="books", library="archive.org", base_url=site.base_url, **options)


def test_items_of_the_archive(site, archive, corpus, settings):
    source = books(site, items=["first", "second", "missing"])
    summary = sync_source(source, settings, corpus)
    assert (summary.fetched, len(summary.problems)) == (2, 1)
    row = next(row for row in corpus.recordings() if row.metadata["item"] == "first")
    assert (row.title, row.author, row.collection, row.language) == ("One", "A Reader", "Item first", "eng")
    assert (row.licence, row.page_url) == ("https://cc.example/zero", f"{site.base_url}/details/first")
    assert sync_source(source, settings, corpus).discovered == 0


def test_a_wrong_checksum_is_named(site, archive, corpus, settings):
    archive("third", 3, sha1="0" * 40)
    assert sync_source(books(site, items=["third"]), settings, corpus).rejected == {RejectReason.BAD_CHECKSUM: 1}


def test_a_search_asks_for_each_item_once(site, archive, corpus, settings):
    source = books(site, query="collection:books")
    hits = {"items": [{"identifier": "first"}, {"identifier": "../../etc"}], "total": 2}
    site.put("/services/search/v1/scrape", json.dumps(hits))
    assert sync_source(source, settings, corpus).fetched == 1
    hits["items"].append({"identifier": "second"})
    site.put("/services/search/v1/scrape", json.dumps(hits))
    site.forget()
    assert sync_source(source, settings, corpus).fetched == 1
    assert (site.hits["/metadata/first"], site.hits["/metadata/second"]) == (0, 1)


def test_a_search_has_no_end_at_ten_thousand(site, corpus, settings):
    """The archive's other interface, advancedsearch.php, answers an error there, and the newest were never found."""
    names = [f"item{n:05d}" for n in range(25_050)]

    def scrape(handler, _) -> bool:
        query = parse_qs(urlsplit(handler.path).query)
        start = int(query.get("cursor", ["c0"])[0][1:])
        end = start + min(int(query["count"][0]), 10_000)
        more = {"cursor": f"c{end}"} if end < len(names) else {}
        rows = [{"identifier": name} for name in names[start:end]]
        handler.answer(200, json.dumps({"items": rows, "total": len(names)} | more).encode())
        return True

    site.put("/services/search/v1/scrape", script=scrape)
    problems = []
    source, pages = books(site, query="collection:books"), Pages("books", settings, corpus, problems.append)
    listings = ArchiveOrg(source, settings).listings(pages)
    assert sum(1 for _ in listings) == len(names)
    assert (site.hits["/services/search/v1/scrape"], problems) == (3, [])


def test_a_search_that_breaks_off_gives_what_it_has(site, archive, corpus, settings):
    first = json.dumps({"items": [{"identifier": "first"}], "cursor": "next"})
    site.put("/services/search/v1/scrape", first)
    site.put(f"/{scrape_url(books(site, query='q'), 'next').split('/', 3)[3]}", "down", status=500)
    summary = sync_source(books(site, query="q"), settings, corpus)
    assert (summary.fetched, len(summary.problems)) == (1, 1)


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"files": 3}', "[" * 100_000, '{"files": [3, {"name": 4, "format": "Flac"}]}']
)
def test_hostile_json_is_named(site, corpus, settings, body):
    site.put("/metadata/x", body)
    summary = sync_source(books(site, items=["x"]), settings, corpus)
    assert summary.discovered == 0
    assert summary.problems or body.endswith("]}")


def test_the_best_format_of_each_recording_is_chosen():
    files = [
        {"name": "a.mp3", "format": "VBR MP3", "source": "original"},
        {"name": "a_64kb.mp3", "format": "64Kbps MP3", "source": "derivative", "original": "a.mp3"},
        {"name": "b.wav", "format": "WAVE", "source": "original"},
        {"name": "b.flac", "format": "Flac", "source": "derivative", "original": "b.wav"},
        {"name": "c.mp3", "format": "VBR MP3", "source": "original", "private": "true"},
    ]
    assert [file["name"] for file in best_files(files)] == ["a.mp3", "b.flac"]


def test_a_folder_of_files(tmp_path, corpus, settings, sound):
    folder = tmp_path / "books"
    for name, seed, kind in (("one/a.flac", 1, "FLAC"), ("one/b.mp3", 2, "MP3"), ("c.ogg", 3, "OGG")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(sound(seed, format=kind))
    (folder / "notes.txt").write_text("not audio")
    (folder / "broken.mp3").write_bytes(b"ID3" + bytes(500))
    source = AudiobookSource(name="own", library="folder", path=str(folder), licence="CC0")
    summary = sync_source(source, settings, corpus)
    assert (summary.fetched, summary.rejected) == (3, {RejectReason.UNDECODABLE: 1})
    assert {(row.title, row.collection) for row in corpus.recordings() if row.status == Status.FETCHED} == {
        ("a", "one"), ("b", "one"), ("c", None),
    }  # fmt: skip
    assert (folder / "c.ogg").exists()
    assert sync_source(source, settings, corpus).discovered == 0
    shutil.rmtree(folder)
    assert "no such folder" in sync_source(source, settings, corpus).problems[0]


@pytest.fixture(scope="session")
def m4b(tmp_path_factory, sound):
    """``m4b([(start_s, end_s), ...])``: a book of six seconds with these chapters."""

    def make(chapters: list[tuple[float, float]]):
        folder = tmp_path_factory.mktemp("m4b")
        (folder / "a.flac").write_bytes(sound(5, 6.0))
        path = folder / "book.m4b"
        with av.open(str(folder / "a.flac")) as source, av.open(str(path), "w", format="mp4") as target:
            target.metadata.update({"title": "The Book", "artist": "The Reader", "album": "The Album"})
            target.set_chapters(
                [
                    {
                        "id": n,
                        "start": int(begin * 1000),
                        "end": int(end * 1000),
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": f"Chapter {n}"},
                    }
                    for n, (begin, end) in enumerate(chapters)
                ]
            )
            stream = target.add_stream("aac", rate=16_000, layout="mono")
            for frame in source.decode(audio=0):
                target.mux(stream.encode(frame))
            target.mux(stream.encode(None))
        return path

    return make


def test_the_chapters_of_a_book_are_recordings(m4b, corpus, settings, monkeypatch):
    source = AudiobookSource(name="own", library="folder", path=str(m4b([(0, 2), (2, 4.5), (4.5, 6)]).parent))
    found = [item for item in discover(source, settings, corpus) if item.metadata["file"] == "book.m4b"]
    assert [item.title for item in found] == ["Chapter 0", "Chapter 1", "Chapter 2"]
    sync_source(source, settings, corpus)
    rows = sorted((row for row in corpus.recordings() if "chapter" in row.metadata), key=lambda row: row.source_id)
    assert [row.status for row in rows] == [Status.FETCHED] * 3, rows
    lengths = [float(row.metadata["decoded_duration_s"]) for row in rows]
    assert lengths == pytest.approx([2.0, 2.5, 1.5], abs=0.2)
    assert (rows[0].author, rows[0].collection) == ("The Reader", "The Album")
    assert len({storage.read_bytes(storage.join(corpus.uri, row.media_path)) for row in rows}) == 3

    opened, recordings = [], listed.recordings
    monkeypatch.setattr(listed, "recordings", lambda name, source: [opened.append(name), *recordings(name, source)][1:])
    assert sync_source(source, settings, corpus).discovered == 0
    assert opened == []
    os.utime(f"{source.path}/book.m4b", (1, 1))
    assert sync_source(source, settings, corpus).discovered == 0
    assert opened == ["book.m4b"]


@pytest.mark.parametrize(
    ("claimed", "lengths_s"),
    [
        ([(0, 2), (2, 2), (2, 6)], [2.0, 4.0]),
        ([(0, 3), (2.5, 6)], [2.5, 3.5]),
        ([(0, 3), (3, 900)], [3.0, 3.0]),
        ([(0, 2), (4, 6)], [4.0, 2.0]),
        ([(1, 3), (3, 6)], [3.0, 3.0]),
        ([(0, 6), (700, 900)], [6.0]),
        ([(n / 1000, (n + 1) / 1000) for n in range(2500)], [6.0]),
    ],
    ids=["empty", "overlap", "past the end", "gap", "late", "one is left", "thousands"],
)
def test_a_damaged_chapter_table_costs_no_sound(m4b, corpus, settings, claimed, lengths_s):
    source = AudiobookSource(name="own", library="folder", path=str(m4b(claimed).parent))
    sync_source(source, settings, corpus)
    rows = sorted((row for row in corpus.recordings() if row.metadata["file"] == "book.m4b"), key=lambda r: r.source_id)
    assert [row.status for row in rows] == [Status.FETCHED] * len(lengths_s), [row.detail for row in rows]
    decoded_s = [float(row.metadata["decoded_duration_s"]) for row in rows]
    assert decoded_s == pytest.approx(lengths_s, abs=0.2)
    assert sum(decoded_s) == pytest.approx(6.0, abs=0.2)


def test_a_mended_chapter_table_is_on_record(m4b, corpus, settings):
    source = AudiobookSource(name="own", library="folder", path=str(m4b([(0, 2), (2, 2), (2, 6)]).parent))
    rows = [row for row in discover(source, settings, corpus) if row.metadata["file"] == "book.m4b"]
    assert [row.title for row in rows] == ["Chapter 0", "Chapter 2"]
    assert all(row.metadata["chapter_fault"].startswith("chapter 2 claims 2.0 to 2.0 s") for row in rows)


@pytest.mark.parametrize(
    ("claimed", "duration_s", "found"),
    [
        ([], 10.0, []),
        ([(0, 4), (4, 10)], 10.0, [(0, 4), (4, 10)]),
        ([(4, 10), (0, 4)], 10.0, [(0, 4), (4, 10)]),
        ([(-5, 4), (4, 3)], 10.0, [(0, 4), (4, 10)]),
        ([(0, 4), (4, 4), (4, 4)], 10.0, [(0, 4), (4, 10)]),
        ([(0, 0.3), (0.3, 4), (4, 9.7), (9.7, 10)], 10.0, [(0, 4), (4, 10)]),
        ([(0, 4), (4, 10)], 0.0, [(0, 4), (4, 10)]),
        ([(3, 3), (3, 3)], 10.0, []),
    ],
)
def test_chapters_lie_end_to_end(claimed, duration_s, found):
    chapters, _ = mend_chapters([Chapter(*bounds) for bounds in claimed], duration_s)
    assert [(chapter.start_s, chapter.end_s) for chapter in chapters] == found


def test_a_table_without_fault_is_told_so():
    assert mend_chapters([Chapter(0, 4), Chapter(4, 10.5)], 10.0)[1] is None
    assert "chapter 2 claims" in str(mend_chapters([Chapter(0, 4), Chapter(3, 10)], 10.0)[1])
