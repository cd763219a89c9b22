"""What ingest costs: discovery against a catalogue of known recordings, and downloads against curl.

``python tests/benchmarks/bench_ingest.py --recordings 100000 --files 6 --megabytes 64``: a line for each figure. With
TMPDIR=/dev/shm the corpus and the files are in memory, and no disk is measured.
"""

from __future__ import annotations

import argparse
import http.server
import multiprocessing
import shutil
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

from triforce.ingest import ledger, storage
from triforce.ingest.config import PodcastSource, Settings
from triforce.ingest.corpus.records import Recording, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.fetch.download import download
from triforce.ingest.sync import discover

SETTINGS = Settings(contact="benchmark@example.org", allow_private_hosts=True, requests_per_s=1000)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, with the validators that the standard library gives them: dates."""

    protocol_version = "HTTP/1.1"

    def copyfile(self, source, outputfile) -> None:
        outputfile.flush()
        self.connection.sendfile(source)  # as a web server does, so that the server is not what is measured

    def log_message(self, *_) -> None:
        pass


def serve(folder: Path) -> str:
    """Serve ``folder`` from a process of its own, so that its work is not taken for ours; the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def bench_discovery(folder: Path, num_recordings: int) -> None:
    site = folder / "site"
    site.mkdir()
    base_url = serve(site)
    source = PodcastSource(name="big", feeds=[f"{base_url}/feed.xml"])
    items = "".join(
        f"<item><guid>https://example.org/e/{n}</guid><title>Episode {n}</title>"
        f'<enclosure url="https://example.org/e/{n}.mp3" type="audio/mpeg" length="1"/></item>'
        for n in range(num_recordings)
    )
    (site / "feed.xml").write_text(f'<rss version="2.0"><channel><title>Big</title>{items}</channel></rss>')
    corpus = Corpus(str(folder / "corpus"))
    _fill(corpus, num_recordings)
    for name in ("changed feed", "unchanged feed", "unchanged feed"):
        begin_s = time.perf_counter()
        found = list(discover(source, SETTINGS, corpus))
        print(f"discovery, {num_recordings} known, {name}: {time.perf_counter() - begin_s:.2f} s, {len(found)} new")


def _fill(corpus: Corpus, num_recordings: int) -> None:
    """A row and a media file for each recording. Discovery lists rows and opens none, so all hold the same bytes."""
    first = Recording("0" * 16, "big", "podcast", "x", "https://example.org/x.mp3")
    corpus.write_recording(first)
    row_uri = corpus.recording_uri("big", "0" * 16)
    row = storage.read_bytes(row_uri)
    folder = Path(row_uri).parent
    for n in range(num_recordings):
        recording_id = make_recording_id("big", f"https://example.org/e/{n}")
        (folder / f"{recording_id}.parquet").write_bytes(row)
        (folder / f"{recording_id}.mp3").touch()
    storage.remove(row_uri)
    ledger.write_pending(corpus, "big", [])  # as the run left it that fetched them all


def bench_download(folder: Path, num_files: int, megabytes: int, num_rounds: int) -> None:
    """All files by one curl, by us, and by curl into a file and a hash, which is what we do; in turns."""
    site, target = folder / "files", folder / "target"
    site.mkdir()
    target.mkdir()
    block = bytes(range(256)) * 4096
    for n in range(num_files):
        with (site / f"{n}.bin").open("wb") as file:
            for _ in range(megabytes):
                file.write(block)
    base_url = serve(site)
    urls = {f"{base_url}/{n}.bin": target / str(n) for n in range(num_files)}

    def curl() -> None:
        outputs = [part for url, path in urls.items() for part in ("--output", str(path), url)]
        subprocess.run(["curl", "--silent", "--fail", *outputs], check=True)

    def ours() -> None:
        for url, path in urls.items():
            download(url, path, SETTINGS)

    def curl_and_hash() -> None:
        for url, path in urls.items():
            line = f"curl --silent --fail {url} | tee {path} | openssl dgst -sha256"
            subprocess.run(line, shell=True, check=True, stdout=subprocess.DEVNULL)

    rates: dict[str, list[float]] = {"curl": [], "ours": [], "curl and openssl": []}
    runs = list(zip(rates, (curl, ours, curl_and_hash), strict=True))
    for number in range(num_rounds):
        turn = number % len(runs)
        for name, run in runs[turn:] + runs[:turn]:
            for path in urls.values():
                path.unlink(missing_ok=True)
            begin_s = time.perf_counter()
            run()
            rates[name].append(num_files * megabytes / (time.perf_counter() - begin_s))
    for name, found in rates.items():
        print(f"download of {num_files} x {megabytes} MB, {name}: {statistics.median(found):.0f} MB/s")
    for name in ("curl", "curl and openssl"):
        ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates[name], strict=True)]
        spread = f"{min(ratios):.0%} to {max(ratios):.0%}"
        print(f"ours against {name}: {statistics.median(ratios):.0%} ({spread} in {num_rounds} rounds)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if shutil.which("curl") is None or shutil.which("openssl") is None:
        raise SystemExit("curl or openssl is not installed: apt-get install curl openssl")
    with tempfile.TemporaryDirectory() as folder:
        bench_download(Path(folder), options.files, options.megabytes, options.rounds)
        bench_discovery(Path(folder), options.recordings)


if __name__ == "__main__":
    main()
