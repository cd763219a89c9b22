"""Values as catalogues and feeds write them, read into ours."""

from __future__ import annotations

import datetime
import re
from email.utils import parsedate_to_datetime


def parse_duration(text: str | None) -> float | None:
    """Return the seconds of an ``itunes:duration``: "3723", "62:03" or "1:02:03"; None for anything else."""
    if not text or not re.fullmatch(r"\d{1,6}(\.\d+)?|\d{1,4}(:\d{1,2}){1,2}(\.\d+)?", text.strip()):
        return None
    seconds = 0.0
    for part in text.strip().split(":"):
        seconds = seconds * 60 + float(part)
    return seconds or None


def language_code(text: str | None) -> str | None:
    """Return the ISO 639 code of a language tag such as "en-GB"."""
    match = re.match(r"[a-zA-Z]{2,3}(?=$|[-_])", text or "")
    return match.group().lower() if match else None


def iso_time(text: str | None) -> str | None:
    """Return a time in RFC 822 or ISO 8601 as ISO 8601 in UTC, which one without a zone is in; None for others."""
    for read in (parsedate_to_datetime, datetime.datetime.fromisoformat) if text else ():
        try:
            time = read(text.strip())
            time = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
            return time.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        except (TypeError, ValueError, OverflowError, IndexError, OSError):
            continue
    return None
