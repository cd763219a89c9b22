"""What compaction saves on an object store: objects, and requests of each step before and after, counted.

``python tests/benchmarks/bench_compact.py --recordings 1200`` (``pip install 'triforce[cluster-test]'``) starts an
S3-compatible store on loopback, puts a generated corpus of hardly any sound into it, and counts what s3fs sends.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from generated_corpus import write_corpus

BUCKET = "triforce"
STORE = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def count_requests() -> Counter[str]:
    """Return a count of requests by operation, which goes on counting."""
    import s3fs

    asked: Counter[str] = Counter()
    original = s3fs.S3FileSystem._call_s3

    async def counted(self, method, *arguments, **options):
        asked[method] += 1
        return await original(self, method, *arguments, **options)

    s3fs.S3FileSystem._call_s3 = counted
    # Pages of a listing are asked for by a paginator, past the call above: one for each thousand names begun.
    from aiobotocore.paginate import AioPageIterator

    make_request = AioPageIterator._make_request

    async def paged(self, kwargs):
        asked["list_objects_v2"] += 1
        return await make_request(self, kwargs)

    AioPageIterator._make_request = paged
    return asked


def upload(folder: Path) -> str:
    """Put a corpus into the bucket; return its address."""
    from triforce.ingest import storage

    fs, _ = storage.resolve(f"s3://{BUCKET}")
    fs.mkdir(BUCKET)
    fs.put(f"{folder}/", f"{BUCKET}/corpus/", recursive=True)
    return f"s3://{BUCKET}/corpus"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, default=1200)
    parser.add_argument("--clips", type=int, default=4, help="clips of a recording")
    options = parser.parse_args()
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    os.environ |= STORE | {"AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port())}
    from triforce.ingest import storage
    from triforce.ingest.corpus.packs.compact import compact
    from triforce.ingest.corpus.stats import stats
    from triforce.ingest.corpus.store import Corpus

    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder) / "corpus", options.recordings, options.clips, num_sources=1)
        corpus = Corpus(upload(Path(folder) / "corpus"))
    asked = count_requests()

    def step(name: str, action: Callable[[], object]) -> None:
        asked.clear()
        begun_s = time.process_time()
        action()
        seconds = time.process_time() - begun_s
        print(f"{name:<44} {sum(asked.values()):>6}  {dict(asked.most_common())}  {seconds:.1f} s", flush=True)

    def objects() -> int:
        found = storage.resolve(corpus.uri)[0].find(corpus.uri)
        return sum(name.endswith((".parquet", ".zip")) and "/state/" not in name for name in found)

    print(f"{objects()} objects with rows and clips")
    step("ids of recordings and of clips", lambda: (corpus.recording_ids("feed-0"), corpus.clipped_ids("feed-0")))
    step("stats, which makes the indexes", lambda: stats(corpus))
    step("stats again", lambda: stats(corpus))
    step("compact", lambda: compact(corpus))
    print(f"{objects()} objects with rows and clips")
    step("ids of recordings and of clips", lambda: (corpus.recording_ids("feed-0"), corpus.clipped_ids("feed-0")))
    step("stats, which makes the indexes", lambda: stats(corpus))
    step("stats again", lambda: stats(corpus))
    server.stop()


if __name__ == "__main__":
    main()
