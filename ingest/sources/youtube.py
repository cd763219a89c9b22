"""Everything yt-dlp reads: channels, playlists, searches, pages with a player.

yt-dlp runs as a library, on the network of `triforce.ingest.fetch.ytdlp_network`. Nothing is executed or transcoded:
the best audio lands on the disk as the site serves it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import yt_dlp
from yt_dlp.networking.exceptions import HTTPError

from triforce.ingest.config import Settings, YoutubeSource
from triforce.ingest.corpus.schema import Recording, RejectReason, Status, make_recording_id
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch import web
from triforce.ingest.fetch.ytdlp_network import NATIVE_PROTOCOLS, CheckedYoutubeDL, Log

MAX_NESTING = 4
"""A channel holds tabs, a tab holds playlists, a playlist holds videos."""

WITHOUT_IDS = ("Generic", "HTML5MediaEmbed", "html5")
"""Extractors whose ids are made of file names, which two hosts may share."""

BLOCK_WORDS = (
    "not a bot",
    "sign in to confirm",
    "login required",
    "log in",
    "rate-limit",
    "rate limit",
    "too many requests",
    "captcha",
)
ABSENT_WORDS = ("unavailable", "not available", "removed", "does not exist", "terminated", "not found", "deleted")
FORBIDDEN_WORDS = (
    "private video",
    "members-only",
    "members only",
    "join this channel",
    "confirm your age",
    "drm",
    "geo restrict",
)


def is_newest_first(url: str) -> bool:
    """Whether a listing grows at its front. A channel does; a playlist grows at its end and must be read to it."""
    return bool(re.search(r"youtube\.com/(@|channel/|c/|user/)", url))


def discover_entries(source: YoutubeSource, settings: Settings, url: str) -> Iterator[Recording]:
    """What lies behind ``url``, newest first as sites list it, without looking at each video.

    `Rejected` if it cannot be read.
    """
    with CheckedYoutubeDL(_options(source, settings), settings) as ydl:
        count = 0
        for entry in _entries(ydl, url, depth=0):
            recording = None if is_live(entry) else _recording(entry, url, source)
            if recording is None:
                continue
            yield recording
            count += 1
            if source.max_listed and count >= source.max_listed:
                return


def _entries(ydl: yt_dlp.YoutubeDL, url: str, depth: int) -> Iterator[dict]:
    info = _extract(ydl, url)
    kind = info.get("_type", "video")
    if kind in ("url", "url_transparent"):
        if depth < MAX_NESTING:
            yield from _entries(ydl, info["url"], depth + 1)
    elif kind in ("playlist", "multi_video"):
        entries = info.get("entries") or []
        alone = isinstance(entries, list) and len(entries) == 1
        for entry in _iterate(entries, url):
            nested = entry.get("_type") == "playlist" or entry.get("ie_key") in ("YoutubeTab", "YoutubePlaylist")
            if nested and depth < MAX_NESTING:
                yield from _entries(ydl, entry.get("webpage_url") or entry["url"], depth + 1)
            elif not nested:
                yield _placed(entry, info, alone)
    else:
        yield info


def _placed(entry: dict, listing: dict, alone: bool) -> dict:
    """``entry`` with its listing's name and an address of its own, which a player among others on one page lacks."""
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
    """Lists come page by page, so errors come here too."""
    with _named_failures(url):
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
    """Download the best audio of ``recording`` beside ``path``: the file, and what the site says about it."""
    options = _options(source, settings) | {
        "outtmpl": {"default": f"{path}.%(ext)s".replace("%", "%%").replace("%%(ext)s", "%(ext)s")},
        "format": f"bestaudio[protocol~='{NATIVE_PROTOCOLS}']/best[protocol~='{NATIVE_PROTOCOLS}']",
        "max_filesize": settings.max_bytes,
        "progress_hooks": [functools.partial(_check_progress, settings, recording.url)],
    }
    with web.host_of(recording.url, settings).slots, CheckedYoutubeDL(options, settings) as ydl:
        info = _first_video(_extract(ydl, recording.url, process=True), recording.url)
        check_video(info, source, settings, recording.url)
        with _named_failures(recording.url):
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
    """yt-dlp numbers the players of a page; where there is one only, the number is noise."""
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
    """`Rejected` for what the source does not want, before its download. A live one is looked at again later."""
    if is_live(info):
        raise Rejected(RejectReason.NETWORK, f"{url}: live or not begun ({info.get('live_status')})")
    duration_s, longest_s = info.get("duration"), source.max_duration_s or settings.max_duration_s
    shortest_s = settings.min_duration_s if source.min_duration_s is None else source.min_duration_s
    if duration_s and duration_s > longest_s:
        raise Rejected(RejectReason.TOO_LONG, f"{url}: {duration_s} s, the limit is {longest_s:.0f} s")
    if duration_s and duration_s < shortest_s:
        raise Rejected(RejectReason.TOO_SHORT, f"{url}: {duration_s} s, the least is {shortest_s} s")
    published = _iso_date(info.get("upload_date"))
    if source.published_after and published and published < source.published_after.isoformat():
        raise Rejected(RejectReason.FILTERED, f"{url}: of {published}, wanted from {source.published_after} on")
    if source.published_before and published and published >= source.published_before.isoformat():
        raise Rejected(RejectReason.FILTERED, f"{url}: of {published}, wanted before {source.published_before}")
    licence = info.get("license") or source.licence or ""
    if source.licences and not any(re.search(pattern, licence, re.IGNORECASE) for pattern in source.licences):
        raise Rejected(RejectReason.FILTERED, f"{url}: licence {licence!r}, wanted is one of {source.licences}")


def is_live(info: dict) -> bool:
    return bool(info.get("is_live")) or info.get("live_status") in ("is_live", "is_upcoming", "post_live")


def captions_of(info: dict, language: str | None) -> dict[str, str]:
    """Address, ending and language of the captions that people wrote, in the video's language.

    {} where there are none.
    """
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
    with _named_failures(url):
        info = ydl.extract_info(url, download=False, process=process)
    if not isinstance(info, dict):
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: yt-dlp finds nothing there")
    return info


@contextlib.contextmanager
def _named_failures(url: str) -> Iterator[None]:
    """Whatever yt-dlp raises, by name: its extractors meet pages that their authors never saw, and fail in any way."""
    try:
        yield
    except Rejected:
        raise
    except Exception as error:
        raise rejection_of(error, url) from error


def rejection_of(error: Exception, url: str) -> Rejected:
    """The named reason of a yt-dlp error: by the causes it carries, then by HTTP status, then by its words."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, Rejected):
            return cause
    status = next((cause.status for cause in causes if isinstance(cause, HTTPError)), None)
    text = " ".join(str(error).split())
    words, detail = text.lower(), f"{url}: {text[:300]}"
    if status == 429 or any(word in words for word in BLOCK_WORDS):
        return Rejected(RejectReason.BLOCKED, detail)
    if "ffmpeg could not be found" in words or "requested format is not available" in words:
        unread = "it comes encrypted, or in a way that only a program could read which is not to be started"
        return Rejected(RejectReason.UNDECODABLE, f"{url}: {unread}")
    if any(word in words for word in FORBIDDEN_WORDS):
        return Rejected(RejectReason.FORBIDDEN, detail)
    if status in (404, 410) or any(word in words for word in ABSENT_WORDS):
        return Rejected(RejectReason.NOT_FOUND, detail)
    if status in (401, 402, 403, 451):
        return Rejected(RejectReason.FORBIDDEN, detail)
    if "unsupported url" in words or "no video formats" in words or "is not a valid url" in words:
        return Rejected(RejectReason.NOT_AUDIO, detail)
    return Rejected(RejectReason.NETWORK, detail)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        info = getattr(current, "exc_info", None)
        queue += [
            current.__cause__,
            current.__context__,
            getattr(current, "cause", None),
            getattr(current, "reason", None),
        ]
        queue += [info[1]] if isinstance(info, tuple) and len(info) > 1 else []
        queue = [item for item in queue if isinstance(item, BaseException)]


def _iso_date(date: str | None) -> str | None:
    return f"{date[:4]}-{date[4:6]}-{date[6:8]}" if date and len(date) == 8 and date.isdecimal() else None


def _default(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _options(source: YoutubeSource, settings: Settings) -> dict:
    youtube = _is_youtube(source)
    pause_s = _default(source.pause_s, 5.0 if youtube else 0.0)
    return {
        "allowed_extractors": _extractors(source),
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": Log(),
        "cachedir": False,
        "ignoreconfig": True,
        "extract_flat": "in_playlist",
        "lazy_playlist": True,
        "noplaylist": False,
        "overwrites": False,
        "writethumbnail": False,
        "retries": settings.tries,
        "fragment_retries": settings.tries,
        "extractor_retries": min(settings.tries, 3),
        "retry_sleep_functions": {
            kind: lambda n: min(settings.backoff_s * 2**n, settings.max_backoff_s)
            for kind in ("http", "fragment", "extractor")
        },
        "socket_timeout": settings.read_timeout_s,
        "sleep_interval_requests": _default(source.sleep_s, 1.0 if youtube else 0.0),
        "sleep_interval": pause_s,
        "max_sleep_interval": 2 * pause_s,
        "ratelimit": source.max_bytes_per_s,
        "cookiefile": _cookies(source),
        "http_headers": {"User-Agent": settings.user_agent_header} if not youtube else {},
        "proxy": "",
    }


def _cookies(source: YoutubeSource) -> io.StringIO | None:
    """A copy for each use: yt-dlp writes its cookies back, and several downloads would write into one file at once."""
    return io.StringIO(Path(source.cookies_file).read_text(encoding="utf-8")) if source.cookies_file else None


def _is_youtube(source: YoutubeSource) -> bool:
    """YouTube's own clients send their own User-Agent, and yt-dlp must speak as they do."""
    return all(
        url.startswith("ytsearch") or re.match(r"https?://([\w.]+\.)?(youtube\.com|youtu\.be)/", url)
        for url in source.urls
    )


def _extractors(source: YoutubeSource) -> list[str]:
    """Which of yt-dlp's 1 900 extractors may be asked: compiling all their patterns takes 5 to 50 seconds."""
    if source.extractors:
        return list(source.extractors)
    if _is_youtube(source):
        return ["youtube.*"]
    hosts = [urlsplit(url).hostname or "" for url in source.urls]
    if all(re.fullmatch(r"localhost|[\d.]+|[0-9a-f:]*:[0-9a-f:.]*", host) for host in hosts):
        return ["generic", "html5.*"]  # no site is known by its bare address
    return ["default"]
