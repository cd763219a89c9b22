"""The flow ``ingest``: sources of one kind, from what is new to clips in the corpus.

Each recording is fetched by one task and cut and transcribed by another, many at a time; the corpus alone says what is
done, so a run that was stopped anywhere continues by being run again. Timeouts are in the I/O: Prefect cannot interrupt
a thread.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from triforce.flows.ingest_summary import SourceSummary, as_text
from triforce.flows.source_choice import Kind, choose_sources
from triforce.ingest import sync
from triforce.ingest.clips import ClipConfig, ClipSummary, clip_recording
from triforce.ingest.config import Settings, Source
from triforce.ingest.corpus import Corpus, Recording, RejectReason, Status
from triforce.ingest.errors import Rejected
from triforce.ingest.sync import SyncSummary
from triforce.ingest.transcribe import TranscribeConfig, Transcriber

progress = logging.getLogger(__name__)

WORKERS = max(2, os.cpu_count() or 1)
IN_FLIGHT_PER_WORKER = 4
"""Recordings handed to the task runner and not yet done; bounds memory where a source lists thousands. Assumed."""

_thread = threading.local()


class IngestError(RuntimeError):
    """A source went worse than its settings allow."""


def _named(verb: str, recording: Recording) -> str:
    return f"{verb} {recording.source}: {recording.title or recording.source_id}"[:200]


def _fetch_run_name(parameters: dict[str, Any]) -> str:
    return _named("fetch", parameters["recording"])


def _clip_run_name(parameters: dict[str, Any]) -> str:
    return _named("clip", parameters["recording"])


@task(
    name="discover",
    task_run_name="discover {source.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["network"],
)
def discover(source: Source, settings: Settings, corpus: Corpus) -> tuple[list[Recording], list[str]]:
    """What is to fetch, and the feeds and pages that could not be read."""
    problems: list[str] = []
    try:
        found = list(sync.discover(source, settings, corpus, on_problem=lambda problem: problems.append(str(problem))))
    except Rejected as rejection:
        return [], [*problems, str(rejection)]
    return found, problems


@task(
    name="fetch recording",
    task_run_name=_fetch_run_name,
    retries=2,
    retry_delay_seconds=[5, 20],
    retry_jitter_factor=0.5,
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["network"],
)
def fetch(recording: Recording, source: Source, settings: Settings, corpus: Corpus) -> Recording:
    """A bad recording is put on record and returned; what raises, and is tried again, is our own disk or memory."""
    return sync.fetch(recording, source, settings, corpus)


@task(
    name="clip recording",
    task_run_name=_clip_run_name,
    retries=1,
    retry_delay_seconds=10,
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["compute"],
)
def clip(recording: Recording, corpus: Corpus, config: ClipConfig) -> ClipSummary | None:
    """Cut and transcribe; None for a recording that has no media to cut."""
    if recording.status != Status.FETCHED or not recording.media_path:
        return None
    return clip_recording(recording, corpus, config, _transcriber(config.transcribe))


def _transcriber(config: TranscribeConfig) -> Transcriber:
    """One recogniser a thread, loaded once: its weights are small beside the audio it reads."""
    if getattr(_thread, "config", None) != config:
        _thread.transcriber, _thread.config = Transcriber(config), config
    return _thread.transcriber


@flow(
    name="ingest",
    flow_run_name="ingest {kind} from {sources}",
    task_runner=ThreadPoolTaskRunner(max_workers=WORKERS),
    validate_parameters=True,
    persist_result=False,
)
def ingest(
    kind: Kind, sources: str, corpus: str, clips: ClipConfig | None = None, only: list[str] | None = None
) -> list[dict]:
    """Bring ``corpus`` up to date with the sources of one kind; the run's table, a row a source.

    Args:
        kind: which of the file's sources to visit.
        sources: URI of a ``sources.yaml``.
        corpus: URI of the corpus, which is made where there is none.
        clips: how recordings are cut, transcribed and filtered; left out, the defaults.
        only: names of sources to visit; left out, all of the kind that are enabled.

    Raises ValueError for a bad sources file, IngestError where a source was rejected beyond its settings' limit.
    """
    config, chosen = choose_sources(sources, kind, only)
    clips = clips or ClipConfig()
    summaries = [_ingest_source(source, config.settings, Corpus(corpus), clips) for source in chosen]
    rows = [summary.row() for summary in summaries]
    create_table_artifact(table=rows, key=f"ingest-{kind}", description=f"Ingest of {kind} sources into {corpus}")
    get_run_logger().info("ingest %s\n%s", kind, as_text(rows))
    failures = [failure for summary in summaries if (failure := summary.sync.failure(config.settings))]
    if failures:
        raise IngestError("; ".join(failures))
    return rows


def _ingest_source(source: Source, settings: Settings, corpus: Corpus, config: ClipConfig) -> SourceSummary:
    summary = SourceSummary(SyncSummary(source.name))
    found, summary.sync.problems = discover(source, settings, corpus)
    progress.info("%s: %d to fetch", source.name, len(found))
    waiting = list(_unclipped(source.name, corpus))
    pairs = ((None, clip.submit(recording, corpus, config)) for recording in waiting)
    _drain(pairs, source, settings, summary, len(waiting))
    _drain(_submit(found, source, settings, corpus, config), source, settings, summary, len(found))
    return summary


def _unclipped(source: str, corpus: Corpus) -> Iterator[Recording]:
    """Recordings that an earlier run fetched but did not come to cut."""
    for recording_id in sorted(corpus.recording_ids(source) - corpus.clipped_ids(source)):
        recording = corpus.read_recording(source, recording_id)
        if recording.status == Status.FETCHED:
            yield recording


def _submit(
    found: list[Recording], source: Source, settings: Settings, corpus: Corpus, config: ClipConfig
) -> Iterator[tuple[PrefectFuture, PrefectFuture]]:
    for recording in found:
        fetched = fetch.submit(recording, source, settings, corpus)
        yield fetched, clip.submit(fetched, corpus, config)


def _drain(
    pairs: Iterator[tuple[PrefectFuture | None, PrefectFuture]],
    source: Source,
    settings: Settings,
    summary: SourceSummary,
    total: int,
) -> None:
    """Collect results in order while a bounded number is under way; stop at a source that only blocks us."""
    flying: deque[tuple[PrefectFuture | None, PrefectFuture]] = deque()
    blocks = done = 0
    exhausted = False
    while flying or not exhausted:
        while not exhausted and len(flying) < WORKERS * IN_FLIGHT_PER_WORKER:
            pair = next(pairs, None)
            exhausted = pair is None
            if pair:
                flying.append(pair)
        if not flying:
            return
        fetched, clipped = flying.popleft()
        if fetched is not None:
            recording = fetched.result()
            summary.add_recording(recording)
            blocks = blocks + 1 if recording.reason == RejectReason.BLOCKED else 0
        if result := clipped.result():
            summary.add_clips(result)
        done += 1
        progress.info("%s: %d of %d recordings, %d clips", source.name, done, total, summary.clips)
        if blocks >= settings.max_blocks and not exhausted:
            summary.sync.blocked = exhausted = True  # those under way still come in
