"""Templates of the demo's three sites: the podcast's feed, the library's JSON and the video pages.

``@BASE_URL@`` stands for the server's address.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape

from triforce.flows.examples.demo.speech import SpeechDataset

BASE_URL = "@BASE_URL@"
TITLES = {"podcast": "Please Hold", "library": "The Book of Prompts", "videos": "Talks at the Exchange"}


@dataclass(frozen=True)
class Programme:
    """One published audio file and its description."""

    name: str
    number: int
    title: str
    file_name: str
    duration_s: float
    num_bytes: int
    published: str
    """Date in RFC 2822's format, a week after the one before."""


def templates(programmes: dict[str, list[Programme]], speech: SpeechDataset) -> dict[str, str]:
    """Return the templates' texts by their paths below the sites' folder."""
    texts = {
        "podcast/feed.xml.in": _feed(programmes["podcast"], speech),
        "library/books.json.in": _books(programmes["library"], speech),
        "videos/index.html.in": _video_index(programmes["videos"]),
    }
    return texts | {f"videos/{video.name}.html.in": _video_page(video, speech) for video in programmes["videos"]}


def _feed(episodes: list[Programme], speech: SpeechDataset) -> str:
    items = "".join(_feed_item(episode, speech) for episode in reversed(episodes))  # newest first, as feeds are
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<rss version="2.0" xmlns:itunes="http://www.itunes.com/dtds/podcast-1.0.dtd" xmlns:atom="http://www.w3.org/2005/Atom">
<channel>
<title>{TITLES["podcast"]}</title>
<link>{BASE_URL}/podcast/feed.xml</link>
<atom:link href="{BASE_URL}/podcast/feed.xml" rel="self" type="application/rss+xml"/>
<description>Recorded prompts, read with pauses between them. From: {escape(speech.origin)}.</description>
<language>en-us</language>
<copyright>{escape(speech.licence)}</copyright>
<itunes:author>{escape(speech.author)}</itunes:author>
<itunes:explicit>false</itunes:explicit>
<itunes:category text="Technology"/>
{items}</channel>
</rss>
"""


def _feed_item(episode: Programme, speech: SpeechDataset) -> str:
    minutes, seconds = divmod(round(episode.duration_s), 60)
    return f"""<item>
<title>{escape(episode.title)}</title>
<guid isPermaLink="false">please-hold-{episode.name}</guid>
<link>{BASE_URL}/podcast/{episode.file_name}</link>
<pubDate>{episode.published}</pubDate>
<enclosure url="{BASE_URL}/podcast/{episode.file_name}" length="{episode.num_bytes}" type="audio/mpeg"/>
<itunes:author>{escape(speech.author)}</itunes:author>
<itunes:duration>{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}</itunes:duration>
<itunes:season>1</itunes:season>
<itunes:episode>{episode.number}</itunes:episode>
<itunes:explicit>false</itunes:explicit>
</item>
"""


def _books(chapters: list[Programme], speech: SpeechDataset) -> str:
    """Return one book, in the fields of the LibriVox API with ``extended=1``; numbers are strings there too."""
    total_s = round(sum(chapter.duration_s for chapter in chapters))
    first, _, last = speech.author.rpartition(" ")
    book = {
        "id": "1",
        "title": TITLES["library"],
        "description": f"Recorded prompts. From: {speech.origin}. Licence: {speech.licence}.",
        "url_text_source": "",
        "language": "English",
        "copyright_year": "0",
        "num_sections": str(len(chapters)),
        "url_rss": "",
        "url_zip_file": "",
        "url_project": "",
        "url_librivox": f"{BASE_URL}/library/the-book-of-prompts/",
        "url_other": "",
        "totaltime": f"{total_s // 3600:02d}:{total_s // 60 % 60:02d}:{total_s % 60:02d}",
        "totaltimesecs": total_s,
        "authors": [{"id": "1", "first_name": first, "last_name": last, "dob": "", "dod": ""}],
        "sections": [_section(chapter, speech) for chapter in chapters],
        "genres": [{"id": "1", "name": "Reference"}],
        "translators": [],
    }
    return json.dumps({"books": [book]}, indent=1)


def _section(chapter: Programme, speech: SpeechDataset) -> dict:
    return {
        "id": str(1000 + chapter.number),
        "section_number": str(chapter.number),
        "title": chapter.title,
        "listen_url": f"{BASE_URL}/library/{chapter.file_name}",
        "language": "English",
        "playtime": str(round(chapter.duration_s)),
        "file_name": chapter.file_name,
        "readers": [{"reader_id": "1", "display_name": speech.author}],
    }


def _video_index(videos: list[Programme]) -> str:
    """Return a page that links to the videos, for people; the ingest source lists the videos' own pages."""
    rows = "".join(f'<li><a href="{BASE_URL}/videos/{v.name}.html">{escape(v.title)}</a></li>\n' for v in videos)
    return f'<!doctype html>\n<meta charset="utf-8">\n<title>{TITLES["videos"]}</title>\n<ul>\n{rows}</ul>\n'


def _video_page(video: Programme, speech: SpeechDataset) -> str:
    title, url = escape(video.title), f"{BASE_URL}/videos/{video.file_name}"
    facts = {
        "@context": "https://schema.org",
        "@type": "VideoObject",
        "name": video.title,
        "description": f"Recorded prompts. From: {speech.origin}.",
        "uploadDate": "2026-01-05",
        "duration": f"PT{round(video.duration_s)}S",
        "contentUrl": url,
        "encodingFormat": "video/webm",
        "author": {"@type": "Person", "name": speech.author},
        "license": speech.licence,
    }
    # "<" in a JSON string could end the script element.
    linked = json.dumps(facts, indent=1).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<meta property="og:type" content="video.other">
<meta property="og:title" content="{title}">
<meta property="og:video" content="{url}">
<meta property="og:video:type" content="video/webm">
<script type="application/ld+json">
{linked}
</script>
</head>
<body>
<h1>{title}</h1>
<p><a href="{url}">Watch</a></p>
</body>
</html>
"""
