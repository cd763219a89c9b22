"""The flow ``ingest``: new recordings of the sources of one kind become clips in the corpus.

Each recording is fetched by one task and cut and transcribed by another, many at a time. The corpus alone says what is
done, so a run that was stopped anywhere continues when the flow is run again. Timeouts are in the I/O: Prefect cannot
interrupt a thread. With a Ray cluster, the flow fetches here and cuts there.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from triforce.flows.jobs.clipping import clip_here, clip_on_cluster, connected, unclipped
from triforce.flows.jobs.source_choice import Kind, choose_sources
from triforce.flows.monitor.ingest_progress import IngestProgress
from triforce.flows.monitor.ingest_summary import SourceSummary, as_text
from triforce.flows.monitor.notify import tell_failure
from triforce.ingest import storage, sync
from triforce.ingest.clips.clip_recording import ClipConfig, ClipSummary
from triforce.ingest.config import Settings, Source
from triforce.ingest.corpus.records import Recording, Status
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.sources.registry import open_source
from triforce.ingest.sync import BlockCounter, SyncSummary

logger = logging.getLogger(__name__)

IN_FLIGHT_PER_WORKER = 4
"""Most recordings submitted and not done, for each worker; bounds memory where a source lists thousands. Assumed."""


class IngestError(RuntimeError):
    """Raised when more of a source was rejected than its settings allow."""


def _named(verb: str, recording: Recording) -> str:
    return f"{verb} {recording.source}: {recording.title or recording.source_id}"[:200]


def _fetch_run_name(parameters: dict[str, Any]) -> str:
    return _named("fetch", parameters["recording"])


def _clip_run_name(parameters: dict[str, Any]) -> str:
    return _named("clip", parameters["recording"])


@dataclass
class Discovery:
    """Recordings to fetch, and the feeds and pages that could not be read."""

    recordings: list[Recording] = field(default_factory=list)
    problems: list[Rejected] = field(default_factory=list)


@task(
    name="discover",
    task_run_name="discover {source.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["network"],
)
def discover(source: Source, settings: Settings, corpus: Corpus) -> Discovery:
    """List what is to fetch, with one conditional request a page; a request that fails is tried again within."""
    discovery = Discovery()
    # Raised only when nothing could be read, and then each problem was reported before.
    with contextlib.suppress(Rejected):
        discovery.recordings.extend(sync.discover(source, settings, corpus, on_problem=discovery.problems.append))
    return discovery


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
    """Fetch one recording. A bad one is recorded and returned; only failures of our own disk or memory raise."""
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
def clip(recording: Recording, corpus: Corpus, config: ClipConfig, on_cluster: bool = False) -> ClipSummary | None:
    """Cut and transcribe; None for a recording that has no media to cut."""
    if recording.status != Status.FETCHED or not recording.media_path:
        return None
    return (clip_on_cluster if on_cluster else clip_here)(recording, corpus, config)


@flow(
    name="ingest",
    flow_run_name="ingest {kind} from {sources}",
    validate_parameters=True,
    persist_result=False,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
)
def ingest(
    kind: Kind,
    sources: str,
    corpus: str,
    clips: ClipConfig | None = None,
    only: list[str] | None = None,
    ray_cluster: str | None = None,
    ray_address: str | None = None,
) -> list[dict]:
    """Bring ``corpus`` up to date with the sources of one kind; return a table with a row a source.

    Args:
        kind: kind of the sources to visit.
        sources: URI of a ``sources.yaml``.
        corpus: URI of the corpus, which is made where there is none.
        clips: how recordings are cut, transcribed and filtered; left out, the defaults.
        only: names of sources to visit; left out, all of the kind that are enabled.
        ray_cluster: address of a Ray cluster to cut and transcribe on, ``host:6379`` or ``ray://host:10001``; left out,
            that is done here. The corpus must then be at the same address for all of the cluster's machines.
        ray_address: the old name of ray_cluster.

    Raises ValueError for a bad sources file, IngestError where a source was rejected beyond its settings' limit.
    """
    config, chosen = choose_sources(sources, kind, only)
    clips = clips or ClipConfig()
    ray_cluster = ray_cluster or ray_address
    with connected(ray_cluster, clips) as workers:
        runner = ThreadPoolTaskRunner(max_workers=workers)
        visit = ingest_source.with_options(task_runner=runner)
        rest = (config.settings, Corpus(corpus), clips, workers, ray_cluster is not None)
        summaries = [_summary(source, visit(source, *rest, return_state=True)) for source in chosen]
    rows = [summary.row() for summary in summaries]
    create_table_artifact(table=rows, key=f"ingest-{kind}", description=f"Ingest of {kind} sources into {corpus}")
    get_run_logger().info("ingest %s\n%s", kind, as_text(rows))
    failures = [failure for summary in summaries if (failure := summary.failure(config.settings))]
    if failures:
        raise IngestError("; ".join(failures))
    return rows


def _summary(source: Source, state: State) -> SourceSummary:
    """Return the summary of a source. A run that broke off counts as failed, and the sources after it are visited."""
    result = state.result(raise_on_failure=False)
    if isinstance(result, SourceSummary):
        return result
    logger.error("%s: the run broke off", source.name, exc_info=result)
    return SourceSummary(SyncSummary(source.name), errors=[f"{type(result).__name__}: {result}"])


@flow(name="ingest source", flow_run_name="ingest {source.name}", validate_parameters=False, persist_result=False)
def ingest_source(
    source: Source, settings: Settings, corpus: Corpus, config: ClipConfig, workers: int, on_cluster: bool
) -> SourceSummary:
    """Fetch and cut one source, ``workers`` tasks at a time."""
    summary = SourceSummary(SyncSummary(source.name))
    found = discover(source, settings, corpus)
    for problem in found.problems:
        summary.sync.add_problem(problem)
    waiting = list(unclipped(source.name, corpus))
    logger.info("%s: %d to fetch, %d more to cut", source.name, len(found.recordings), len(waiting))
    old = ((None, clip.submit(recording, corpus, config, on_cluster)) for recording in waiting)
    new = _submit(found.recordings, source, settings, corpus, config, on_cluster)
    bar = IngestProgress(summary, len(waiting) + len(found.recordings))
    blocks = BlockCounter(open_source(source, settings).blocks_allowed)
    _drain(itertools.chain(old, new), summary, bar, blocks, in_flight=workers * IN_FLIGHT_PER_WORKER)
    bar.show()
    return summary


Pair = tuple[PrefectFuture | None, PrefectFuture]


def _submit(
    found: list[Recording], source: Source, settings: Settings, corpus: Corpus, config: ClipConfig, on_cluster: bool
) -> Iterator[Pair]:
    for recording in found:
        fetched = fetch.submit(recording, source, settings, corpus)
        yield fetched, clip.submit(fetched, corpus, config, on_cluster)


def _drain(
    pairs: Iterator[Pair], summary: SourceSummary, bar: IngestProgress, blocks: BlockCounter, in_flight: int
) -> None:
    """Collect results as they come while ``in_flight`` are under way; stop at a source that only blocks, and where the
    disk is full."""
    finished: SimpleQueue[Pair] = SimpleQueue()
    flying = 0
    while True:
        # What is under way when a source is given up is still collected.
        is_left = blocks.exceeded or summary.is_disk_full
        for pair in itertools.islice(pairs, 0 if is_left else in_flight - flying):
            pair[1].add_done_callback(lambda _, pair=pair: finished.put(pair))
            flying += 1
        if not flying:
            return
        blocks.add(_collect(finished.get(), summary))
        if blocks.exceeded and not summary.sync.blocked:
            summary.sync.blocked = True
            logger.warning("%s: too many blocks in a row; it is left alone for this run", summary.sync.source)
        flying -= 1
        bar.advance()


def _collect(pair: Pair, summary: SourceSummary) -> str | None:
    """Count the outcome of one recording; return why it was rejected, None if it was not.

    A task that failed after its retries is one failure among others: it must not end the run for all that come after.
    """
    reason = None
    summary.done += 1
    for future in pair:
        if future is None:
            continue
        result = future.result(raise_on_failure=False)
        if isinstance(result, BaseException):
            summary.errors.append(f"{type(result).__name__}: {result}")
            summary.is_disk_full |= isinstance(result, OSError) and result.errno in storage.DISK_FULL
            break
        if isinstance(result, Recording):
            summary.add_recording(result)
            reason = result.reason
        elif isinstance(result, ClipSummary):
            summary.add_clips(result)
    return reason
