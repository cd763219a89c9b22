"""``triforce corpus browse``: a page to search a corpus, hear its clips, try thresholds and mark what is wrong.

Everything that a request says is checked against the catalogue or a config: no part of it becomes a path. Requests are
answered in threads; the catalogue is made again when the page is opened and the corpus has changed.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from dataclasses import asdict
from threading import Lock
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from triforce.flows.browse.about import about_columns, about_thresholds, clip_entry
from triforce.flows.browse.answers import endpoint, file_endpoint, http_error, ranged, unforeseen
from triforce.flows.browse.catalogue import Catalogue, open_catalogue, state_of
from triforce.flows.browse.clip_view import Networks, medium_of, picture, read_clip, read_row, waveform_of
from triforce.flows.browse.guard import Guard
from triforce.flows.browse.queries import Overlay, Query, matching, page, sort_keys
from triforce.flows.browse.summaries import Judge, histograms
from triforce.flows.browse.thresholds import THRESHOLDS
from triforce.flows.speech.access import KEY_VARIABLE, require_key
from triforce.ingest import storage
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.marks import MAX_REASON_CHARS, mark_wrong, marked_ids, read_mark, unmark
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.strict_yaml import load_model

logger = logging.getLogger(__name__)

FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}


class BrowseConfig(BaseModel):
    """What is shown, and at which address."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str = Field(description="URI of the corpus.")
    config: str | None = Field(
        None,
        description="Where Save writes the thresholds, which are read from there at the start; "
        "null: filter.yaml in the corpus.",
    )
    release: str | None = Field(None, description="URI of a release: shows codes and what they decode to.")
    tokens: str | None = Field(None, description="URI of its token shards: codes are taken from there.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8124, ge=0, le=65535, description="Port; 0: any that is free.")


class Shown(NamedTuple):
    """A state of the corpus, and what is known of it."""

    catalogue: Catalogue
    judge: Judge


class Preview(BaseModel):
    """Thresholds to try."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: FilterConfig = FilterConfig()
    border: str | None = Field(None, max_length=40, description="The threshold whose border clips are wanted.")


class ClipQuery(Query):
    """A page of clips, as they are kept at some thresholds."""

    config: FilterConfig = FilterConfig()


class WrongMark(BaseModel):
    """A person's word on a clip."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str | None = Field(None, max_length=MAX_REASON_CHARS, description="Why it is wrong.")


class BrowseServer:
    """The corpus, its catalogue, and what is asked of them."""

    def __init__(self, config: BrowseConfig, *, quiet: bool = True) -> None:
        if config.tokens is not None and config.release is None:
            raise ValueError("--tokens: give --release too, whose dVAE made them")
        self.config, self.corpus = config, Corpus(config.corpus)
        if not self.corpus.clip_sources():
            raise ValueError(f"{config.corpus!r} holds no clips; give the folder that ingest wrote")
        self.saved_at = config.config or storage.join(config.corpus, "filter.yaml")
        self._quiet, self._refreshing = quiet, Lock()
        self.networks = Networks(config.release, config.tokens) if config.release else None
        self.shown = self._open()

    def _open(self) -> Shown:
        from tqdm import tqdm

        with tqdm(unit=" files", desc="reading scores", disable=self._quiet or not sys.stderr.isatty()) as bar:

            def advance(done: int, total: int) -> None:
                bar.total, bar.n = total, done
                bar.refresh()

            catalogue = open_catalogue(self.corpus, on_progress=advance)
        return Shown(catalogue, Judge(catalogue, self._marked(catalogue)))

    def _marked(self, catalogue: Catalogue) -> Any:
        import numpy as np

        marked = np.zeros(catalogue.num_clips, bool)
        for source in catalogue.sources:
            for clip_id in marked_ids(self.corpus, source):
                row = catalogue.find(clip_id)
                if row is not None:
                    marked[row] = True
        return marked

    def refresh(self) -> Shown:
        """Return what is shown, read again where the corpus has changed."""
        with self._refreshing:
            if state_of(self.corpus) != self.shown.catalogue.state:
                self.shown = self._open()
            return self.shown

    def app(self, key: str | None = None) -> Starlette:
        """Return the routes."""
        post, get = ["POST"], ["GET"]
        routes = [
            *(Route(path, file_endpoint(*file), methods=get) for path, file in FILES.items()),
            Route("/api/about", endpoint(self.about), methods=get),
            Route("/api/clips", endpoint(self.clips, ClipQuery), methods=post),
            Route("/api/preview", endpoint(self.preview, Preview), methods=post),
            Route("/api/config", endpoint(self.save, FilterConfig), methods=post),
            Route("/api/clips/{clip_id}", endpoint(self.clip), methods=get),
            Route("/api/clips/{clip_id}/mark", endpoint(self.mark, WrongMark), methods=["PUT"]),
            Route("/api/clips/{clip_id}/mark", endpoint(self.unmark), methods=["DELETE"]),
            Route("/api/clips/{clip_id}/media", endpoint(self.media), methods=get),
            Route("/api/clips/{clip_id}/picture", endpoint(self.picture), methods=get),
            Route("/api/clips/{clip_id}/codes", endpoint(self.codes), methods=get),
            Route("/api/clips/{clip_id}/decoded", endpoint(self.decoded), methods=get),
        ]
        handlers = {HTTPException: http_error, Exception: unforeseen}
        return Starlette(routes=routes, middleware=[Middleware(Guard, key=key)], exception_handlers=handlers)

    def about(self, request: Request) -> dict[str, Any]:
        """What the page is made of: columns, thresholds, histograms, totals."""
        shown = self.refresh()
        config = self.saved_config()
        return {
            "corpus": self.config.corpus,
            "state": shown.catalogue.state,
            "columns": about_columns(shown.catalogue),
            "thresholds": about_thresholds(),
            "histograms": histograms(shown.catalogue),
            "sources": shown.catalogue.sources,
            "defaults": FilterConfig().model_dump(mode="json"),
            "config": config.model_dump(mode="json"),
            "saved_at": self.saved_at,
            "command": self.command(),
            "summary": shown.judge.summary(config),
            "has_release": self.networks is not None,
            "modality": self.networks.modality if self.networks else None,
        }

    def saved_config(self) -> FilterConfig:
        """The thresholds that were saved last, else the default ones."""
        return load_model(self.saved_at, FilterConfig) if storage.exists(self.saved_at) else FilterConfig()

    def command(self) -> str:
        """The command that applies what was saved."""
        import shlex

        return shlex.join(["triforce", "corpus", "refilter", self.config.corpus, "--config", self.saved_at])

    def clips(self, request: Request, query: ClipQuery) -> dict[str, Any]:
        """A page of the clips that a query finds."""
        catalogue, judge = self.shown
        verdicts = judge.verdicts(query.config)
        overlay = Overlay(judge.marked, verdicts)
        found = matching(catalogue, query, overlay)
        chosen = page(found, sort_keys(catalogue, query.sort, overlay), query)
        answer: dict[str, Any] = {"clips": [clip_entry(catalogue, row, overlay) for row in chosen.rows]}
        answer["next"] = chosen.next and chosen.next.model_dump()
        if query.after is None:
            answer["num_clips"] = int(found.sum())
            answer["hours"] = float(catalogue.clips["duration_s"][found].sum(dtype="float64")) / 3600
        return answer

    def preview(self, request: Request, wanted: Preview) -> dict[str, Any]:
        """What is kept at some thresholds, and which clips one of them decides."""
        catalogue, judge = self.shown
        answer: dict[str, Any] = {"summary": judge.summary(wanted.config)}
        if wanted.border is not None:
            threshold = next((one for one in THRESHOLDS if one.field == wanted.border), None)
            if threshold is None:
                raise ValueError(f"border {wanted.border!r}: use one of: {', '.join(one.field for one in THRESHOLDS)}")
            border = judge.border(wanted.config, threshold)
            overlay = Overlay(judge.marked, judge.verdicts(wanted.config))
            answer["border"] = {
                "field": threshold.field,
                "score": threshold.score,
                "inside": [clip_entry(catalogue, row, overlay) for row in border.inside],
                "outside": [clip_entry(catalogue, row, overlay) for row in border.outside],
                "num_outside": border.num_outside,
                "hours_outside": border.hours_outside,
            }
        return answer

    def save(self, request: Request, config: FilterConfig) -> dict[str, Any]:
        """Write the thresholds where `refilter` takes them: all of them, so that no later default changes them."""
        text = f"# Written by triforce corpus browse; apply it by: {self.command()}\n"
        text += yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        storage.write_bytes(self.saved_at, text.encode())
        return {"saved_at": self.saved_at, "command": self.command(), "yaml": text}

    def clip(self, request: Request) -> dict[str, Any]:
        """A clip's columns, words, mark and recording."""
        source, clip_id, row = self._find(request)
        values = read_row(self.corpus, source, clip_id, int(self.shown.catalogue.clips["row"][row]))
        mark = read_mark(self.corpus, source, clip_id)
        recording = self.corpus.read_recording(source, clip_id.rpartition("-")[0])
        about = {name: value for name, value in asdict(recording).items() if value not in (None, {})}
        return {"clip": values, "mark": mark and mark.model_dump(mode="json"), "recording": about}

    def mark(self, request: Request, wanted: WrongMark) -> dict[str, Any]:
        """Mark a clip as wrong."""
        source, clip_id, row = self._find(request)
        mark = mark_wrong(self.corpus, source, clip_id, wanted.reason)
        self.shown.judge.mark(row, True)
        return {"mark": mark.model_dump(mode="json")}

    def unmark(self, request: Request) -> dict[str, Any]:
        """Take a mark back."""
        source, clip_id, row = self._find(request)
        unmark(self.corpus, source, clip_id)
        self.shown.judge.mark(row, False)
        return {"mark": None}

    def media(self, request: Request) -> Response:
        """The clip's sound, image or video."""
        return ranged(request, *medium_of(self._read(request)))

    def picture(self, request: Request) -> dict[str, Any]:
        """Waveform and mel of a clip of sound."""
        clip = self._read(request)
        if clip.modality in ("image", "video"):
            raise ValueError(f"clip {clip.clip_id} is {clip.modality}: it has no sound")
        return picture(waveform_of(clip))

    def codes(self, request: Request) -> dict[str, Any]:
        """A clip's codes, and of sound the mel that they decode to."""
        return self._networks().decoded(self._read(request)).about

    def decoded(self, request: Request) -> Response:
        """What a clip's codes decode to."""
        return ranged(request, *self._networks().decoded(self._read(request)).medium)

    def _networks(self) -> Networks:
        if self.networks is None:
            raise HTTPException(404, "no release was given; start with --release")
        return self.networks

    def _find(self, request: Request) -> tuple[str, str, int]:
        """The source, the id and the row of the clip that a request names, by the catalogue."""
        catalogue = self.shown.catalogue
        row = catalogue.find(request.path_params["clip_id"])
        if row is None:
            raise HTTPException(404, "no such clip; reload the page if the corpus has changed")
        return catalogue.sources[int(catalogue.clips["source"][row])], catalogue.clip_id(row), row

    def _read(self, request: Request) -> Any:
        source, clip_id, row = self._find(request)
        return read_clip(self.corpus, source, clip_id, int(self.shown.catalogue.clips["row"][row]))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as fault:
        raise ValueError(f"--host {host} --port {port}: {fault}; give another port, or 0 for any") from fault


def serve_forever(config: BrowseConfig, key: str | None = None) -> None:
    """Serve until interrupted; the key is what the environment holds. Raises ValueError where others could reach it
    without one."""
    try:
        import uvicorn
    except ImportError as fault:
        raise ImportError("browsing needs uvicorn: pip install 'triforce[demo]'") from fault
    key = key or os.environ.get(KEY_VARIABLE) or None
    require_key(config.host, key)
    server = BrowseServer(config, quiet=False)
    settings = uvicorn.Config(server.app(key), log_level="warning", lifespan="off", access_log=False)
    listener = _listen(config.host, config.port)
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"http://{host}:{listener.getsockname()[1]}"
    print(json.dumps({"address": address, "config": server.saved_at}), flush=True)
    logger.warning("open %s in a browser; Ctrl-C ends it", address)
    uvicorn.Server(settings).run(sockets=[listener])
