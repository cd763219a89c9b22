"""How long `triforce corpus browse` takes over a generated corpus, and how much memory.

``python tests/benchmarks/bench_browse.py FOLDER --recordings 2000`` writes 225 clips of 8 s a recording, unless the
folder is there. One line a step: seconds, and by how much memory of its own grew at most since the start, MB.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from generated_corpus import age, write_corpus

from triforce.flows.browse.catalogue import open_catalogue, state_of
from triforce.flows.browse.queries import Filter, Overlay, Query, matching, page, sort_keys
from triforce.flows.browse.summaries import Judge, histograms
from triforce.flows.browse.thresholds import THRESHOLDS
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.corpus.store import Corpus

Result = TypeVar("Result")


def own_memory_mb() -> float:
    """Memory that is no file's: what lies on the disk is not counted, as the kernel may drop it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def step(name: str, task: Callable[[], Result], *, before_mb: float) -> Result:
    started = time.monotonic()
    result = task()
    grown, peak = own_memory_mb() - before_mb, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    taken_s = time.monotonic() - started
    print(f"{name:<44} {taken_s:8.3f} s   own {grown:6.0f} MB   peak of all {peak:6.0f} MB", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recordings", type=int, default=2000)
    arguments = parser.parse_args()
    if not arguments.folder.exists():
        write_corpus(arguments.folder, arguments.recordings)
        age(arguments.folder)
    corpus = Corpus(str(arguments.folder))
    before_mb = own_memory_mb()
    shutil.rmtree(arguments.folder / "state" / "browse", ignore_errors=True)
    catalogue = step("open, from score index if there", lambda: open_catalogue(corpus), before_mb=before_mb)
    size = sum(path.stat().st_size for path in catalogue.folder.rglob("*") if path.is_file())
    print(f"{catalogue.num_clips} clips, {size / max(1, catalogue.num_clips):.0f} bytes a clip on the disk")
    shutil.rmtree(catalogue.folder)
    catalogue = step("open, scores known", lambda: open_catalogue(corpus), before_mb=before_mb)
    step("open again", lambda: open_catalogue(corpus), before_mb=before_mb)
    step("has the corpus changed?", lambda: state_of(corpus), before_mb=before_mb)
    step("histograms, first time", lambda: histograms(catalogue), before_mb=before_mb)
    step("histograms, again", lambda: histograms(catalogue), before_mb=before_mb)
    judge = Judge(catalogue, np.zeros(catalogue.num_clips, bool))
    snr = next(one for one in THRESHOLDS if one.field == "min_snr_db")
    for limit in (12.0, 13.0, 14.0):
        config = FilterConfig(min_snr_db=limit)
        step(f"slider to {limit}: hours", lambda config=config: judge.summary(config), before_mb=before_mb)
        step(f"slider to {limit}: border clips", lambda config=config: judge.border(config, snr), before_mb=before_mb)
    overlay = Overlay(judge.marked, judge.verdicts(FilterConfig()))
    clear = Filter(column="snr_db", operator="at_least", value=30)
    queries = {
        "as they lie": Query(),
        "sorted by SNR": Query(sort="snr_db"),
        "filtered and sorted": Query(sort="avg_logprob", filters=(clear,)),
        "sorted by a title": Query(sort="title", descending=True),
        "text contains": Query(filters=(Filter(column="text", operator="contains", value="kanaa"),)),
        "search everywhere, nothing found": Query(search="xyzzy"),
    }
    for name, query in queries.items():

        def ask(query: Query = query) -> int:
            found, keys = matching(catalogue, query, overlay), sort_keys(catalogue, query.sort, overlay)
            first = page(found, keys, query)
            if first.next is not None:
                page(found, keys, query.model_copy(update={"after": first.next}))
            return int(found.sum())

        print(f"{step(f'{name}: two pages', ask, before_mb=before_mb)} found")
    clip_id = catalogue.clip_id(catalogue.num_clips - 1)
    step("find a clip by its id", lambda: catalogue.find(clip_id), before_mb=before_mb)


if __name__ == "__main__":
    main()
