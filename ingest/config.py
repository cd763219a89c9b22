"""``sources.yaml``: where recordings come from, and how politely they are fetched.

::

    contact: speech-corpus@example.org     # in every request's User-Agent
    max_duration_s: 14400
    sources:
      - name: daily-talk
        kind: podcast
        feeds: [https://example.org/feed.xml]
        licence: CC-BY-4.0
      - name: novels
        kind: audiobook
        author: Austen
      - name: lectures
        kind: youtube
        urls: [https://www.youtube.com/@example]
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from triforce.ingest.corpus.records import check_source_name
from triforce.ingest.strict_yaml import load_model

FROZEN = ConfigDict(frozen=True, extra="forbid")


def _check_http_url(url: str) -> str:
    if not re.match(r"https?://[^/\s]+", url):
        raise ValueError("not a web address; it must begin with http:// or https:// and name a host")
    return url


def _check_listing_url(url: str) -> str:
    return url if re.match(r"ytsearch(date)?(\d+|all)?:.", url) else _check_http_url(url)


WebAddress = Annotated[str, AfterValidator(_check_http_url)]
ListingAddress = Annotated[str, AfterValidator(_check_listing_url)]


class Settings(BaseModel):
    """Settings that hold for every source: contact, limits of size and time, retries, pace."""

    model_config = FROZEN

    contact: str = Field(min_length=3, description="E-mail or web address, for the operators of the servers asked.")
    user_agent: str = Field(
        "triforce-ingest/0.1", min_length=1, description="Product name; the contact is added to it."
    )
    allow_private_hosts: bool = Field(
        False, description="Allow loopback, private and link-local addresses; off for the open web."
    )

    max_bytes: int = Field(2 << 30, ge=1, description="Largest media file in bytes.")
    min_duration_s: float = Field(1.0, ge=0, description="Shortest recording in seconds.")
    max_duration_s: float = Field(12 * 3600.0, gt=0, description="Longest recording in seconds.")
    max_document_bytes: int = Field(
        128 << 20, ge=1024, description="Largest feed or catalogue page in bytes, unpacked."
    )

    connect_timeout_s: float = Field(15.0, gt=0, description="Time to connect, in seconds.")
    read_timeout_s: float = Field(30.0, gt=0, description="Longest silence inside a response, in seconds.")
    min_bytes_per_s: float = Field(
        2048.0, ge=0, description="A transfer slower than this over a whole window is given up."
    )
    slow_window_s: float = Field(30.0, gt=0, description="The window for min_bytes_per_s, in seconds.")
    max_redirects: int = Field(8, ge=0, le=30, description="Redirects followed for one request.")

    tries: int = Field(5, ge=1, le=20, description="Attempts for one request or file.")
    backoff_s: float = Field(
        1.0, ge=0, description="Wait before the second try in seconds; doubled for each next, with jitter."
    )
    max_backoff_s: float = Field(60.0, ge=0, description="Longest wait between tries in seconds.")
    max_retry_after_s: float = Field(
        120.0, ge=0, description="Longest Retry-After that is waited for; a longer one is a block."
    )

    requests_per_s: float = Field(4.0, gt=0, description="Requests begun per second and host.")
    connections_per_host: int = Field(2, ge=1, le=32, description="Transfers at one time per host.")

    shared_pace: str | None = Field(
        None,
        description="Folder or object store in which processes on several machines keep this pace together; none: each "
        "process keeps its own.",
    )
    lease_s: float = Field(
        30.0, ge=1, description="Of a shared pace: what a killed process held is free after at most 1.5 times as long."
    )

    max_failed_share: float = Field(0.5, ge=0, le=1, description="A sync fails when more than this share is rejected.")
    max_blocks: int = Field(3, ge=1, description="A source is left alone for this run after so many blocks in a row.")
    max_runs: int = Field(10, ge=1, description="Runs in which a recording with a passing failure is tried, in all.")
    retry_wait_s: float = Field(
        3600.0,
        ge=0,
        description="The second run tries at once, the third after so many seconds, each next after twice as many.",
    )
    max_retry_wait_s: float = Field(86_400.0, ge=0, description="Longest wait between two runs' tries in seconds.")

    @field_validator("contact")
    @classmethod
    def _contact(cls, value: str) -> str:
        if not re.fullmatch(r"[^@\s]+@[^@\s]+|https?://\S+", value):
            raise ValueError("not a contact; give an e-mail address or a web address, as in 'corpus@example.org'")
        return value

    @model_validator(mode="after")
    def _durations(self):
        if self.min_duration_s >= self.max_duration_s:
            raise ValueError(f"min_duration_s {self.min_duration_s} must be below max_duration_s {self.max_duration_s}")
        return self

    @property
    def settings(self) -> Settings:
        """The settings alone, without the sources of a whole file: small, hashable, cheap to send to a process."""
        return self

    @property
    def user_agent_header(self) -> str:
        """Value of the User-Agent header: the product name with the contact."""
        return (
            f"{self.user_agent} (+{self.contact})" if "://" in self.contact else f"{self.user_agent} ({self.contact})"
        )


class Source(BaseModel):
    """Settings that every kind of source has; each subclass below is one kind."""

    model_config = FROZEN
    paths: ClassVar[tuple[str, ...]] = ()
    """Names of the keys that hold a path; a relative one is relative to the folder of the file."""
    must_exist: ClassVar[tuple[str, ...]] = ()
    """Those of `paths` that must name a file where the source is enabled."""

    kind: str
    name: str = Field(description="Folder name in the corpus: lower-case letters, digits and dashes.")
    enabled: bool = Field(True, description="Whether a sync visits it.")
    licence: str | None = Field(None, description="Licence of its recordings, where the source itself states none.")
    language: str | None = Field(
        None, pattern=r"^[a-z]{2,3}$", description="ISO 639 hint, where the source states none."
    )
    max_new: int | None = Field(None, ge=1, description="New recordings taken in one run; the rest wait for the next.")
    min_duration_s: float | None = Field(None, ge=0, description="Overrides the general setting, in seconds.")
    max_duration_s: float | None = Field(None, gt=0, description="Overrides the general setting, in seconds.")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_source_name(value)

    @model_validator(mode="after")
    def _own_durations(self):
        if None not in (self.min_duration_s, self.max_duration_s) and self.min_duration_s >= self.max_duration_s:
            raise ValueError(f"min_duration_s {self.min_duration_s} must be below max_duration_s {self.max_duration_s}")
        return self

    @property
    def implementation(self) -> str:
        """Key of the class that lists and fetches this source, in `triforce.ingest.sources.registry`."""
        return self.kind

    def duration_limits_s(self, settings: Settings) -> tuple[float, float]:
        """Return the shortest and longest recording in seconds: the source's own limits, else the general ones."""
        shortest_s = settings.min_duration_s if self.min_duration_s is None else self.min_duration_s
        return shortest_s, self.max_duration_s or settings.max_duration_s


class PodcastSource(Source):
    """RSS or Atom feeds with audio enclosures."""

    paths: ClassVar[tuple[str, ...]] = ("opml",)

    kind: Literal["podcast"] = "podcast"
    feeds: tuple[WebAddress, ...] = Field((), description="Addresses of the feeds.")
    opml: str | None = Field(None, description="An OPML list of more feeds: a web address, or a path beside this file.")
    max_pages: int = Field(200, ge=1, description="Pages read of a feed that comes in pages.")
    transcripts: bool = Field(True, description="Whether published transcripts are stored beside the recordings.")

    @model_validator(mode="after")
    def _some_feed(self):
        if not self.feeds and not self.opml:
            raise ValueError("a podcast source needs 'feeds', a list of feed addresses, or 'opml', a list in a file")
        return self


class AudiobookSource(Source):
    """Books read aloud, from one of three libraries: the LibriVox catalogue, items of archive.org, a local folder."""

    paths: ClassVar[tuple[str, ...]] = ("path",)

    kind: Literal["audiobook"] = "audiobook"
    library: Literal["librivox", "archive.org", "folder"] = Field("librivox", description="Where the books are.")
    base_url: WebAddress | None = Field(None, description="The library's address, where it is not the well-known one.")
    author: str | None = Field(None, description="LibriVox: only authors whose last name begins so.")
    title: str | None = Field(None, description="LibriVox: only books whose title begins so.")
    reader: str | None = Field(None, description="LibriVox: only sections by a reader of this name.")
    book_language: str | None = Field(None, description="LibriVox: only books in this language, as in 'English'.")
    texts: bool = Field(True, description="LibriVox: whether the text that a book was read from is stored beside it.")
    page_size: int = Field(50, ge=1, le=1000, description="LibriVox: books asked for in one request.")
    items: tuple[str, ...] = Field((), description="archive.org: identifiers of items.")
    query: str | None = Field(None, description="archive.org: a search, as in 'collection:librivoxaudio'.")
    path: str | None = Field(None, description="Folder: where it is; a relative path begins beside this file.")

    @model_validator(mode="after")
    def _fits_library(self):
        needs = {"librivox": (), "archive.org": ("items", "query"), "folder": ("path",)}[self.library]
        if needs and not any(getattr(self, name) for name in needs):
            raise ValueError(f"library {self.library!r} needs {' or '.join(repr(name) for name in needs)}")
        foreign = {"items": "archive.org", "query": "archive.org", "path": "folder"}
        for name in ("author", "title", "reader", "book_language"):
            foreign[name] = "librivox"
        for name, library in foreign.items():
            if getattr(self, name) and library != self.library:
                raise ValueError(f"{name!r} belongs to library {library!r}, not to {self.library!r}; remove it")
        return self

    @property
    def implementation(self) -> str:
        return self.library

    @property
    def library_url(self) -> str:
        """Address of the library, without a slash at its end."""
        known = {"librivox": "https://librivox.org/api/feed/audiobooks", "archive.org": "https://archive.org"}
        return (self.base_url or known[self.library]).rstrip("/")


class YoutubeSource(Source):
    """Pages that yt-dlp reads: channels, playlists, searches, single videos."""

    paths: ClassVar[tuple[str, ...]] = ("cookies_file",)
    must_exist: ClassVar[tuple[str, ...]] = ("cookies_file",)

    kind: Literal["youtube"] = "youtube"
    urls: tuple[ListingAddress, ...] = Field(
        min_length=1, description="Addresses of channels, playlists or pages, or 'ytsearch10:words'."
    )
    sleep_s: float | None = Field(
        None,
        ge=0,
        description="Wait between requests in seconds; by default 1 for YouTube; requests_per_s holds besides.",
    )
    pause_s: float | None = Field(
        None, ge=0, description="Wait before each download in seconds, at most twice as long; by default 5 for YouTube."
    )
    max_bytes_per_s: float | None = Field(None, gt=0, description="Throttle for downloads in bytes per second.")
    published_after: datetime.date | None = Field(None, description="Older videos are left alone.")
    published_before: datetime.date | None = Field(None, description="Videos from this day on are left alone.")
    licences: tuple[str, ...] = Field(
        (), description="Patterns of licences that are taken; empty: any, and none stated."
    )
    captions: bool = Field(True, description="Whether captions written by people are stored beside the recordings.")
    cookies_file: str | None = Field(None, description="Netscape cookies file of an account that may see the videos.")
    extractors: tuple[str, ...] = Field(
        (), description="Names of yt-dlp extractors to ask, as patterns; empty: all that may fit."
    )
    max_listed: int | None = Field(
        None, ge=1, description="Entries read from each list, as a tab or a playlist, in one run."
    )

    @field_validator("licences", "extractors")
    @classmethod
    def _patterns(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(
                    f"{value!r} is no regular expression: {error}; put a backslash before signs"
                ) from error
        return values

    @model_validator(mode="after")
    def _dates(self):
        after, before = self.published_after, self.published_before
        if after and before and after >= before:
            raise ValueError(f"published_after {after} must be before published_before {before}")
        return self


KINDS: tuple[str, ...] = tuple(config.model_fields["kind"].default for config in Source.__subclasses__())
"""Values that ``kind`` may have in a ``sources.yaml``: one a subclass of `Source` above."""

if TYPE_CHECKING:
    _AnySource = Source
else:
    _AnySource = Annotated[Union[tuple(Source.__subclasses__())], Field(discriminator="kind")]  # noqa: UP007


class SourcesConfig(Settings):
    """A whole ``sources.yaml``. It is itself the `Settings` that `triforce.ingest.sync` takes."""

    sources: tuple[_AnySource, ...] = Field(min_length=1, description="Sources, in the order they are visited.")

    @model_validator(mode="after")
    def _unique_names(self):
        names = [source.name for source in self.sources]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"source names {repeated} are there more than once; each source needs its own")
        return self

    @property
    def settings(self) -> Settings:
        """The settings alone, without the sources."""
        return Settings(**{name: getattr(self, name) for name in Settings.model_fields})

    def source(self, name: str) -> Source:
        """Return the source of this name; raise `ValueError` with the names there are."""
        for source in self.sources:
            if source.name == name:
                return source
        raise ValueError(f"no source {name!r} in the file; there are: {', '.join(s.name for s in self.sources)}")


def load_sources(uri: str) -> SourcesConfig:
    """Read and check a ``sources.yaml``; raise `ValueError` with file, line, value and fix of each fault.

    Relative paths in it are relative to the folder of the file.
    """
    config = load_model(uri, SourcesConfig)
    sources = tuple(_with_absolute_paths(source, uri) for source in config.sources)
    shared_pace = _beside(config.shared_pace, uri)
    for source in sources:
        for name in source.must_exist if source.enabled else ():
            path = getattr(source, name)
            if path and not Path(path).is_file():
                raise ValueError(f"{uri}: source {source.name!r}: {name} {path}: no such file; export it again")
    return config.model_copy(update={"sources": sources, "shared_pace": shared_pace})


def _beside(path: str | None, uri: str) -> str | None:
    """Return a path that a file names, relative to the file's folder; what names a store, or no path, as it is."""
    if not path or "://" in path or "://" in str(uri):
        return path
    return str(Path(uri).resolve().parent / path)


def _with_absolute_paths(source: Source, uri: str) -> Source:
    absolute = {name: _beside(getattr(source, name), uri) for name in source.paths}
    return source.model_copy(update=absolute) if absolute else source
