"""What each step over a whole corpus takes, in time, memory and files opened.

``python tests/benchmarks/bench_scale.py FOLDER --recordings 20000`` writes a generated corpus of that many recordings
with 225 clips each into FOLDER, where there is none yet, and runs every step in a process of its own. A step named
twice is run twice: what it remembers makes the second one short. Times are without imports, memory is with them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from generated_corpus import age, write_corpus, write_known, write_packed_corpus, write_tokens_folder

STEPS: dict[str, Callable[[Path], str]] = {}
Step = Callable[[Path], str]


def step(function: Step) -> Step:
    STEPS[function.__name__] = function
    return function


def open_corpus(folder: Path):
    from triforce.ingest.corpus.store import Corpus

    return Corpus(str(folder / "corpus"))


def tokenize_config(folder: Path):
    from triforce.tokenize.config import TokenizeConfig

    return TokenizeConfig(corpus=str(folder / "corpus"), release=str(folder), tokens=str(folder / "tokens"))


@step
def stats(folder: Path) -> str:
    from triforce.ingest.corpus.stats import stats

    total = stats(open_corpus(folder))["total"]
    return f"{total.num_clips} clips, {total.num_kept} kept"


@step
def ls(folder: Path) -> str:
    from triforce.ingest.corpus.stats import list_recordings

    return f"{sum(1 for _ in list_recordings(open_corpus(folder)))} recordings"


@step
def hash(folder: Path) -> str:
    from triforce.train.tasks.inputs import corpus_hash

    return corpus_hash(str(folder / "corpus"))[:12]


@step
def plan(folder: Path) -> str:
    from triforce.tokenize.plan import extend_plan

    return f"{len(extend_plan(tokenize_config(folder)))} shards"


@step
def train_start(folder: Path) -> str:
    """Open the store and take a thousand steps of 32 in the order, the last ones where a run of long ago resumes."""
    import torch

    from triforce.train.config import train_config
    from triforce.train.data.base import StoredCrops
    from triforce.train.data.order import Place

    places = {name: str(folder / name) for name in ("corpus", "release", "runs")}

    class Order(StoredCrops):
        batch = statistics = weight = evaluation = None

    Order.__abstractmethods__ = frozenset()
    crops = Order(train_config(stage="dvae", **places), 24_000, torch.device("cpu"))
    place = Place(0, 1)
    for taken in (0, 3 * crops.order.epoch_length + 12_345):
        place.taken = taken
        for _ in range(16_000):
            crops.order(place.next())
    return f"{len(crops.store)} clips, {len(crops.validation)} unseen"


@step
def verify(folder: Path) -> str:
    from triforce.ingest.corpus.verify import verify

    return f"{len(verify(open_corpus(folder), deep=False))} faults"


@step
def refilter(folder: Path) -> str:
    from triforce.ingest.clips.filters import FilterConfig
    from triforce.ingest.clips.refilter import decide_again

    config = FilterConfig(min_snr_db=15.0, max_rate_iqr=3.0)
    changes = decide_again(open_corpus(folder), config, dry_run=True)
    return f"{sum(map(len, changes))} would change"


@step
def refilter_snr(folder: Path) -> str:
    """The same by one score alone, as a manifest is filtered."""
    from triforce.ingest.clips.filters import FilterConfig
    from triforce.ingest.clips.refilter import decide_again

    changes = decide_again(open_corpus(folder), FilterConfig(min_snr_db=15.0), dry_run=True)
    return f"{sum(map(len, changes))} would change"


@step
def compact(folder: Path) -> str:
    from triforce.ingest.corpus.packs.compact import compact

    done = compact(open_corpus(folder))
    num_files, num_packs = (sum(getattr(item, name) for item in done) for name in ("num_files", "num_packs"))
    return f"{num_files} files packed, {num_packs} packs"


@step
def takedown(folder: Path) -> str:
    from triforce.ingest.corpus.stats import find_recording
    from triforce.ingest.corpus.takedown import remove

    corpus = open_corpus(folder)
    source = corpus.sources()[0]
    first = min(corpus.recording_ids(source))
    chosen = [find_recording(corpus, first)]
    removal = remove(corpus, chosen, tokens=str(folder / "tokens"), dry_run=True)
    return f"{removal.num_clips} clips in {len(removal.stale_shards)} shards"


@step
def discover(folder: Path) -> str:
    """One new item in a feed, beside a hundred known ones, of a source with `--known` recordings."""
    import http.server
    import threading

    from triforce.ingest import storage, sync
    from triforce.ingest.config import PodcastSource, Settings
    from triforce.ingest.corpus.store import Corpus

    def item(name: str) -> str:
        return (
            f"<item><guid>https://example.org/e/{name}</guid><title>{name}</title>"
            f'<enclosure url="https://example.org/e/{name}.mp3" type="audio/mpeg" length="1"/></item>'
        )

    items = "".join(map(item, ["new", *map(str, range(100))]))
    feed = f'<rss version="2.0"><channel><title>T</title>{items}</channel></rss>'.encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(feed)))
            self.end_headers()
            self.wfile.write(feed)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = PodcastSource(name="feed-0", feeds=[f"http://127.0.0.1:{server.server_port}/feed"])
    settings = Settings(contact="benchmark@example.org", allow_private_hosts=True, requests_per_s=1000)
    corpus = Corpus(str(folder / "known"))
    storage.write_bytes(storage.join(corpus.uri, "state", "source=feed-0", "swept"), b"")  # which is done once a day
    found = list(sync.discover(source, settings, corpus))
    return f"{len(found)} new"


def run_step(name: str, folder: Path) -> None:
    import torch  # noqa: F401

    from triforce.flows.cli import main  # noqa: F401
    from triforce.ingest import sync  # noqa: F401
    from triforce.tokenize import job  # noqa: F401
    from triforce.train.tasks import registry  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF)
    opened = {"opens": 0, "listings": 0}

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.scandir", "os.listdir") and str(folder) in str(arguments[0]):
            opened["opens" if event == "open" else "listings"] += 1

    sys.addaudithook(count)
    begun_s = time.perf_counter()
    result = STEPS[name](folder)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "step": name,
                "wall_s": round(time.perf_counter() - begun_s, 2),
                "cpu_s": round(usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime, 2),
                "peak_mb": usage.ru_maxrss // 1024,
                "imports_mb": before.ru_maxrss // 1024,
                **opened,
                "result": result,
            }
        ),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recordings", type=int, default=2000)
    parser.add_argument("--packed", action="store_true", help="write rows and clips into packs straight away")
    parser.add_argument("--known", type=int, default=1_000_000, help="recordings that discovery knows")
    steps = [name for name in STEPS if name not in ("refilter_snr", "compact")]  # which changes what the others find
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=steps)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_step(options.one, options.folder)
        return
    if not (options.folder / "corpus").exists():
        options.folder.mkdir(parents=True, exist_ok=True)
        write = write_packed_corpus if options.packed else write_corpus
        write(options.folder / "corpus", options.recordings)
        age(options.folder / "corpus")
    if not (options.folder / "tokens").exists():
        write_tokens_folder(options.folder / "tokens")
    if "discover" in options.steps and not (options.folder / "known").exists():
        write_known(options.folder / "known", options.known)
    for name in options.steps:
        command = [sys.executable, __file__, str(options.folder), "--one", name]
        subprocess.run(command, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
