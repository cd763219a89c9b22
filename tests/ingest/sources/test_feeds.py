"""Feeds: what is read of them, and what hostile ones come to."""

from __future__ import annotations

import base64
import hashlib

import pytest
from sync_loop import sync_source

from triforce.ingest.config import PodcastSource
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.ledger import canonical_url, is_universal
from triforce.ingest.sources import feed as feeds
from triforce.ingest.sources import podcast
from triforce.ingest.sources.podcast import choose_enclosure, choose_transcript, parse_duration, parse_feed, parse_opml
from triforce.ingest.sync import discover

RICH = """<itunes:duration>1:02:03</itunes:duration><itunes:season>2</itunes:season><itunes:episode>7</itunes:episode>
<itunes:explicit>true</itunes:explicit>
<pubDate>Tue, 02 Jan 2024 10:00:00 +0100</pubDate><link>/e/7</link>
<podcast:license url="https://example.org/l">cc-by-4.0</podcast:license>
<podcast:person role="host">Ann</podcast:person>
<podcast:person>Bob</podcast:person>
<podcast:transcript url="/7.txt" type="text/plain"/>
<podcast:transcript url="/7.vtt" type="text/vtt" language="en"/>
<podcast:chapters url="/7.json" type="application/json"/>"""

ATOM = """<?xml version="1.0" encoding="utf-8"?><feed xmlns="http://www.w3.org/2005/Atom"><title>Vorträge</title>
<author><name>Carla</name></author><link rel="next" href="?page=2"/><rights>CC BY</rights>
<entry><id>tag:example.org,2024:1</id><title>Eins</title><updated>2024-01-02T10:00:00Z</updated>
<link href="https://example.org/1"/><link rel="enclosure" type="audio/ogg" href="/1.ogg" length="5"/></entry></feed>"""

SOURCE = PodcastSource(name="x", feeds=["https://example.org/feed"])


def read(text: str | bytes) -> feeds.Feed:
    return feeds.parse(text.encode() if isinstance(text, str) else text, "https://example.org/feed")


def test_every_field_of_an_episode(make_feed):
    text = make_feed([{"guid": "7", "url": "https://example.org/7.mp3", "extra": RICH}])
    [row], next_page = parse_feed(text.encode(), "https://example.org/feed", SOURCE)
    assert next_page is None
    assert row.source_id == "https://example.org/feed#7"
    assert (row.duration_s, row.licence, row.published) == (3723.0, "cc-by-4.0", "2024-01-02T09:00:00Z")
    assert (row.page_url, row.language) == ("https://example.org/e/7", "en")
    assert row.metadata["persons"] == "Ann (host); Bob"
    assert (row.metadata["transcript_url"], row.metadata["transcript_type"]) == (
        "https://example.org/7.vtt",
        "text/vtt",
    )
    assert (row.metadata["season"], row.metadata["episode"], row.metadata["explicit"]) == ("2", "7", "true")
    assert row.metadata["chapters_url"] == "https://example.org/7.json"


def test_an_alternate_enclosure_is_chosen_and_checked(site, corpus, settings, sound, make_feed):
    best = sound(1)
    sri = f"sha384-{base64.b64encode(hashlib.sha384(best).digest()).decode()}"
    source = f'<podcast:source uri="ipfs://x"/><podcast:source uri="{site.put("/best.flac", best)}"/>'

    def episode(guid: str, integrity: str) -> dict:
        sums = f'<podcast:integrity type="sri" value="{integrity}"/>'
        other = f'<podcast:alternateEnclosure type="audio/flac" length="9" lang="en">{source}{sums}'
        foreign = f'<podcast:alternateEnclosure type="audio/flac" length="99" lang="de">{source}'
        end = "</podcast:alternateEnclosure>"
        return {"guid": guid, "url": site.base_url + f"/{guid}.mp3", "extra": foreign + end + other + end}

    [row], _ = parse_feed(make_feed([episode("a", sri)]).encode(), "https://example.org/feed", SOURCE)
    assert row.metadata["declared_sha384"] == hashlib.sha384(best).hexdigest()
    feed = site.put("/feed", make_feed([episode("good", sri), episode("bad", sri[:9] + sri[9:][::-1])]))
    sync_source(PodcastSource(name="x", feeds=[feed]), settings, corpus)
    rows = {row.title: row for row in corpus.recordings()}
    assert rows["Episode good"].url.endswith("/best.flac")
    assert (rows["Episode good"].status, rows["Episode bad"].status) == ("fetched", "duplicate")
    feed = site.put("/feed", make_feed([episode("worse", "sha256-" + "A" * 43 + "=")]))
    summary = sync_source(PodcastSource(name="y", feeds=[feed]), settings, Corpus(corpus.uri + "-y"))
    assert summary.rejected == {"bad_checksum": 1}


def test_atom_feeds_are_read():
    [row], next_page = parse_feed(ATOM.encode(), "https://example.org/feed", SOURCE)
    assert next_page == "https://example.org/feed?page=2"
    assert (row.url, row.title, row.collection) == ("https://example.org/1.ogg", "Eins", "Vorträge")
    assert (row.author, row.licence, row.source_id) == ("Carla", "CC BY", "tag:example.org,2024:1")


def test_both_parsers_agree(make_feed):
    """A feed with a bare ampersand is not XML.

    What feedparser makes of it is what the strict one makes of the right spelling.
    """
    items = [{"guid": f"guid-{n}", "url": f"https://example.org/{n}.mp3", "extra": RICH} for n in range(3)]
    right = make_feed(items, title="This & that")
    strict, lenient = read(right), read(right.replace("This &amp; that", "This & that"))
    assert (lenient.title, lenient.language) == (strict.title, strict.language)
    for ours, theirs in zip(strict.entries, lenient.entries, strict=True):
        for name in ("guid", "title", "link", "published", "duration", "enclosures"):
            assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not a feed at all",
        b"<html><body>moved</body></html>",
        b'<?xml version="1.0" encoding="cp037"?>' + "<rss><channel/></rss>".encode("cp037"),
        b'<?xml version="1.0" encoding="utf-7"?>+ADw-rss+AD4APA-channel/+AD4APA-/rss+AD4-',
        b'<!DOCTYPE r [<!ENTITY a "b"',
        b'<!DOCTYPE r><!DOCTYPE r [<!ENTITY a "b">]><rss><channel/></rss>',
        b'<!ENTITY a "b"><rss><channel/></rss>',
        b"<rss><channel>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</channel></rss>",
        b"\x00" * 1000,
    ],
)
def test_hostile_and_broken_feeds_are_refused(body):
    with pytest.raises(Rejected, match="bad_metadata"):
        read(body)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32-be"])
@pytest.mark.parametrize(
    "declared",
    [
        '<!ENTITY x "aaaa">',
        '<!ENTITY a "aaaa"><!ENTITY x "&a;&a;&a;">',
        '<!ENTITY x SYSTEM "file:///etc/passwd">',
        '<!-- ]> --><!ENTITY x "]>"><?pi ]>?>',
        '<!ENTITY % p SYSTEM "http://127.0.0.1/"> %p; <!ATTLIST r x CDATA "]>">',
    ],
)
def test_entities_are_neither_declared_nor_expanded_nor_fetched(declared, encoding):
    text = f"<!-- a --><!DOCTYPE r [{declared}] ><rss><channel><title>T &x; &eacute;</title></channel></rss>"
    assert read(text.encode(encoding)).title == "T &x; é"


def test_a_show_about_xml_is_read(make_feed):
    extra = "<description><![CDATA[<!ENTITY a 'b'> <!DOCTYPE x> & more]]></description>"
    [entry] = read(make_feed([{"guid": "1", "url": "https://example.org/1.mp3", "extra": extra}])).entries
    assert entry.guid == "1"


def test_a_feed_that_was_cut_off_gives_what_it_has(make_feed):
    text = make_feed([("1", "https://example.org/1.mp3"), ("2", "https://example.org/2.mp3")])
    assert [entry.guid for entry in read(text[: text.index("<guid>2")]).entries] == ["1", None]


def test_other_charsets_are_read(make_feed):
    text = make_feed([("1", "https://example.org/1.mp3")], title="Grüße").replace("UTF-8", "ISO-8859-1")
    assert read(text.encode("latin-1")).title == "Grüße"


def test_the_best_audio_is_chosen():
    def choose(*items):
        best = choose_enclosure([dict(zip(("href", "type", "length"), item, strict=True)) for item in items])
        return best and best["href"]

    assert choose(("a.mp3", "audio/mpeg", "10"), ("b.mp3", "audio/mpeg", "20")) == "b.mp3"
    assert choose(("a.mp3", "audio/mpeg", "99"), ("b", "audio/flac", "20")) == "b"
    assert choose(("v.mp4", "video/mp4", "99"), ("b.mp3", "", "")) == "b.mp3"
    assert choose(("v.mp4", "video/mp4", "99"), ("p.pdf", "application/pdf", "1")) == "v.mp4", "it has sound"
    assert choose(("v.mp4", "video/mp4", "99"), ("/get?id=1", "application/octet-stream", "")) == "/get?id=1"
    assert choose(("cover.jpg", "image/jpeg", "99"), ("p.pdf", "", "1"), ("t.txt", "text/plain", "")) is None
    assert choose(("a.mp3", "audio/mpeg", "-5"), ("b.mp3", "audio/mpeg", "٣")) == "a.mp3"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3723", 3723),
        ("62:03", 3723),
        ("1:02:03", 3723),
        ("0", None),
        ("", None),
        (None, None),
        ("-5", None),
        ("9" * 400, None),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.org/x.mp3?token=1", "http://www.a.org/x.mp3?token=1#t=3", True),
        ("https://a.org/x.mp3?token=1", "https://a.org/x.mp3?token=2", False),
        ("https://a.org/play?src=1.mp3", "https://a.org/play?src=2.mp3", False),
        ("https://a.org/x.mp3?Expires=1&Signature=a&Key-Pair-Id=b", "https://a.org/x.mp3", True),
        ("https://a.org/x.mp3?utm_source=feed&awEpisodeId=1", "https://a.org/x.mp3?awEpisodeId=2", False),
        ("https://dts.podtrac.com/redirect.mp3/pdst.fm/e/a.org/x.mp3", "https://a.org/x.mp3", True),
        ("https://op3.dev/e,pg=1/https://a.org/x.mp3", "https://a.org/x.mp3", True),
        ("https://a.org/get.php?id=1&utm_source=x", "https://a.org/get.php?id=1", True),
        ("https://a.org/get.php?id=1", "https://a.org/get.php?id=2", False),
        ("https://a.org:8080/x.mp3", "https://a.org/x.mp3", False),
    ],
)
def test_addresses_are_compared_without_what_only_counts_visitors(one, other, same):
    assert (canonical_url(one) == canonical_url(other)) is same


def test_universal_ids():
    assert is_universal("https://a.org/1")
    assert is_universal("0f8fad5b-d9cb-469f-a165-70867728950e")
    assert not is_universal("17")
    assert not is_universal("0" * 40)


def test_pages_are_read_back_to_what_is_known(site, corpus, settings, sound, make_feed):
    def page(number: int, names: str) -> None:
        link = f'<atom:link rel="next" href="/p{number + 1}"/>' if number < 3 else ""
        items = [(name, site.put(f"/{name}.flac", sound(ord(name)))) for name in names]
        site.put(f"/p{number}", make_feed(items, extra=link))

    for number, names in enumerate(("fe", "dc", "ba"), start=1):
        page(number, names)
    source = PodcastSource(name="paged", feeds=[site.base_url + "/p1"])
    assert sync_source(source, settings, corpus).fetched == 6
    site.forget()
    assert sync_source(source, settings, corpus).discovered == 0
    assert dict(site.hits) == {"/p1": 1}
    page(1, "gf")
    page(2, "ed")
    site.forget()
    assert sync_source(source, settings, corpus).fetched == 1
    assert (site.hits["/p1"], site.hits["/p2"], site.hits["/p3"]) == (1, 1, 0)


def test_opml_lists_name_feeds(site, corpus, settings, sound, make_feed, tmp_path):
    one = site.put("/one", make_feed([("1", site.put("/a.flac", sound(1)))], title="One"))
    two = site.put("/two?x=1&y=2", make_feed([("1", site.put("/b.flac", sound(2)))], title="Two"))
    outlines = "".join(
        f'<outline type="rss" text="t" xmlUrl="{url.replace("&", "&amp;")}"/>' for url in (one, two, one)
    )
    opml = f'<?xml version="1.0"?><opml version="2.0"><body><outline text="folder">{outlines}</outline></body></opml>'
    assert list(parse_opml(opml.encode(), "x")) == [one, two]
    (tmp_path / "list.opml").write_text(opml)
    for where in (str(tmp_path / "list.opml"), site.put("/list.opml", opml)):
        found = list(discover(PodcastSource(name="o", opml=where), settings, corpus))
        assert [item.collection for item in found] == ["One", "Two"]


BAD_ADDRESSES = ["http://h:99999/x.mp3", "http://[::1/x.mp3", "http://", "javascript:x", "http://a b/x.mp3", "\\\\x"]


def test_one_bad_entry_does_not_stop_the_others(site, corpus, settings, sound, make_feed):
    items = [{"guid": f"g{n}", "url": url, "extra": f"<link>{url}</link>"} for n, url in enumerate(BAD_ADDRESSES)]
    items.append(("g", site.put("/a.flac", sound(1))))
    summary = sync_source(PodcastSource(name="x", feeds=[site.put("/feed", make_feed(items))]), settings, corpus)
    assert (summary.fetched, summary.problems) == (1, [])
    assert set(summary.rejected) <= {"bad_redirect", "network", "not_audio", "not_found"}
    assert summary.rejected.total() == len(BAD_ADDRESSES)


def test_a_reader_that_fails_is_told_and_stops_no_other_feed(site, corpus, settings, sound, make_feed, monkeypatch):
    parse = podcast.parse_feed

    def broken(body, url, *rest, **options):
        return parse(body, url, *rest, **options) if "good" in url else {}["no such key"]

    monkeypatch.setattr(podcast, "parse_feed", broken)
    feeds = [site.put("/bad", make_feed([])), site.put("/good", make_feed([("1", site.put("/a.flac", sound(1)))]))]
    summary = sync_source(PodcastSource(name="x", feeds=feeds), settings, corpus)
    assert summary.fetched == 1
    assert summary.problems[0].startswith(f"bad_metadata: {feeds[0]}: KeyError in broken")


def test_a_lost_opml_list_is_told(corpus, settings, tmp_path):
    summary = sync_source(PodcastSource(name="x", opml=str(tmp_path / "none.opml")), settings, corpus)
    assert "none.opml" in summary.failure(settings)


def test_endless_texts_are_cut_off(make_feed):
    feed = make_feed([("g" * 100_000, "https://example.org/1.mp3")], title="T" * 100_000)
    [row], _ = parse_feed(feed.encode(), "https://example.org/feed", SOURCE)
    assert len(row.collection) == 4096
    assert row.source_id.startswith("https://example.org/feed#sha256:") or row.source_id.startswith("sha256:")


def test_one_bad_feed_does_not_stop_the_others(site, corpus, settings, sound, make_feed):
    good = site.put("/good", make_feed([("1", site.put("/a.flac", sound(1)))]))
    summary = sync_source(PodcastSource(name="x", feeds=[site.base_url + "/none", good]), settings, corpus)
    assert summary.fetched == 1
    assert summary.problems[0].startswith("not_found")
    assert summary.failure(settings) is None


def test_ten_thousand_episodes(site, corpus, settings, make_feed):
    url = site.put("/feed", make_feed([(f"g{n}", f"{site.base_url}/{n}.mp3") for n in range(10_000)]))
    source = PodcastSource(name="big", feeds=[url], max_new=3)
    assert len(list(discover(source, settings, corpus))) == 3
    assert len(list(discover(source.model_copy(update={"max_new": None}), settings, corpus))) == 10_000
    assert site.hits["/feed"] == 2


def test_known_episodes_are_left_out_and_those_without_a_guid_too(make_feed):
    items = [("https://example.org/episode/1", "https://example.org/1.mp3"), ("two", "https://example.org/2.mp3")]
    feed = make_feed([*items, ("new", "https://example.org/3.mp3")]).replace("<guid>two</guid>", "")
    everything, _ = parse_feed(feed.encode(), "https://example.org/feed", SOURCE)
    assert len(everything) == 3
    known = {row.recording_id for row in everything[:2]}
    rest, _ = parse_feed(feed.encode(), "https://example.org/feed", SOURCE, known=known)
    assert rest == everything[2:]


def test_a_transcript_in_the_language_of_the_episode_goes_before_others():
    german = {"url": "/de.vtt", "type": "text/vtt", "language": "de-AT"}
    english, plain = german | {"url": "/en.txt", "type": "text/plain", "language": "en"}, {"url": "/x.txt"}
    assert choose_transcript([german, english, plain], "en") == english
    assert choose_transcript([german, plain], "en") == plain
    assert choose_transcript([english, german], "de") == german
    assert choose_transcript([english, german]) == german
    assert choose_transcript([]) is None
