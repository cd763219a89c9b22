"""Books to chapters, paragraphs to sentences, characters to those that a network knows."""

from __future__ import annotations

import string
import zipfile
from pathlib import Path

import pytest

from triforce.flows.speech.books.book import Chapter
from triforce.flows.speech.books.read_file import read_book_file
from triforce.flows.speech.characters import named, readable, spoken
from triforce.flows.speech.sentences import split_sentences, split_spoken
from triforce.models.reading.normalise import READABLE

KNOWN = frozenset("abcdefghijklmnopqrstuvwxyz ,.'?-")


def test_known_characters_pass_and_typography_is_spelt():
    assert readable("  “Don’t”  go—yet…  ", frozenset("Dontgoye'.\"- ")).text == '"Don\'t" go-yet...'
    assert readable("Crème BRÛLÉE & œufs", KNOWN).text == "creme brulee and oeufs"
    assert readable("wait! (now)", KNOWN) == ("wait now", "")
    assert readable("Straße ß", KNOWN).text == "strasse ss"
    assert readable("any Ω", None) == ("any Ω", "")


def test_what_was_never_read_is_left_out_and_said_so():
    assert readable("at 7 жo'clock → x\u0302", KNOWN) == ("at o'clock x", "7\u0302ж→")
    assert "'ж' (U+0436)" in named("ж")
    assert named("ab" * 9).endswith(" and more")


PASTED = {
    "I love it ❤️": "I love it red heart",
    "1️⃣ first": "one first",
    "2½ cups": "two and one half cups",
    "donʼt": "don't",
    "e\u0301te\u0301 x\u0302": "ete x",
    "In 1999 it cost $3.50, 50 % off, Chapter IV, Dr. Smith, 3:45 pm": "In nineteen ninety nine it cost three dollars "
    "and fifty cents, fifty percent off, Chapter four, Doctor Smith, three forty five PM",
}


@pytest.mark.parametrize("text", PASTED)
def test_what_a_person_pastes_is_said_by_a_release_that_knows_letters_alone(text):
    assert spoken(text, KNOWN | set(string.ascii_uppercase)).text == PASTED[text]
    assert spoken(text, READABLE).text == PASTED[text]
    assert spoken(spoken(text, None).text, READABLE).text == PASTED[text]  # said twice it is the same


def test_sentences_end_where_they_end():
    text = 'Dr. Smith paid $3.50, i.e. a lot. He said: "Hello! How are you?" Was it 5 p.m.? Yes.  ...  '
    assert split_sentences(text) == [
        "Dr. Smith paid $3.50, i.e. a lot.",
        'He said: "Hello! How are you?"',
        "Was it 5 p.m.?",
        "Yes.",
    ]
    assert split_sentences("Das ist z. B. am 3. Mai. Gut!", "de") == ["Das ist z. B. am 3. Mai.", "Gut!"]
    assert split_sentences(" \n ") == split_sentences("--- !") == []


def test_long_sentences_part_at_the_better_breaks_and_lose_nothing():
    text = "When the long night was over, the men went home; the women, who had waited, said nothing at all, and slept."
    parts = split_sentences(text, max_chars=60)
    assert parts == [
        "When the long night was over, the men went home;",
        "the women, who had waited, said nothing at all, and slept.",
    ]
    for limit in (8, 13, 40, 200):
        parts = split_sentences(f"{text} {'x' * 90} {text.upper()}", max_chars=limit)
        assert max(map(len, parts)) <= limit
        assert "".join("".join(parts).split()) == "".join(f"{text}{'x' * 90}{text.upper()}".split())


def test_a_pasted_text_is_said_sentence_by_sentence():
    text = "# Dinner\n\n- 2½ cups\n- **salt**\n\nDr. Smith paid $3.50. He left at\n3:45 pm. ∞ 🎉\n\n---"
    assert split_spoken(text) == [
        "Dinner",
        "two and one half cups",
        "salt",
        "Doctor Smith paid three dollars and fifty cents.",
        "He left at three forty five PM.",
        "infinity party popper",
    ]
    assert split_spoken("第一句，很长" * 5 + "。第二句！", "zh", 20) == [
        "第一句，很长第一句，很长第一句，",
        "很长第一句，很长第一句，很长。",
        "第二句！",
    ]
    assert max(map(len, split_spoken("7777777 " * 30, max_chars=60))) <= 60


def test_plain_text_has_chapters_and_gutenberg_is_taken_off(tmp_path: Path):
    path = tmp_path / "tale.txt"
    path.write_text(
        "Title: The Tale\nAuthor: A. Writer\n\n*** START OF THE PROJECT GUTENBERG EBOOK THE TALE ***\n\n"
        "Chapter I\n\nThe Beginning was\nlong.\n\nIt went on.\n\nCHAPTER 2: The End\n\nIt ended.\n\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK THE TALE ***\n\nLicence follows."
    )
    book = read_book_file(path)
    assert (book.title, book.author) == ("The Tale", "A. Writer")
    assert book.chapters == (
        Chapter("Chapter I", ("Chapter I", "The Beginning was long.", "It went on.")),
        Chapter("CHAPTER 2: The End", ("CHAPTER 2: The End", "It ended.")),
    )
    (tmp_path / "plain.txt").write_bytes("Just caf\xe9 talk.".encode("cp1252"))
    assert read_book_file(tmp_path / "plain.txt").chapters == (Chapter("plain", ("Just café talk.",)),)


def test_markdown_is_read_without_its_marks(tmp_path: Path):
    path = tmp_path / "notes.md"
    path.write_text(
        "---\nauthor: Me\n---\n# The *Notes*\n\nA **bold** [link](http://x.example/y) and `code`.\nSame line.\n\n"
        "![a picture](x.png)\n\n## One\n\n- first\n- second\n\n```\nint x;\n```\n\n## Two\n### Inner\n\nLast."
    )
    book = read_book_file(path)
    assert (book.title, book.author) == ("The Notes", "Me")
    assert book.chapters == (
        Chapter("The Notes", ("A bold link and code. Same line.",)),
        Chapter("One", ("One", "first", "second")),
        Chapter("Two: Inner", ("Two", "Inner", "Last.")),
    )


CONTAINER = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
CONTAINER += '<rootfile full-path="OEBPS/a.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:title>The Book</dc:title><dc:creator>Jane Roe</dc:creator><dc:language>de-AT</dc:language></metadata><manifest>
<item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="b" href="text/two%20b.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="text/one.xhtml" media-type="application/xhtml+xml"/></manifest>
<spine><itemref idref="n"/><itemref idref="a"/><itemref idref="b"/></spine></package>"""


def write_epub(path: Path, **pages: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("OEBPS/a.opf", PACKAGE)
        archive.writestr("OEBPS/nav.xhtml", "<p>Contents</p>")
        archive.writestr("OEBPS/text/one.xhtml", pages.get("one", "<h1>One</h1><p>Eins.</p>"))
        archive.writestr("OEBPS/text/two b.xhtml", "<html><head><title>x</title></head><body><h2>Zwei</h2>Text</body>")
    return path


def test_an_epub_is_read_in_the_order_of_its_spine(tmp_path: Path):
    page = (
        "<style>p {}</style><h1>One</h1><p>A &amp; <i>b</i>&nbsp;c<br/>d</p><script>no()</script><div>e<p>f</p></div>"
    )
    book = read_book_file(write_epub(tmp_path / "b.epub", one=page))
    assert (book.title, book.author, book.language) == ("The Book", "Jane Roe", "de")
    assert book.chapters == (
        Chapter("One", ("One", "A & b c", "d", "e", "f")),
        Chapter("Zwei", ("Zwei", "Text")),
    )


def test_what_is_no_book_is_said_so(tmp_path: Path):
    (tmp_path / "broken.epub").write_bytes(b"PK no zip")
    (tmp_path / "empty.txt").write_text(" \n\n ")
    (tmp_path / "binary.txt").write_bytes(b"\xff\x00\x81\x00")
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    for name, words in (
        ("broken.epub", "not a whole EPUB"),
        ("empty.txt", "no text to read"),
        ("binary.txt", "not text"),
        ("a.pdf", "a book is one of .txt"),
    ):
        with pytest.raises(ValueError, match=words):
            read_book_file(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_book_file(tmp_path / "nothing.txt")
