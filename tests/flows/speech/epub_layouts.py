# ruff: noqa: E501
"""EPUBs as toolchains write them, from one small book: the structure of the real files, without their bulk.

Each layout takes a `Source` and returns the members of the archive by name. They hold what real ones do: notes and
their marks, page numbers, title pages, licences, covers, tables of contents. Lines are as long as markup makes them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

OPF = "http://www.idpf.org/2007/opf"
XHTML = '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops">'


@dataclass(frozen=True)
class Source:
    """A book: in each chapter the first paragraph has a note and a page number."""

    title: str
    author: str
    language: str
    year: int
    chapters: tuple[tuple[str, tuple[str, str]], ...]
    note: str


ALICE = Source(
    "Alice’s Adventures in Wonderland",
    "Lewis Carroll",
    "en",
    1865,
    (
        ("Chapter I. Down the Rabbit-Hole", ("Alice was beginning to get very tired.", "So she was considering.")),
        ("Chapter II. The Pool of Tears", ("“Curiouser and curiouser!” cried Alice.", "Poor Alice!")),
        ("Chapter III. A Caucus-Race", ("They were indeed a queer-looking party.", "The first question was this.")),
    ),
    "Tenniel drew another picture.",
)
VERWANDLUNG = Source(
    "Die Verwandlung",
    "Franz Kafka",
    "de",
    1915,
    (
        ("Erster Teil", ("Als Gregor Samsa erwachte, war er ein Käfer.", "Es war kein Traum.")),
        ("Zweiter Teil", ("Erst in der Dämmerung erwachte er.", "Am Rock klebte Staub.")),
        ("Dritter Teil", ("Die schwere Verwundung blieb.", "Sie stiegen aus.")),
    ),
    "So im Erstdruck.",
)
Members = dict[str, bytes | str]


def picture(kind: str = "JPEG", size: tuple[int, int] = (60, 90)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (160, 30, 30)).save(file, kind)
    return file.getvalue()


def container(package: str) -> str:
    return (
        '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        f'<rootfiles><rootfile full-path="{package}" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )


def package(
    source: Source, items: list[str], spine: list[str], *, version: str, more: str = "", guide: str = ""
) -> str:
    """``items`` are "id href media-type properties", ``spine`` ids, with " no" behind them where not linear."""
    kinds = {"x": "application/xhtml+xml", "n": "application/x-dtbncx+xml", "j": "image/jpeg", "c": "text/css"}
    manifest = ""
    for item in items:
        name, href, kind, *properties = item.split()
        held = f' properties="{" ".join(properties)}"' if properties else ""
        manifest += f'<item id="{name}" href="{href}" media-type="{kinds[kind]}"{held}/>'
    references = ""
    for entry in spine:
        name, _, linear = entry.partition(" ")
        references += f'<itemref idref="{name}"{" linear=" + chr(34) + linear + chr(34) if linear else ""}/>'
    toc = ' toc="ncx"' if any(item.startswith("ncx ") for item in items) else ""
    return f"""<?xml version="1.0" encoding="utf-8"?>
<package xmlns="{OPF}" version="{version}" unique-identifier="id"><metadata
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:opf="{OPF}"><dc:title>{source.title}</dc:title>
<dc:creator id="a" opf:role="aut">{source.author}</dc:creator><dc:creator opf:role="trl">A Translator</dc:creator>
<dc:date opf:event="conversion">2026-01-05</dc:date><dc:date opf:event="publication">{source.year}-01-01</dc:date>
<dc:language>{source.language}</dc:language>{more}</metadata><manifest>{manifest}</manifest>
<spine{toc}>{references}</spine>{guide}</package>"""


def ncx(entries: list[tuple[str, str]]) -> str:
    points = "".join(
        f'<navPoint id="n{n}" playOrder="{n}"><navLabel><text>{title}</text></navLabel><content src="{src}"/></navPoint>'
        for n, (title, src) in enumerate(entries, 1)
    )
    return f'<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/" version="2005-1"><navMap>{points}</navMap></ncx>'


def nav(entries: list[tuple[str, str]], more: str = "") -> str:
    items = "".join(f'<li><a href="{href}">{title}</a></li>' for title, href in entries)
    return f'{XHTML}<body><nav epub:type="toc"><h2>Contents</h2><ol>{items}</ol></nav>{more}</body></html>'


def gutenberg(source: Source) -> Members:
    """Ebookmaker: a licence around all, one file cut up, contents in a table, ncx, footnotes at a chapter's end."""
    head = f"""{XHTML}<body><section class="pg-boilerplate pgheader" id="pg-header"><h2 id="pg-header-heading">The Project
Gutenberg eBook of {source.title}</h2><div>This ebook is for the use of anyone anywhere.</div><div id="pg-start-separator">
<span>*** START OF THE PROJECT GUTENBERG EBOOK ALICE ***</span></div></section><p>Produced by Somebody.</p></body></html>"""
    foot = f"""{XHTML}<body><section class="pg-boilerplate pgfooter" id="pg-footer"><div id="pg-end-separator">
<span>*** END OF THE PROJECT GUTENBERG EBOOK ALICE ***</span></div><h2>THE FULL PROJECT GUTENBERG LICENSE</h2>
<p>To protect the mission.</p></section></body></html>"""
    rows = "".join(
        f'<tr><td><a href="#chap{n:02}" class="pginternal">{title}</a></td></tr>' for n, (title, _) in enumerate(source.chapters)
    )  # fmt: skip
    body = f'<h1>{source.title}</h1><h2 class="no-break">by {source.author}</h2><hr/><h2>Contents</h2><table>{rows}</table>'
    for n, (title, (first, second)) in enumerate(source.chapters):
        number, _, name = title.partition(". ")
        heading = f"{number}.<br/>{name}" if name else title
        body += f"""<div class="chapter"><h2><a id="chap{n:02}"></a>{heading}</h2>
<p class="pfirst">{first}<a id="FNanchor_{n}"></a><a href="#Footnote_{n}" class="fnanchor">[{n + 1}]</a>
<span class="pagenum"><a id="Page_{n}">[Pg {n}]</a></span></p><p>[Illustration: A rabbit]</p><p>{second}</p>
<div class="footnote"><p><a id="Footnote_{n}"></a><a href="#FNanchor_{n}"><span class="label">[{n + 1}]</span></a>
{source.note}</p></div></div>"""
    items = ["ncx toc.ncx n", "cover cover.jpg j", "coverpage-wrapper wrap0000.xhtml x", "pg-header 11-h-0.htm.xhtml x"]
    items += ["item4 11-h-1.htm.xhtml x", "pg-footer 11-h-2.htm.xhtml x"]
    entries = [(source.title, "11-h-1.htm.xhtml"), ("Contents", "11-h-1.htm.xhtml#toc")]
    entries += [(title, f"11-h-1.htm.xhtml#chap{n:02}") for n, (title, _) in enumerate(source.chapters)]
    entries += [("THE FULL PROJECT GUTENBERG LICENSE", "11-h-2.htm.xhtml#pg-footer")]
    return {
        "META-INF/container.xml": container("OEBPS/content.opf"),
        "OEBPS/content.opf": package(
            source,
            items,
            ["coverpage-wrapper no", "pg-header", "item4", "pg-footer"],
            version="2.0",
            more='<meta name="cover" content="cover"/>',
            guide='<guide><reference type="cover" title="Cover" href="wrap0000.xhtml"/></guide>',
        ),
        "OEBPS/toc.ncx": ncx(entries),
        "OEBPS/cover.jpg": picture(),
        "OEBPS/wrap0000.xhtml": f'{XHTML}<body><div><img src="cover.jpg" alt="Cover"/></div></body></html>',
        "OEBPS/11-h-0.htm.xhtml": head,
        "OEBPS/11-h-1.htm.xhtml": f"{XHTML}<body>{body}</body></html>",
        "OEBPS/11-h-2.htm.xhtml": foot,
    }


def standard_ebooks(source: Source) -> Members:
    """Standard Ebooks: semantics throughout, title page, imprint, endnotes of their own, colophon, landmarks."""
    pages: Members = {}
    text = {
        "titlepage": f'<section epub:type="titlepage"><h1>{source.title}</h1><p>By <b>{source.author}</b>.</p></section>',
        "imprint": '<section epub:type="imprint"><p>This ebook is the product of many hours of hard work.</p></section>',
    }
    entries = [("Titlepage", "text/titlepage.xhtml"), ("Imprint", "text/imprint.xhtml")]
    notes = ""
    for n, (title, (first, second)) in enumerate(source.chapters, 1):
        number, _, name = title.partition(". ")
        label = f"<h2>{number}</h2><p epub:type='title'>{name}</p>" if name else f"<h2>{title}</h2>"
        text[f"chapter-{n}"] = (
            f'<section id="chapter-{n}" role="doc-chapter" epub:type="chapter"><hgroup>{label}</hgroup>'
            f'<p>{first}<a href="endnotes.xhtml#note-{n}" id="noteref-{n}" epub:type="noteref">{n}</a></p>'
            f"<p>{second}</p></section>"
        )
        entries.append((f"{number}: {name}" if name else title, f"text/chapter-{n}.xhtml"))
        notes += f'<li id="note-{n}" epub:type="endnote"><p>{source.note} <a href="chapter-{n}.xhtml#noteref-{n}"'
        notes += ' epub:type="backlink">↩</a></p></li>'
    text["endnotes"] = f'<section id="endnotes" epub:type="endnotes"><h2>Endnotes</h2><ol>{notes}</ol></section>'
    text["colophon"] = '<section epub:type="colophon"><p>Was published by its maker.</p></section>'
    text["uncopyright"] = '<section epub:type="copyright-page"><h2>Uncopyright</h2><p>May you do good.</p></section>'
    entries += [("Endnotes", "text/endnotes.xhtml"), ("Colophon", "text/colophon.xhtml")]
    entries += [("Uncopyright", "text/uncopyright.xhtml")]
    for name, markup in text.items():
        pages[f"epub/text/{name}.xhtml"] = f"{XHTML}<head><title>{name}</title></head><body>{markup}</body></html>"
    marks = (
        '<nav epub:type="landmarks"><ol><li><a epub:type="titlepage" href="text/titlepage.xhtml">T</a></li></ol></nav>'
    )
    items = ["toc.xhtml toc.xhtml x nav", "cover.jpg images/cover.jpg j cover-image"]
    items += [f"{name}.xhtml text/{name}.xhtml x" for name in text]
    return {
        "META-INF/container.xml": container("epub/content.opf"),
        "epub/content.opf": package(source, items, [f"{name}.xhtml" for name in text], version="3.0"),
        "epub/toc.xhtml": nav(entries, marks),
        "epub/images/cover.jpg": picture(),
    } | pages


def calibre(source: Source) -> Members:
    """Calibre: split files, headings of plain paragraphs, all told by the ncx; notes at the book's end."""
    pages: Members = {}
    entries, notes = [], ""
    for n, (title, (first, second)) in enumerate(source.chapters, 1):
        pages[f"index_split_{n:03}.html"] = (
            f'{XHTML}<body class="calibre"><p class="calibre1" id="calibre_toc_{n}"><span class="bold">{title}</span></p>'
            f'<p class="calibre2">{first}<sup class="calibre3"><a href="index_split_009.html#fn{n}" id="ref{n}">{n}</a></sup>'
            f'</p><div class="calibre4"> </div><p class="calibre2">{second}</p><div class="mbppagebreak"/></body></html>'
        )
        notes += f'<p class="calibre2" id="fn{n}"><a href="index_split_{n:03}.html#ref{n}">{n}</a> {source.note}</p>'
        entries.append((title, f"index_split_{n:03}.html#calibre_toc_{n}"))
    pages["index_split_009.html"] = f'{XHTML}<body class="calibre">{notes}</body></html>'
    items = ["ncx toc.ncx n", "cover cover.jpeg j", "titlepage titlepage.xhtml x"]
    items += [f"id{n} {name} x" for n, name in enumerate(pages)]
    shown = '<svg xmlns="http://www.w3.org/2000/svg"><image href="cover.jpeg" width="60"/></svg>'
    return {
        "META-INF/container.xml": container("content.opf"),
        "content.opf": package(
            source,
            items,
            ["titlepage", *(f"id{n}" for n in range(len(pages)))],
            version="2.0",
            more='<meta name="calibre:timestamp" content="x"/><meta name="cover" content="cover"/>',
            guide='<guide><reference type="cover" href="titlepage.xhtml"/></guide>',
        ),
        "toc.ncx": ncx(entries),
        "cover.jpeg": picture(),
        "titlepage.xhtml": f"{XHTML}<body><div>{shown}</div></body></html>",
    } | pages


def word(source: Source) -> Members:
    """Word's filtered HTML in an EPUB: one file in Windows' encoding, nothing closed, footnotes at the end."""
    body, notes, contents = "", "", ""
    for n, (title, (first, second)) in enumerate(source.chapters, 1):
        contents += f'<p class=MsoToc1><a href="#_Toc{n}">{title}<span>\t{n}</span></a></p>'
        body += f"""<h1><a name="_Toc{n}">{title}</a></h1><p class=MsoNormal>{first}<a href="#_ftn{n}" name="_ftnref{n}"
title=""><span class=MsoFootnoteReference>[{n}]</span></a><p class=MsoNormal>{second}"""
        notes += f'<div id=ftn{n}><p class=MsoFootnoteText><a href="#_ftnref{n}" name="_ftn{n}">[{n}]</a> {source.note}</div>'
    html = f"""<html><head><meta http-equiv=Content-Type content="text/html; charset=windows-1252"></head><body lang=EN-US>
<div class=WordSection1>{contents}{body}</div><div><hr align=left size=1>{notes}</div></body></html>"""
    items = ["ncx toc.ncx n", "doc document.htm x", "img image001.jpg j", "cover-image cover.jpg j"]
    return {
        "META-INF/container.xml": container("OPS/package.opf"),
        "OPS/package.opf": package(source, items, ["doc"], version="2.0"),
        "OPS/toc.ncx": ncx([(title, f"document.htm#_Toc{n}") for n, (title, _) in enumerate(source.chapters, 1)]),
        "OPS/document.htm": html.encode("cp1252"),
        "OPS/image001.jpg": b"no picture",
        "OPS/cover.jpg": picture(),
    }


def pandoc(source: Source) -> Members:
    """Pandoc: EPUB 3, a title page, a section of footnotes in each chapter, nav and ncx."""
    pages: Members = {
        "EPUB/text/title_page.xhtml": f'{XHTML}<body epub:type="frontmatter"><section epub:type="titlepage">'
        f'<h1 class="title">{source.title}</h1><p class="author">{source.author}</p></section></body></html>'
    }
    entries = []
    for n, (title, (first, second)) in enumerate(source.chapters, 1):
        pages[f"EPUB/text/ch{n:03}.xhtml"] = (
            f'{XHTML}<body epub:type="bodymatter"><section id="c{n}" class="level1"><h1>{title}</h1><p>{first}<a href="#fn{n}"'
            f' class="footnote-ref" id="fnref{n}" epub:type="noteref">{n}</a></p><p>{second}</p></section>'
            f'<aside id="fn{n}" epub:type="footnote" role="doc-footnote"><p>{source.note} <a href="#fnref{n}"'
            ' class="footnote-back" role="doc-backlink">↩︎</a></p></aside></body></html>'
        )
        entries.append((title, f"text/ch{n:03}.xhtml"))
    names = [name.removeprefix("EPUB/") for name in pages]
    items = ["nav nav.xhtml x nav", "ncx toc.ncx n", "cover media/file0.jpg j cover-image"]
    items += [f"p{n} {name} x" for n, name in enumerate(names)]
    return {
        "META-INF/container.xml": container("EPUB/content.opf"),
        "EPUB/content.opf": package(source, items, ["nav", *(f"p{n}" for n in range(len(names)))], version="3.0"),
        "EPUB/nav.xhtml": nav(entries),
        "EPUB/toc.ncx": ncx(entries),
        "EPUB/media/file0.jpg": picture(),
    } | pages


def indesign(source: Source) -> Members:
    """InDesign: paragraphs alone, headings too, page breaks, asides; the nav is all that knows chapters."""
    pages: Members = {}
    entries = []
    for n, (title, (first, second)) in enumerate(source.chapters, 1):
        pages[f"OEBPS/book-{n}.xhtml"] = (
            f'{XHTML}<body><div class="_idGenObjectStyleOverride-1"><p class="Title ParaOverride-1"><span>{title}</span></p>'
            f'<p class="Body"><span epub:type="pagebreak" id="page{n}" title="{n}">{n}</span><span>{first}</span>'
            f'<span class="CharOverride-2"><a class="_idFootnoteLink" href="book-{n}.xhtml#footnote-{n:03}">{n}</a></span></p>'
            f'<p class="Body">{second}</p></div><section class="_idFootnotes"><aside id="footnote-{n:03}" epub:type="footnote">'
            f"<p>{n} {source.note}</p></aside></section></body></html>"
        )
        entries.append((title, f"book-{n}.xhtml#top"))
    items = ["toc toc.xhtml x nav", "cover image/cover.jpg j cover-image"]
    items += [f"b{n} book-{n}.xhtml x" for n in range(1, 4)]
    return {
        "META-INF/container.xml": container("OEBPS/content.opf"),
        "OEBPS/content.opf": package(source, items, ["b1", "b2", "b3"], version="3.0"),
        "OEBPS/toc.xhtml": nav(entries),
        "OEBPS/image/cover.jpg": picture(),
    } | pages


def google_docs(source: Source) -> Members:
    """Google Docs: spans in paragraphs, footnotes linked by raised marks and told apart by their links alone."""
    body, notes = "", ""
    for n, (title, (first, second)) in enumerate(source.chapters, 1):
        body += f"""<h1 class="c3" id="h.{n}"><span class="c1">{title}</span></h1><p class="c0"><span class="c2">{first}</span><sup>
<a href="#ftnt{n}" id="ftnt_ref{n}">[{n}]</a></sup></p><p class="c0"></p><p class="c0"><span>{second}</span></p>"""
        notes += (
            f'<div><p class="c5"><a href="#ftnt_ref{n}" id="ftnt{n}">[{n}]</a><span> {source.note}</span></p></div>'
        )
    return {
        "META-INF/container.xml": container("GoogleDoc/package.opf"),
        "GoogleDoc/package.opf": package(
            source, ["nav nav.xhtml x nav", "main main.xhtml x", "cover images/cover.jpg j"], ["main"], version="3.0"
        ),
        "GoogleDoc/nav.xhtml": nav([(title, f"main.xhtml#h.{n}") for n, (title, _) in enumerate(source.chapters, 1)]),
        "GoogleDoc/main.xhtml": f'{XHTML}<body class="doc-content">{body}<hr/>{notes}</body></html>',
        "GoogleDoc/images/cover.jpg": picture(),
    }


def one_file(source: Source) -> Members:
    """An old EPUB 2 of one file: places by name, ``sup`` without links, notes in the text's own brackets."""
    body = "".join(
        f'<a name="c{n}"/><p align="center"><b>{title}</b></p><p>{first}<sup>{n}</sup></p>'
        f"<p>[Footnote {n}: {source.note}]</p><p>{second}</p>"
        for n, (title, (first, second)) in enumerate(source.chapters, 1)
    )
    return {
        "META-INF/container.xml": container("book.opf"),
        "book.opf": package(
            source, ["ncx book.ncx n", "b Book%20One.html x", "cover cover.jpg j"], ["b"], version="2.0"
        ),
        "book.ncx": ncx([(title, f"Book%20One.html#c{n}") for n, (title, _) in enumerate(source.chapters, 1)]),
        "Book One.html": f"<html><body>{body}</body></html>",
        "cover.jpg": picture(),
    }


def damaged(source: Source) -> Members:
    """What is found in the wild: no container, a package of bad XML, a spine of strangers, names in other letters."""
    members = {name.replace("index_split", "Index_Split"): data for name, data in calibre(source).items()}
    members.pop("META-INF/container.xml")
    broken = (
        str(members["content.opf"]).replace("<spine", "<!-- & --><spine").replace("</dc:title>", "&nbsp;</dc:title>")
    )
    broken = broken.replace(
        '<itemref idref="id0"/>', '<itemref idref="gone"/><itemref idref="id0"/><itemref idref="id0"/>'
    )
    broken = broken.replace(
        "</manifest>", '<item id="lost" href="lost.html" media-type="application/xhtml+xml"/></manifest>'
    )
    broken = broken.replace("</spine>", '<itemref idref="lost"/></spine>')
    return members | {"content.opf": "\ufeff\n" + broken.replace("A Translator", "A & Translator")}


def huge(source: Source) -> Members:
    """Many pictures, of more bytes than a text may have."""
    return standard_ebooks(source) | {f"epub/images/{n}.png": bytes(11_000_000) for n in range(5)}


LAYOUTS: dict[str, Callable[[Source], Members]] = {
    layout.__name__: layout
    for layout in (
        *(gutenberg, standard_ebooks, calibre, word, pandoc),
        *(indesign, google_docs, one_file, damaged, huge),
    )
}


def write(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive as the format asks for."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        for name, data in members.items():
            archive.writestr(name, data)
    return path
