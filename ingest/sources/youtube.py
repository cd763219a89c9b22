"""Pages that yt-dlp reads: channels, playlists, searches, pages with a player.

yt-dlp runs as a library, on the network of `triforce.ingest.fetch.ytdlp_network`. Nothing is executed or transcoded:
the best audio lands on the disk as the site serves it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import yt_dlp

from triforce.ingest import storage
from triforce.ingest.config import Settings, YoutubeSource
from triforce.ingest.corpus.records import Recording, RejectReason, Status, make_recording_id
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.pace.host import host_of
from triforce.ingest.fetch.ytdlp_errors import named_failures
from triforce.ingest.fetch.ytdlp_network import NATIVE_PROTOCOLS, CheckedYoutubeDL
from triforce.ingest.sources.base import LocalMedia, SourceKind
from triforce.ingest.sources.pages import Pages
from triforce.ingest.sources.youtube_options import ytdlp_options

KNOWN_IN_A_ROW = 60
"""Known entries in a row after which a list that is newest first is left: two pages of the largest sites. Assumed."""

MAX_NESTING = 4
"""Listings inside one another: a channel holds tabs, a tab holds playlists, a playlist holds videos."""

WITHOUT_IDS = ("Generic", "HTML5MediaEmbed", "html5")
"""Extractors whose ids are made of file names, which two hosts may share."""


LEAST_BYTES_PER_S = 1000
"""Size for its length from which a video is believed to be too long, and is not downloaded to find out: what a page
says of a length rejects nothing without the size to go with it. Speech is sent at 2 000 and more. Assumed."""


class Youtube(SourceKind[YoutubeSource]):
    """Channels, playlists, searches and pages, each by its address."""

    wants_transcripts = True
    """Whether found captions are stored; `bring` looks for them only where the source wants them."""
    blocks_allowed = 1
    """One block is enough: such sites remember who goes on asking."""

    def listings(self, pages: Pages) -> Iterator[Iterator[Recording]]:
        for url in self.config.urls:
            if pages.was_blocked:
                return  # a site that blocks is not asked again in the same run
            yield self._listed(url, pages)

    def _listed(self, url: str, pages: Pages) -> Iterator[Recording]:
        """Yield the videos listed at ``url``, without opening each video's page; `Rejected` if it cannot be read."""
        with CheckedYoutubeDL(ytdlp_options(self.config, self.settings, url), self.settings) as ydl:
            walk = Walk(self.config, url, functools.partial(_extract, ydl), pages.known, pages.report)
            yield from walk.recordings(_extract(ydl, url), url)

    def bring(self, recording: Recording, target: Path) -> LocalMedia:
        """Download the best audio, and take what the page states where the listing stated nothing."""
        path, info = fetch_video(recording, self.config, self.settings, target)
        stated = {
            "title": info.get("title"),
            "author": info.get("uploader") or info.get("channel"),
            "licence": info.get("license"),
            "language": info.get("language"),
            "duration_s": info.get("duration"),
        }
        learnt = {key: value for key, value in stated.items() if value and not getattr(recording, key)}
        captions = captions_of(info, recording.language) if self.config.captions else {}
        recording = replace(recording, metadata=recording.metadata | captions, **learnt)
        return LocalMedia(recording, path, path.stat().st_size, storage.sha256_of(path))

    def is_same(self, recording: Recording, other: Recording) -> bool:
        """An address with a site's own id names one video for ever; a page of any other kind may change."""
        return recording.metadata.get("extractor") not in WITHOUT_IDS


def is_newest_first(url: str) -> bool:
    """Whether a list grows at its front: a channel's tab does. A playlist grows at its end, a tab in another order or
    one of playlists anywhere, and all of it must be read."""
    channel = r"youtube\.com/(@[^/?#]+|(channel|c|user)/[^/?#]+)"
    return bool(re.search(channel + r"(/(videos|shorts|streams|live))?/?$", url))


@dataclass(frozen=True)
class Walk:
    """A walk over one address's lists, which may lie in one another: a channel's tabs, a tab's playlists."""

    source: YoutubeSource
    url: str
    read: Callable[[str], dict]
    """Returns what yt-dlp finds at an address."""
    known: Collection[str]
    """Ids of the recordings on record."""
    report: Callable[[Rejected], None]
    """Told of a list that cannot be read; the others are read all the same."""

    def recordings(self, info: dict, url: str, depth: int = 0) -> Iterator[Recording]:
        """Yield the videos in ``info``, which yt-dlp found at ``url``.

        A list that is newest first is left after `KNOWN_IN_A_ROW`, and any after ``max_listed`` entries; the next list
        begins anew.
        """
        kind = info.get("_type", "video")
        if kind in ("url", "url_transparent"):
            if depth < MAX_NESTING:
                yield from self.recordings(self.read(info["url"]), info["url"], depth + 1)
        elif kind not in ("playlist", "multi_video"):
            yield from self._wanted(info)
        else:
            yield from self._list(info, url, depth)

    def _list(self, info: dict, url: str, depth: int) -> Iterator[Recording]:
        entries = info.get("entries") or []
        alone = isinstance(entries, list) and len(entries) == 1
        may_stop = is_newest_first(info.get("webpage_url") or url)
        in_a_row = count = 0
        for entry in _iterate(entries, url):
            if entry.get("_type") == "playlist" or entry.get("ie_key") in ("YoutubeTab", "YoutubePlaylist"):
                if depth < MAX_NESTING:
                    yield from self._nested(entry, depth)
                continue
            for recording in self._wanted(_placed(entry, info, alone)):
                in_a_row = in_a_row + 1 if recording.recording_id in self.known else 0
                if may_stop and in_a_row >= KNOWN_IN_A_ROW:
                    return
                yield recording
                count += 1
                if self.source.max_listed and count >= self.source.max_listed:
                    return

    def _nested(self, entry: dict, depth: int) -> Iterator[Recording]:
        url = entry.get("webpage_url") or entry.get("url") or self.url
        try:
            yield from self.recordings(entry if entry.get("entries") else self.read(url), url, depth + 1)
        except Rejected as rejection:
            if rejection.reason is RejectReason.BLOCKED:
                raise  # a site that blocks is not asked for the next one
            self.report(rejection)

    def _wanted(self, entry: dict) -> Iterator[Recording]:
        recording = None if is_live(entry) else _recording(entry, self.url, self.source)
        if recording is not None:
            yield recording


def _placed(entry: dict, listing: dict, alone: bool) -> dict:
    """Return ``entry`` with the name of its listing, and an address, which a player among others on a page lacks."""
    shared = {
        "playlist_title": listing.get("title"),
        "playlist_uploader": listing.get("uploader") or listing.get("channel"),
    }
    if entry.get("_type") in ("url", "url_transparent"):
        return shared | entry
    if alone:
        own = {key: listing.get(key) for key in ("title", "webpage_url", "original_url")}
    else:
        media_urls = [entry.get("url"), *(item.get("url") for item in entry.get("formats") or [])]
        own = {"webpage_url": entry.get("webpage_url") or next(filter(None, media_urls), None)}
    return shared | entry | {key: value for key, value in own.items() if value}


def _iterate(entries, url: str) -> Iterator[dict]:
    """Yield entries. Lists are read page by page, so errors are raised here too."""
    with named_failures(url):
        yield from (entry for entry in entries if isinstance(entry, dict))


def _recording(entry: dict, listing_url: str, source: YoutubeSource) -> Recording | None:
    flat = entry.get("_type") in ("url", "url_transparent")
    url = entry.get("url") if flat else entry.get("webpage_url") or entry.get("original_url")
    if not url or urlsplit(url).scheme not in ("http", "https"):
        return None
    extractor = entry.get("ie_key") or entry.get("extractor_key") or "Generic"
    source_id = url if extractor in WITHOUT_IDS or not entry.get("id") else f"{extractor.lower()}:{entry['id']}"
    metadata = {
        "extractor": extractor,
        "listed_at": listing_url,
        "live_status": entry.get("live_status"),
        "view_count": entry.get("view_count"),
        "channel_id": entry.get("channel_id"),
    }
    return Recording(
        recording_id=make_recording_id(source.name, source_id),
        source=source.name,
        source_kind=source.kind,
        source_id=source_id,
        url=url,
        page_url=url,
        title=_title(entry, extractor),
        author=entry.get("uploader") or entry.get("channel") or entry.get("playlist_uploader"),
        collection=entry.get("playlist_title") or entry.get("channel"),
        published=_iso_date(entry.get("upload_date")),
        licence=entry.get("license") or source.licence,
        language=source.language or entry.get("language"),
        duration_s=float(entry["duration"]) if entry.get("duration") else None,
        status=Status.DISCOVERED,
        metadata={key: str(value) for key, value in metadata.items() if value not in (None, "")},
    )


def fetch_video(recording: Recording, source: YoutubeSource, settings: Settings, path: Path) -> tuple[Path, dict]:
    """Download the best audio of ``recording`` beside ``path``; return the file and what the site states about it."""
    options = ytdlp_options(source, settings, recording.url) | {
        "outtmpl": {"default": f"{path}.%(ext)s".replace("%", "%%").replace("%%(ext)s", "%(ext)s")},
        "format": f"bestaudio[protocol~='{NATIVE_PROTOCOLS}']/best[protocol~='{NATIVE_PROTOCOLS}']",
        "max_filesize": settings.max_bytes,
        "progress_hooks": [functools.partial(_check_progress, settings, recording.url)],
    }
    with host_of(recording.url, settings).slot(), CheckedYoutubeDL(options, settings) as ydl:
        info = _first_video(_extract(ydl, recording.url, process=True), recording.url)
        check_video(info, source, settings, recording.url)
        with named_failures(recording.url):
            done = ydl.process_ie_result(info, download=True)
    downloads = done.get("requested_downloads") or []
    saved = Path(downloads[0].get("filepath") or f"{path}.none") if len(downloads) == 1 else None
    if saved is None or not saved.exists():
        raise Rejected(
            RejectReason.TOO_LARGE,
            f"{recording.url}: nothing was saved; most likely it is over {settings.max_bytes} bytes",
        )
    return saved, done


def _title(entry: dict, extractor: str) -> str | None:
    """Return the title, without the number that yt-dlp gives to the only player of a page."""
    title = entry.get("title")
    numbered = title and extractor == "HTML5MediaEmbed" and not entry.get("playlist_title")
    return title.removesuffix(" (1)") if numbered else title


def _first_video(info: dict, url: str) -> dict:
    while info.get("_type") in ("playlist", "multi_video"):
        entries = [entry for entry in info.get("entries") or [] if entry]
        if len(entries) != 1:
            raise Rejected(
                RejectReason.BAD_METADATA,
                f"{url}: {len(entries)} videos where one was expected; list the page as a source",
            )
        info = entries[0]
    return info


def check_video(info: dict, source: YoutubeSource, settings: Settings, url: str) -> None:
    """Raise `Rejected` for a video that the source does not want. A live one is looked at again in a later run."""
    if is_live(info):
        raise Rejected(RejectReason.NETWORK, f"{url}: live or not begun ({info.get('live_status')})")
    duration_s, (_, longest_s) = info.get("duration"), source.duration_limits_s(settings)
    num_bytes = info.get("filesize") or info.get("filesize_approx") or 0
    if duration_s and duration_s > longest_s and num_bytes > LEAST_BYTES_PER_S * longest_s:
        detail = f"{url}: {duration_s} s in {num_bytes} bytes, the limit is {longest_s:.0f} s"
        raise Rejected(RejectReason.TOO_LONG, detail)
    published = _iso_date(info.get("upload_date"))
    if source.published_after and published and published < source.published_after.isoformat():
        raise Rejected(RejectReason.FILTERED, f"{url}: of {published}, wanted from {source.published_after} on")
    if source.published_before and published and published >= source.published_before.isoformat():
        raise Rejected(RejectReason.FILTERED, f"{url}: of {published}, wanted before {source.published_before}")
    licence = info.get("license") or source.licence or ""
    if source.licences and not any(re.search(pattern, licence, re.IGNORECASE) for pattern in source.licences):
        raise Rejected(RejectReason.FILTERED, f"{url}: licence {licence!r}, wanted is one of {source.licences}")


def is_live(info: dict) -> bool:
    """Whether a video is being broadcast, or will be."""
    return bool(info.get("is_live")) or info.get("live_status") in ("is_live", "is_upcoming", "post_live")


def captions_of(info: dict, language: str | None) -> dict[str, str]:
    """Return address, type and language of the captions that people wrote in the video's language; {} if none."""
    subtitles = {key: value for key, value in (info.get("subtitles") or {}).items() if key != "live_chat" and value}
    wanted = language or info.get("language") or "en"
    names = sorted(subtitles, key=lambda name: (name != wanted, not name.startswith(wanted[:2]), name))
    if not names or (len(names) > 1 and not names[0].startswith(wanted[:2])):
        return {}
    known = [item for item in subtitles[names[0]] if item.get("ext") in ("vtt", "srt") and item.get("url")]
    known.sort(key=lambda item: item["ext"] != "vtt")
    return (
        {"transcript_url": known[0]["url"], "transcript_type": known[0]["ext"], "transcript_language": names[0]}
        if known
        else {}
    )


def _check_progress(settings: Settings, url: str, progress: dict) -> None:
    num_bytes, elapsed_s = progress.get("downloaded_bytes") or 0, progress.get("elapsed") or 0.0
    if num_bytes > settings.max_bytes:
        raise Rejected(RejectReason.TOO_LARGE, f"{url}: more than {settings.max_bytes} bytes")
    is_slow = elapsed_s > settings.slow_window_s and num_bytes < elapsed_s * settings.min_bytes_per_s
    if is_slow and progress.get("status") == "downloading":
        raise Rejected(RejectReason.TOO_SLOW, f"{url}: {num_bytes} bytes in {elapsed_s:.0f} s")


def _extract(ydl: yt_dlp.YoutubeDL, url: str, *, process: bool = False) -> dict:
    with named_failures(url):
        info = ydl.extract_info(url, download=False, process=process)
    if not isinstance(info, dict):
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: yt-dlp finds nothing there")
    return info


def _iso_date(date: str | None) -> str | None:
    return f"{date[:4]}-{date[4:6]}-{date[6:8]}" if date and len(date) == 8 and date.isdecimal() else None
