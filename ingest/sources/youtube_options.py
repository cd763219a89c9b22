"""Options of yt-dlp for one source: politeness, retries, cookies, which extractors are asked."""

from __future__ import annotations

import io
import re
from pathlib import Path
from urllib.parse import urlsplit

from triforce.ingest.config import Settings, YoutubeSource
from triforce.ingest.fetch.proxies import proxy_for
from triforce.ingest.fetch.ytdlp_network import Log


def _default(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def ytdlp_options(source: YoutubeSource, settings: Settings, url: str) -> dict:
    """Return the options for what is at ``url``; a download adds its own."""
    youtube = is_youtube(source)
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
        "proxy": proxy_for(url) or "",
    }


def _cookies(source: YoutubeSource) -> io.StringIO | None:
    """Return a copy for each use: yt-dlp writes its cookies back, and several downloads would write into one file."""
    return io.StringIO(Path(source.cookies_file).read_text(encoding="utf-8")) if source.cookies_file else None


def is_youtube(source: YoutubeSource) -> bool:
    """Whether all addresses are YouTube's: its clients send a User-Agent of their own, and so must yt-dlp."""
    return all(
        url.startswith("ytsearch") or re.match(r"https?://([\w.]+\.)?(youtube\.com|youtu\.be)/", url)
        for url in source.urls
    )


def _extractors(source: YoutubeSource) -> list[str]:
    """Return the names of the extractors that are asked: compiling the patterns of all 1 900 takes 5 to 50 seconds."""
    if source.extractors:
        return list(source.extractors)
    if is_youtube(source):
        return ["youtube.*"]
    hosts = [urlsplit(url).hostname or "" for url in source.urls]
    if all(re.fullmatch(r"localhost|[\d.]+|[0-9a-f:]*:[0-9a-f:.]*", host) for host in hosts):
        return ["generic", "html5.*"]  # no site is known by its bare address
    return ["default"]
