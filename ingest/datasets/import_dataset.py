"""A dataset becomes recordings and clips of a corpus, on all cores; again: only what is new.

The utterances stream from the reader through `plan`, which makes parts of them, to `import_part`, which writes a
recording a part. What is on record, be it imported, rejected or taken down, is left out by the hashes of utterances
that the rows hold. About a hundred bytes an utterance are in memory for that, and a part a process.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

from triforce.ingest import storage
from triforce.ingest.cores import num_cores
from triforce.ingest.corpus.records import UTTERANCES, RejectReason, make_recording_id
from triforce.ingest.corpus.stats import recording_index
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.datasets.detect import open_dataset
from triforce.ingest.datasets.import_part import Counts, Part, import_part
from triforce.ingest.datasets.utterance import (
    MAX_PER_RECORDING,
    Dataset,
    DatasetConfig,
    Faulty,
    Item,
    Utterance,
    split_hashes,
    utterance_hash,
)
from triforce.ingest.text_tables import format_table

MAX_SPLITS = 8
"""Splits whose rows may be mixed. Assumed."""


def import_dataset(
    corpus: Corpus,
    path: Path,
    config: DatasetConfig,
    form: str = "auto",
    *,
    on_found: Callable[[Dataset], None] = lambda _: None,
    on_part: Callable[[Counts], object] = lambda _: None,
) -> Counts:
    """Bring the utterances of the dataset at ``path`` into the corpus; return what became of them.

    ``on_found`` is called with what was found, before any work, and ``on_part`` with the counts of each part. Raises
    ValueError where there is no dataset of that format, or no licence is known.
    """
    dataset = open_dataset(path, config, form)
    on_found(dataset)
    config = config if config.licence else config.model_copy(update={"licence": dataset.licence})
    if storage.is_local(corpus.uri):
        corpus = replace(corpus, uri=storage.absolute(corpus.uri))
    known = known_hashes(corpus, config.source)
    total = Counts()
    planner = Planner(known, corpus.recording_ids(config.source), config)
    parts = planner.parts(licensed(dataset.items(), config, path), dataset.format, path.absolute().as_uri())
    jobs = ((part, corpus, config) for part in parts)
    for counts in run_all(import_part, jobs, config.workers or num_cores()):
        total.add(counts)
        on_part(counts)
    total.known = planner.num_known
    return total


def known_hashes(corpus: Corpus, source: str) -> set[int]:
    """Return the hashes of the utterances that rows of a source account for."""
    found: set[int] = set()
    for rows in recording_index(corpus, source).batches():
        for metadata in rows["metadata"].to_pylist():
            found.update(int(mark, 16) for mark in split_hashes(dict(metadata or []).get(UTTERANCES, "")))
    return found


def licensed(items: Iterator[Item], config: DatasetConfig, path: Path) -> Iterator[Item]:
    """Yield the items; where the first utterance has no licence of its own, and none is known, raise ValueError.

    Later ones without are faulty.
    """
    is_first = True
    for item in items:
        if isinstance(item, Utterance) and not (item.licence or config.licence):
            if is_first:
                raise ValueError(
                    f"{path}: the dataset states no licence where one is looked for, in its card, its LICENSE or a "
                    "column of it; give the one that it is under, as in --licence 'CC BY 4.0'"
                )
            item = Faulty(item.utterance_id, RejectReason.BAD_METADATA, "states no licence; give --licence", item.group)
        is_first = is_first and isinstance(item, Faulty)
        yield item


class Planner:
    """Makes parts of the utterances that are new."""

    def __init__(self, known: set[int], recording_ids: set[str], config: DatasetConfig):
        self._known, self._recording_ids, self._config = known, recording_ids, config
        self.num_known = 0
        """Utterances that were left out, as they are on record."""

    def parts(self, items: Iterable[Item], form: str = "", page: str = "") -> Iterator[Part]:
        """Yield the parts with anything new in them.

        Where one ends depends on the dataset alone, and not on what is on record: a killed import goes on with the
        same parts. Those of a dataset that has grown hold only what is new, under a name of their own.
        """
        seen: set[int] = set()
        for batch in self._batches(items):
            fresh: list[Item] = []
            for item in batch:
                mark = int(utterance_hash(item.utterance_id), 16)
                if mark in self._known:
                    self.num_known += 1
                elif mark in seen:
                    detail = f"{item.utterance_id} is the id of an earlier utterance too"
                    fresh.append(Faulty(f"{item.utterance_id} again", RejectReason.DUPLICATE_ID, detail, item.group))
                else:
                    seen.add(mark)
                    fresh.append(item)
            if fresh and (name := self._free_name(batch[0].utterance_id, fresh[0].utterance_id)):
                utterances = tuple(item for item in fresh if isinstance(item, Utterance))
                faulty = tuple(item for item in fresh if isinstance(item, Faulty))
                yield Part(name, utterances, faulty, form, page)

    def _free_name(self, *names: str) -> str | None:
        """The first name of which no recording is on record."""
        free = (name for name in names if make_recording_id(self._config.source, name) not in self._recording_ids)
        return next(free, None)

    def _batches(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Parts as they are filled, one at a time of each split, as rows of several may be mixed."""
        unfinished: dict[str | None, list[Item]] = {}
        group, split = "", None
        for item in items:
            split = item.split if isinstance(item, Utterance) else split
            if item.group != group or (split not in unfinished and len(unfinished) == MAX_SPLITS):
                yield from filter(None, unfinished.values())
                group, unfinished = item.group, {}
            batch = unfinished.setdefault(split, [])
            if batch and self._is_full(batch, item):
                yield batch
                batch = unfinished[split] = []
            batch.append(item)
        yield from filter(None, unfinished.values())

    def _is_full(self, batch: list[Item], item: Item) -> bool:
        last = batch[-1]
        same_file = isinstance(last, Utterance) and isinstance(item, Utterance) and last.audio == item.audio
        return len(batch) >= MAX_PER_RECORDING or (
            len(batch) >= self._config.utterances_per_recording and not same_file
        )


def run_all(work: Callable[..., Counts], jobs: Iterable[tuple], workers: int) -> Iterator[Counts]:
    """Yield ``work`` of each job as it is done, in so many processes; with one, in this.

    Jobs are taken as they are needed. Raises RuntimeError where a process dies.
    """
    if workers == 1:
        yield from (work(*job) for job in jobs)
        return
    waiting: set[Future] = set()
    ignore = (signal.SIGINT, signal.SIG_IGN)  # the main process ends them, once what they write is whole
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=signal.signal, initargs=ignore)
    try:
        for job in chain(jobs, [None]):
            if job is not None:
                waiting.add(pool.submit(work, *job))
            while waiting and (job is None or len(waiting) > 2 * workers):
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process of the import died, for lack of memory as a rule; run it again with workers=1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def summary_table(counts: Counts) -> str:
    """Return what became of a dataset's utterances: in, known, kept, dropped and rejected by reason, with hours."""
    rows: list[tuple[str, int, str]] = [("in", counts.num_in, "")]
    if counts.known:
        rows.append(("known already", counts.known, ""))
    rows.append(("kept", counts.clips[None], _hours(counts.seconds[None])))
    for reason, number in counts.clips.most_common():
        if reason is not None:
            rows.append((f"dropped: {reason}", number, _hours(counts.seconds[reason])))
    rows += [(f"rejected: {reason}", number, "") for reason, number in counts.rejected.most_common()]
    return format_table(("", "utterances", "hours"), rows)


def failure(counts: Counts, config: DatasetConfig) -> str | None:
    """Return why an import counts as failed, None where enough came in."""
    new = counts.num_in - counts.known
    share = counts.rejected.total() / new if new else 0.0
    if share <= config.max_rejected_share:
        return None
    limit = f"the limit is {config.max_rejected_share:.0%} (max_rejected_share)"
    return f"{share:.0%} of {new} utterances rejected, {limit}; the first: {next(iter(counts.examples.values()))}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"
