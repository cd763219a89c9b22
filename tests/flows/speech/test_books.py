"""Books of many toolchains, plain texts of many makes, and what is damaged or no book."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from epub_layouts import ALICE, LAYOUTS, VERWANDLUNG, XHTML, Source, container, nav, ncx, package, picture, write

from triforce.flows.speech.books.book import Book
from triforce.flows.speech.books.epub import FAILURES
from triforce.flows.speech.books.read_file import read_book_file


def letters(text: str) -> str:
    return re.sub(r"\W+", "", text).casefold()


@pytest.mark.parametrize("source", [ALICE, VERWANDLUNG], ids=["en", "de"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_book_is_the_same_whichever_tool_made_it(layout, source, tmp_path):
    book = read_book_file(write(tmp_path / f"a {layout}.epub", LAYOUTS[layout](source)))
    assert (book.title.strip(), book.author, book.language) == (source.title, source.author, source.language)
    assert book.year == source.year
    assert book.cover == picture()
    assert [letters(chapter.title) for chapter in book.chapters] == [letters(title) for title, _ in source.chapters]
    for chapter, (title, paragraphs) in zip(book.chapters, source.chapters, strict=True):
        assert chapter.paragraphs[-2:] == paragraphs  # no note, mark or page number
        assert letters("".join(chapter.paragraphs[:-2])).endswith(letters(title))  # the title is read first
    spoken = letters("".join(p for chapter in book.chapters for p in chapter.paragraphs))
    extra = letters(f"{source.title}by{source.author}") if layout == "gutenberg" else ""
    assert spoken == extra + letters("".join(title + "".join(both) for title, both in source.chapters))


def small_epub(path: Path, pages: dict[str, str], *, more: dict[str, str] | None = None, toc: str = "ncx") -> Book:
    """Read an EPUB of pages by title, whose titles stand in its table of contents alone."""
    source = Source("A Book", "A. Writer", "en", 1900, (), "")
    names = [f"p{n}.xhtml" for n in range(len(pages))]
    entries = list(zip(pages, names, strict=True))
    items = [f"p{n} {name} x" for n, name in enumerate(names)]
    members = {"META-INF/container.xml": container("a.opf")}
    if toc == "ncx":
        items.append("ncx toc.ncx n")
        members["toc.ncx"] = ncx(entries)
    if toc == "nav":
        items.append("nav nav.xhtml x nav")
        members["nav.xhtml"] = nav(entries)
    members["a.opf"] = package(source, items, [f"p{n}" for n in range(len(pages))], version="3.0")
    members |= {name: f"{XHTML}<body>{pages[title]}</body></html>" for title, name in entries}
    return read_book_file(write(path, members | (more or {})))


@pytest.mark.parametrize("toc", ["ncx", "nav"])
def test_titles_in_the_table_of_contents_alone_make_chapters(toc, tmp_path):
    pages = {"The Start": "<p>It began.</p>", "The Middle": "<p>It went on.</p>", "The End": "<p>It ended.</p>"}
    book = small_epub(tmp_path / "b.epub", pages, toc=toc)
    assert [(c.title, c.paragraphs) for c in book.chapters] == [
        ("The Start", ("The Start", "It began.")),
        ("The Middle", ("The Middle", "It went on.")),
        ("The End", ("The End", "It ended.")),
    ]


KING = "The king rode."
NOTES = {
    'The king<sup><a epub:type="noteref">1</a></sup> rode.<aside epub:type="footnote">A note.</aside>': KING,
    'The king <span class="pagenum">[Pg 12]</span>rode.': KING,
    'The king<a href="#fn1" role="doc-noteref">*</a> rode.<div role="doc-footnote" id="fn1">* A note.</div>': KING,
    'The king<a href="#n7"><sup>7</sup></a> rode.</p><p id="n7"><a href="#r7">7</a>. A note of some words.': KING,
    '<img alt="T"/>he king<span epub:type="pagebreak" title="9">9</span> rode.': KING,
    "The king<sup>2</sup> rode 10<sup>2</sup> m<sup>2</sup> on the 1<sup>st</sup>.": "The king rode 10² m² on the 1st.",
    'See <a href="#c2">chapter 2</a> and <a href="http://x.example">this</a>.': "See chapter 2 and this.",
    'He said <span style="display: none">x</span>so.<span hidden="hidden">y</span>': "He said so.",
    "<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby> is read.": "漢 is read.",
    "The king.[3] He rode.{12} Then [Illustration: a horse] home": "The king. He rode.{12} Then home",
}  # fmt: skip


@pytest.mark.parametrize("markup", NOTES)
def test_what_is_on_a_page_and_is_not_the_text_is_not_read(markup, tmp_path):
    book = small_epub(tmp_path / "b.epub", {"One": f"<p>{markup}</p>", "Two": '<p id="c2">Two.</p>'})
    assert book.chapters[0].paragraphs == ("One", NOTES[markup])


def test_parts_join_their_chapters_and_pages_inside_the_book_may_be_deep(tmp_path):
    pages = {"Part One": "<h1>Part One</h1>", "Chapter 1": "<h2>Chapter 1</h2><p>Text.</p>"}
    pages["Chapter 2"] = f"{'<div>' * 3000}<p>Deep.</p>{'</div>' * 3000}"
    book = small_epub(tmp_path / "b.epub", pages)
    assert [(c.title, c.paragraphs) for c in book.chapters] == [
        ("Part One: Chapter 1", ("Part One", "Chapter 1", "Text.")),
        ("Chapter 2", ("Chapter 2", "Deep.")),
    ]


def test_a_book_of_one_file_is_read_whatever_its_guide_calls_it(tmp_path):
    members = LAYOUTS["one_file"](ALICE)
    guide = "".join(f'<reference type="{kind}" href="Book%20One.html"/>' for kind in ("cover", "title-page", "toc"))
    members["book.opf"] = str(members["book.opf"]).replace("</spine>", f"</spine><guide>{guide}</guide>")
    members = {name.replace("/", "\\"): data for name, data in members.items()}  # as some Windows archivers write
    path = write(tmp_path / "b.epub", members)
    assert [chapter.title for chapter in read_book_file(path).chapters] == [title for title, _ in ALICE.chapters]


def damaged_zip(path: Path) -> Path:
    write(path, LAYOUTS["pandoc"](ALICE), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    place = data.index(b"content.opf") + 40
    data[place : place + 200] = bytes(200)
    path.write_bytes(data)
    return path


def locked(path: Path) -> Path:
    lock = '<encryption xmlns:enc="x"><enc:CipherReference xmlns:enc="x" URI="EPUB/text/ch001.xhtml"/></encryption>'
    return write(path, LAYOUTS["pandoc"](ALICE) | {"META-INF/encryption.xml": lock})


def with_password(path: Path) -> Path:
    write(path, LAYOUTS["pandoc"](ALICE))
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag of encryption of each member
        place = -1
        while (place := data.find(mark, place + 1)) >= 0:
            data[place + offset] |= 1
    path.write_bytes(data)
    return path


BROKEN = {
    "no zip": (lambda path: path.write_bytes(b"PK no zip"), "no zip archive.*fetch it again"),
    "half": (lambda path: path.write_bytes(write(path, LAYOUTS["pandoc"](ALICE)).read_bytes()[:900]), "fetch it again"),
    "damaged": (damaged_zip, "not a whole EPUB: .*damaged.*fetch it again"),
    "locked": (locked, "copy-protected; give one without"),
    "password": (with_password, "password.*unpack it with"),
    "empty": (lambda path: write(path, {"a.txt": "x"}), "no page in it"),
    "bad xml": (
        lambda path: write(path, {"META-INF/container.xml": container("a.opf"), "a.opf": "<package><a></b>"}),
        "no XML.*ebook-convert",
    ),
    "too large": (
        lambda path: write(path, {f"{n}.html": bytes(6_000_000) for n in range(9)}, zipfile.ZIP_DEFLATED),
        "bytes of text.*leave it",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_epub_that_cannot_be_read_says_what_to_do(name, tmp_path):
    make, words = BROKEN[name]
    make(tmp_path / "b.epub")
    with pytest.raises(ValueError, match=words):
        read_book_file(tmp_path / "b.epub")


def test_every_class_of_error_is_reached_by_its_row():
    kinds = [failure.kind for failure in FAILURES]
    for number, kind in enumerate(kinds):
        assert not any(issubclass(kind, above) for above in kinds[:number]), f"{kind} is behind one that takes it"
    assert all(failure.what and failure.next for failure in FAILURES)


WRAPPED = """Kapitel 1

Es war einmal ein König, der hatte
eine Tochter, die war schön.

Er war alt.

Kapitel 2: Das Ende

Sie ging fort.
"""
BY_LINE = """第一章 开始
　　他走了很远的路，终于到了家。
　　天已经黑了。
第二章 结束
　　他再也没有回来。
"""
RUSSIAN = """Глава первая

Все счастливые семьи похожи друг на друга.

Глава вторая

Всё смешалось в доме Облонских.
"""
INDENTED = """CHAPTER ONE

  It was a long night, and nobody
slept before the morning came.
  Then they rode home.

CHAPTER TWO. THE ROAD

  They rode on.
"""
LINE_PARAGRAPHS = """Prologue
He had come a long way, and he was tired. It was late.
“Who is there?” said a voice.
Chapter the Last
Nobody answered.
Chapter twelve is what he read, and then he slept.
"""
WITH_CONTENTS = """CONTENTS

Chapter I. The Road ........ 3
Chapter II. The Inn ........ 9

Chapter I. The Road

They _rode_ on.[1] [Pg 4]

Chapter II. The Inn

They slept.

[Footnote 1: Slowly.]
"""
TEXTS = {
    "wrapped": (WRAPPED, "de", [("Kapitel 1", 3), ("Kapitel 2: Das Ende", 2)]),
    "by line": (BY_LINE, "zh", [("第一章 开始", 3), ("第二章 结束", 2)]),
    "russian": (RUSSIAN, "ru", [("Глава первая", 2), ("Глава вторая", 2)]),
    "indented": (INDENTED, "en", [("CHAPTER ONE", 3), ("CHAPTER TWO. THE ROAD", 2)]),
    "line paragraphs": (LINE_PARAGRAPHS, "en", [("Prologue", 3), ("Chapter the Last", 3)]),
    "with contents": (WITH_CONTENTS, "en", [("Chapter I. The Road", 2), ("Chapter II. The Inn", 2)]),
    "french": ("Chapitre premier\n\nIl était tard.\n\nII\n\nIl partit.\n", "fr", [("Chapitre premier", 2), ("II", 2)]),
    "japanese": ("第一章　始まり\n　彼は歩いた。\n　夜だった。\n\n終章\n　終わり。\n", "ja", [("第一章 始まり", 5)]),
    "korean": ("제1장 시작\n\n그는 걸었다.\n\n제2장\n\n밤이었다.\n", "ko", [("제1장 시작", 2), ("제2장", 2)]),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("name", TEXTS)
def test_plain_texts_of_any_make_and_language(name, encoding, tmp_path):
    text, language, chapters = TEXTS[name]
    path = tmp_path / f"a text {name}.txt"
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    book = read_book_file(path)
    assert [(chapter.title, len(chapter.paragraphs)) for chapter in book.chapters] == chapters
    assert book.language == language


LANGUAGES = {
    "pt": "Capítulo 1\n\nEra uma vez um rei que tinha uma filha, e a filha do rei não se ria. O rei disse que não.",
    "es": "Capítulo 1\n\nEra una vez un rey que tenía una hija, y la hija del rey no se reía en los días de fiesta.",
    "sv": "Kapitel 1\n\nDet var en gång en kung som hade en dotter, och det var inte lätt att få henne att le.",
    "it": "Parte prima\n\nC'era una volta il re che non rideva, e la figlia di lui che gli diceva di non piangere.",
    "en": "The king had a daughter, and the daughter of the king was sad. He was angry with the men that laughed.",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_language_of_a_plain_text_is_told_by_its_words(language, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(LANGUAGES[language], encoding="utf-8")
    assert read_book_file(path).language == language


def test_lines_and_marks_of_plain_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(WRAPPED, encoding="utf-8")
    assert read_book_file(path).chapters[0].paragraphs == (
        "Kapitel 1",
        "Es war einmal ein König, der hatte eine Tochter, die war schön.",
        "Er war alt.",
    )
    path.write_text(WITH_CONTENTS, encoding="utf-8")
    assert [c.paragraphs[1:] for c in read_book_file(path).chapters] == [("They rode on.",), ("They slept.",)]
    path.write_text(BY_LINE, encoding="gb18030")
    assert read_book_file(path).chapters[1].paragraphs == ("第二章 结束", "他再也没有回来。")


ENCODED = {
    "cp1252": "“Déjà vu,” said the café’s owner — and left…",
    "cp1250": "Zażółć gęślą jaźń, proszę państwa. W Szczebrzeszynie chrząszcz brzmi w trzcinie.",
    "iso8859_2": "Zażółć gęślą jaźń, proszę państwa. W Szczebrzeszynie chrząszcz brzmi w trzcinie.",
    "cp1251": "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
    "koi8_r": "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
    "cp1253": "Μια φορά κι έναν καιρό ήταν ένας βασιλιάς που είχε μια όμορφη κόρη.",
    "cp932": "彼は長い道を歩いて、ついに家に着いた。夜はもう遅かった。",
    "big5": "他走了很遠的路，終於到了家。天已經黑了，沒有人在等他。",
    "euc_kr": "그는 먼 길을 걸어 마침내 집에 도착했다. 밤은 이미 깊었다.",
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_texts_of_old_encodings_are_read(encoding, tmp_path):
    path = tmp_path / "old.txt"
    path.write_bytes((ENCODED[encoding] + "\n\n" + ENCODED[encoding]).encode(encoding))
    assert read_book_file(path).chapters[0].paragraphs == (ENCODED[encoding],) * 2
