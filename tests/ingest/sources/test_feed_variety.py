"""Feeds of every make: generated ones, whose items are known, and encodings that contradict each other."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

import feedparser
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from triforce.ingest.config import PodcastSource
from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.sources.feed import parse
from triforce.ingest.sources.podcast import choose_enclosure, parse_feed
from triforce.ingest.sources.xml_text import decode

URL = "https://example.org/feed"
SOURCE = PodcastSource(name="x", feeds=[URL])
MANY = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
TITLE = "Grüße, 日本 & mehr"


def read(body: bytes, **options):
    return parse(body, URL, **options)


def feed_with_title(declared: str | None) -> str:
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    item = '<item><guid>1</guid><enclosure url="/1.mp3" type="audio/mpeg" length="1"/></item>'
    return f"{head}\n<rss><channel><title>{escape(TITLE)}</title>{item}</channel></rss>"


@pytest.mark.parametrize("charset", [None, "utf-8", "iso-8859-1", "utf-16", "no-such-charset"])
@pytest.mark.parametrize("declared", [None, "UTF-8", "utf-16", "ISO-8859-1", "utf-7", "x-unknown", "us-ascii"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_declaration_mark_header_and_bytes_may_disagree(encoding, declared, charset):
    feed = read(feed_with_title(declared).encode(encoding), charset=charset)
    assert (feed.title, len(feed.entries)) == (TITLE, 1)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gb18030", "播客节目"),
        ("shift_jis", "ポッドキャスト"),
        ("iso2022_jp", "ポッドキャスト"),
        ("koi8-r", "Подкаст"),
        ("big5", "播客節目"),
        ("iso8859-1", "Grüße"),
        ("windows-1252", "“Grüße”"),
        ("euc_kr", "팟캐스트"),
    ],
)
@pytest.mark.parametrize("told_by", ["declaration", "header"])
def test_other_charsets_are_told_by_declaration_or_header(encoding, text, told_by):
    head = f'<?xml version="1.0" encoding="{encoding}"?>' if told_by == "declaration" else ""
    body = f"{head}<rss><channel><title>{text}</title></channel></rss>".encode(encoding)
    assert read(body, charset=encoding if told_by == "header" else "utf-8").title == text


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (codecs.BOM_UTF16_LE + "<rss>ü</rss>".encode(), "<rss>ü</rss>"),
        (codecs.BOM_UTF8 + "<rss>ü</rss>".encode("latin-1"), "<rss>ü</rss>"),
        (b"<rss>" + "größer".encode() * 9 + b"\xff</rss>", "<rss>" + "größer" * 9 + "\ufffd</rss>"),
        ("<rss>größ".encode() + b"\xc3", "<rss>größ\ufffd"),
        ("<rss>ü</rss>".encode("utf-16-le")[:-1], "<rss>ü</rss\ufffd"),
    ],
)
def test_bytes_with_faults_are_read_as_what_they_mostly_are(body, expected):
    assert decode(body) == expected


def test_an_author_is_a_name_and_a_date_the_publication(make_feed):
    author = "<author><name>Ann</name><uri>http://a.org</uri><email>a@a.org</email></author>"
    dates = "<updated>2024-05-05T00:00:00Z</updated><published>2024-01-02T10:00:00+01:00</published>"
    link = '<link rel="enclosure" href="/1.mp3" type="audio/mpeg"/>'
    atom = f'<feed xmlns="http://www.w3.org/2005/Atom">{author}<entry><id>1</id>%s{link}{dates}</entry></feed>'
    [row], _ = parse_feed((atom % author).encode(), URL, SOURCE)
    assert (row.author, row.published) == ("Ann", "2024-01-02T09:00:00Z")
    [row], _ = parse_feed((atom % "").encode(), URL, SOURCE)
    assert row.author == "Ann", "the feed's"
    [row], _ = parse_feed((atom % (author + author.replace("Ann", "Bob"))).encode(), URL, SOURCE)
    assert row.author == "Ann; Bob"


@pytest.mark.parametrize(
    ("elements", "author", "published", "title"),
    [
        ("<author>a@b.org (Ann)</author>", "Ann", None, None),
        ("<author>a@b.org</author><dc:creator>Bob</dc:creator>", "Bob", None, None),
        ("<dc:creator>Bob</dc:creator><itunes:author>Cy</itunes:author>", "Cy", None, None),
        ("<dc:date>2024-02-02</dc:date><pubDate>2 Jan 2024 10:00:00 GMT</pubDate>", None, "2024-01-02T10:00:00Z", None),
        ("<pubDate>soon</pubDate><dc:date>2024-02-02</dc:date>", None, "2024-02-02T00:00:00Z", None),
        ("<itunes:title>Two</itunes:title><title>One</title><title>Three</title>", None, None, "One"),
        ("<title/><itunes:title>Two</itunes:title>", None, None, "Two"),
        ("<media:title>Two</media:title><title>One</title>", None, None, "One"),
    ],
)  # fmt: skip
def test_of_several_elements_of_one_meaning_the_best_counts_in_any_order(elements, author, published, title):
    spaces = 'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:itunes="http://www.itunes.com/dtds/podcast-1.0.dtd"'
    [entry] = read(f"<rss {spaces}><channel><item>{elements}</item></channel></rss>".encode()).entries
    assert (entry.author, entry.published, entry.title) == (author, published, title)


@pytest.mark.parametrize(
    "item",
    [
        '<enclosure url="/a.mp3"/>',
        '<enclosure URL=" /a.mp3\n" type="audio/mpeg"/>',
        '<enclosure href="/a.mp3" type="application/octet-stream"/>',
        '<link rel="enclosure" href="/a.mp3"/>',
        '<a:link xmlns:a="http://www.w3.org/2005/Atom" rel="enclosure" href="/a.mp3"/>',
        '<media:content url="/a.mp3" xmlns:media="http://search.yahoo.com/mrss/"/>',
        '<media:group xmlns:media="http://search.yahoo.com/mrss"><media:content url="/a.mp3"/></media:group>',
        '<media:content url="/a.mp3"/><g:image href="/no.jpg"/>',  # prefixes that nobody declared
        '<enclosure url="/a.mp3" xml:base="https://example.org/"/>',
        '<title>Q&A &nbsp; &copy; \x0b</title><enclosure url="/a.mp3" length="1 KB"/>',
        '<enclosure url="/no.jpg" type="image/jpeg"/><enclosure url="/a.mp3" type="audio/mpeg"/>',
        '<enclosure url="/a.mp3" type="audio/mpeg"><p>unclosed</enclosure>',
    ],
)
def test_every_way_to_name_a_file_is_read(item):
    [row], _ = parse_feed(f"<rss><channel><title>T</title><item>{item}</item></channel></rss>".encode(), URL, SOURCE)
    assert row.url == "https://example.org/a.mp3"


@pytest.mark.parametrize(
    "feed",
    [
        "<rss>{}</rss>",
        "<rss><channel/>{}</rss>",
        "<channel>{}</channel>",
        "<rss><channel><items>{}</items></channel></rss>",
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"><channel/>{}</rdf:RDF>',
        '<rss xmlns="http://www.w3.org/2005/Atom"><channel>{}</channel></rss>',
        '<rss xmlns="urn:nobody"><channel>{}</channel></rss>',
        "PHP Warning: in line 3<br/>\n<?xml version='1.0'?><rss><channel>{}</channel></rss>",
        "<rss><channel>{}",
        "<rss><channel>{}</channel></rss> <!-- made in 3 ms --> trailing words",
    ],
)  # fmt: skip
def test_items_are_found_wherever_they_lie(feed):
    item = '<item><guid>1</guid><enclosure url="/a.mp3"/></item><item><guid>2</guid><enclosure url="/b.mp3"/></item>'
    rows, _ = parse_feed(feed.format(item).encode(), URL, SOURCE)
    assert [row.url for row in rows] == ["https://example.org/a.mp3", "https://example.org/b.mp3"]


def test_items_that_share_a_guid_are_all_read(make_feed):
    """A guid that is the show's address, on every item: of no use, and no reason to lose all but one."""
    shared = "https://example.org/the-show"
    feed = make_feed([(shared, f"https://example.org/{n}.mp3") for n in range(3)])
    rows, _ = parse_feed(feed.encode(), URL, SOURCE)
    assert len(rows) == 3
    again, _ = parse_feed(feed.encode(), URL, SOURCE, known={rows[0].recording_id})
    assert again == rows[1:]
    [alone], _ = parse_feed(make_feed([(shared, "https://example.org/0.mp3")]).encode(), URL, SOURCE)
    later, _ = parse_feed(feed.encode(), URL, SOURCE, known={alone.recording_id})
    assert {row.url for row in later} >= {row.url for row in rows[1:]}, "one that was known hides no other"


@dataclass
class Item:
    """An item of a generated feed: its XML in pieces, and what has to be found in it."""

    number: int
    pieces: list[str] = field(default_factory=list)
    playable: set[str] = field(default_factory=set)


ENCLOSURES = (
    "<enclosure url={url} type={type} length={length}/>",
    "<enclosure length={length} type={type} url={url}></enclosure>",
    "<enclosure url={url}/>",
    "<atom:link rel='enclosure' href={url} type={type}/>",
    "<media:content url={url} type={type} medium='audio'/>",
    "<media:group><media:content url={url} type={type}/></media:group>",
    "<podcast:alternateEnclosure type={type} length={length}><podcast:source uri={url}/></podcast:alternateEnclosure>",
)
NOISE = (
    "<description>{text}</description>",
    "<content:encoded><![CDATA[<p>&nbsp;{text} <enclosure url='/no.mp3'/></p>]]></content:encoded>",
    "<itunes:image href='/no.jpg'/>",
    "<enclosure url='/cover.jpg' type='image/jpeg' length='9'/>",
    "<media:thumbnail url='/no.png'/>",
    "<x:enclosed url='/no.mp3'>{text}</x:enclosed>",
    "<source url='https://other.org/feed'><title>Other</title></source>",
    "<psc:chapters><psc:chapter start='0' title={quoted}/></psc:chapters>",
    "<!-- {number} -->",
    "<itunes:duration>1:2:3</itunes:duration>",
    "<pubDate>yesterday</pubDate>",
    "<link/>",
)
TYPES = ("audio/mpeg", "audio/x-m4a", "AUDIO/MPEG", "", "application/octet-stream", "mp3", "video/mp4")
SPACES = {
    "itunes": "http://www.itunes.com/dtds/podcast-1.0.dtd",
    "podcast": "https://podcastindex.org/namespace/1.0",
    "atom": "http://www.w3.org/2005/Atom",
    "media": "http://search.yahoo.com/mrss/",
    "content": "http://purl.org/rss/1.0/modules/content/",
    "psc": "http://podlove.org/simple-chapters",
    "x": "urn:x",
}
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


@st.composite
def items(draw, number: int) -> Item:
    made = Item(number)
    for place in range(draw(st.integers(0, 2))):
        url = f"https://example.org/{number}/{place}{draw(st.sampled_from(['.mp3', '', '.m4a?a=1&b=2', '.mp4']))}"
        kind = draw(st.sampled_from(TYPES))
        shape = draw(st.sampled_from(ENCLOSURES))
        made.pieces.append(shape.format(url=quoteattr(url), type=quoteattr(kind), length=quoteattr(draw(TEXT))))
        made.playable.add(url)
    for shape in draw(st.lists(st.sampled_from(NOISE), max_size=4)):
        text = draw(TEXT)
        cdata = "CDATA" in shape
        made.pieces.append(
            shape.format(text=text.replace("]]>", "") if cdata else escape(text), quoted=quoteattr(text), number=number)
        )
    made.pieces += draw(st.lists(st.just(f"<title>Item {number}</title>"), min_size=1, max_size=2))
    made.pieces += draw(st.lists(st.just(f"<guid>guid-{number}</guid>"), max_size=2))
    made.pieces = draw(st.permutations(made.pieces))
    return made


@st.composite
def feeds(draw) -> tuple[bytes, list[Item]]:
    made = [draw(items(number)) for number in range(draw(st.integers(0, 4)))]
    body = "".join(f"<item>{''.join(item.pieces)}</item>" for item in made)
    uris = {
        "right": SPACES,
        "https": {prefix: uri.replace("http:", "https:") for prefix, uri in SPACES.items()},
        "wrong": {prefix: f"urn:{prefix}" for prefix in SPACES},
        "none": {},
    }[draw(st.sampled_from(["right", "https", "none", "wrong"]))]
    spaces = "".join(f' xmlns:{prefix}="{uri}"' for prefix, uri in uris.items())
    channel = draw(st.permutations(["<title>Show</title>", "<itunes:owner/>", body, "<language>en</language>"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"]))
    declared = draw(
        st.sampled_from(["", '<?xml version="1.0" encoding="utf-16"?>', "<?xml version='1.0'?><!DOCTYPE rss>"])
    )
    return f"{declared}<rss{spaces}><channel>{''.join(channel)}</channel></rss>".encode(encoding), made


@MANY
@given(feeds())
def test_no_enclosure_is_lost_and_no_two_items_are_mixed(feed):
    body, made = feed
    entries = read(body).entries
    assert [entry.title for entry in entries] == [f"Item {item.number}" for item in made]
    rows = {row.title: row for row in parse_feed(body, URL, SOURCE)[0]}
    for entry, item in zip(entries, made, strict=True):
        assert entry.guid in (None, f"guid-{item.number}")
        found = {each["href"] for each in entry.enclosures}
        assert item.playable <= found
        assert found - item.playable <= {"https://example.org/cover.jpg"}
        if item.playable:
            assert rows[f"Item {item.number}"].url in item.playable
        else:
            assert f"Item {item.number}" not in rows


@MANY
@given(feeds())
def test_what_feedparser_finds_is_found(feed):
    body, _ = feed
    theirs = feedparser.parse(decode(body).encode(), resolve_relative_uris=False).entries
    ours = read(body).entries
    assert len(ours) == len(theirs)
    for entry, other in zip(ours, theirs, strict=True):
        listed = [each.get("href") for each in other.get("enclosures", [])]
        listed += [each.get("url") for each in other.get("media_content", [])]
        found = {each["href"] for each in entry.enclosures}
        assert {f"https://example.org{url}" if url.startswith("/") else url for url in listed if url} <= found


@MANY
@given(feeds(), st.integers(0, 10**6), st.integers(0, 10**6), st.binary(max_size=20))
@example((b"<rss><channel><item><enclosure url='http://[x/a.mp3'/></item></channel></rss>", []), 0, 0, b"")
def test_a_damaged_feed_gives_what_it_has_or_is_refused(feed, begin, length, junk):
    body, made = feed
    begin %= len(body) + 1
    damaged = body[:begin] + junk + body[begin + length % 40 :]
    known_pairs = {url: item.number for item in made for url in item.playable}
    try:
        entries = read(damaged).entries
    except Rejected as rejection:
        assert rejection.reason is RejectReason.BAD_METADATA  # noqa: PT017
        return
    for entry in entries:
        best = choose_enclosure(entry.enclosures)
        if best and best["href"] in known_pairs and entry.guid in {f"guid-{item.number}" for item in made}:
            assert entry.guid == f"guid-{known_pairs[best['href']]}"
