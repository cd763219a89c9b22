"""An ingest that is killed again and again ends as one that nobody disturbed.

As a program it does the same with more kills: ``python tests/ingest/test_kill.py --kills 20``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from triforce.ingest.clips import ClipConfig, clip_recording
from triforce.ingest.config import AudiobookSource, PodcastSource, Settings
from triforce.ingest.corpus import Corpus, Status
from triforce.ingest.sync import sync_source
from triforce.ingest.verify import verify

sys.path.insert(0, str(Path(__file__).parent))
from loopback_site import Handler, Site, serving

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "She sells sea shells by the sea shore, every day of the week.",
    "Nothing is lost, and nothing is there twice.",
    "A killed process leaves finished files and nothing else.",
)


def ingest(folder: Path, base_url: str) -> None:
    """What a child process does: all sources, then the clips of all that is fetched."""
    corpus = Corpus(str(folder))
    settings = Settings(contact="tests@example.org", allow_private_hosts=True, requests_per_s=1000, backoff_s=0.01)
    talk = PodcastSource(name="talk", feeds=[f"{base_url}/feed"])
    books = AudiobookSource(name="books", base_url=f"{base_url}/api")
    for source in (talk, books):
        sync_source(source, settings, corpus)
        clipped = corpus.clipped_ids(source.name)
        for row in corpus.recordings(source.name):
            if row.status == Status.FETCHED and row.recording_id not in clipped:
                clip_recording(row, corpus, ClipConfig(), None)


def build_site(site: Site, voices: list[np.ndarray]) -> None:
    """A podcast of six episodes, one of them a copy, one absent, and a book of two chapters; bodies come in ten
    pieces.
    """
    urls = []
    for number, voice in enumerate(voices):
        file = io.BytesIO()
        soundfile.write(file, voice, 24_000, format="FLAC")
        urls.append(site.put(f"/{number}.flac", file.getvalue(), script=in_pieces))
    urls.insert(2, site.put("/copy.flac", site.pages["/0.flac"].body, script=in_pieces))
    urls.insert(4, f"{site.base_url}/absent.flac")
    items = "".join(
        f"<item><guid>episode-{n}</guid><title>Episode {n}</title>"
        f'<enclosure url="{url}" type="audio/flac" length="1"/></item>'
        for n, url in enumerate(urls[:-2])
    )
    site.put("/feed", f'<rss version="2.0"><channel><title>Talk</title>{items}</channel></rss>')
    sections = [{"section_number": str(n), "listen_url": url} for n, url in enumerate(urls[-2:], start=1)]
    site.put("/api", json.dumps({"books": [{"id": "1", "title": "Book", "sections": sections}]}))


def in_pieces(handler: Handler, _before: int) -> bool:
    """Answer as the page would, range and all, but slowly enough to be killed in the middle."""
    write = handler.wfile.write

    def slowly(data: bytes) -> int:
        for begin in range(0, len(data), max(1, len(data) // 10)):
            write(data[begin : begin + max(1, len(data) // 10)])
            time.sleep(0.004)
        return len(data)

    handler.wfile.write = slowly
    try:
        path = handler.path.split("?")[0]
        handler.answer_page(handler.site.pages[path])
    finally:
        handler.wfile.write = write
    return True


def contents(folder: Path) -> dict[str, str]:
    """Hash by path of clips and media, and of rows without their times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_row = name.startswith("recordings/") and name.endswith(".parquet")
        is_finished = name.startswith(("clips/", "recordings/")) and "/.tmp-" not in name
        if path.is_file() and is_finished and not is_row:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for row in Corpus(str(folder)).recordings():
        metadata = {key: value for key, value in row.metadata.items() if key != "runs"}
        found[f"row {row.recording_id}"] = repr({**vars(row), "fetched_at": None, "metadata": metadata})
    return found


def killed_ingest(folder: Path, base_url: str, kills: int, whole_s: float, seed: int) -> int:
    """Ingest into ``folder`` with ``kills`` kills at random moments; how many of them hit a living process."""
    context, rng, hits = multiprocessing.get_context("forkserver"), random.Random(seed), 0
    for _ in range(kills):
        child = context.Process(target=ingest, args=(folder, base_url))
        child.start()
        # Each life gets a part of the time that all the work takes, so kills fall all along the way.
        child.join(rng.uniform(0.05, 1.0) * whole_s * 2.0 / kills)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            hits += 1
        child.join()
    return hits


def check(voices: list[np.ndarray], folder: Path, kills: int, seed: int) -> str:
    """Run both ways and compare; a sentence about it. `AssertionError` if they differ."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    with serving() as site:
        build_site(site, voices)
        context = multiprocessing.get_context("forkserver")
        for target in (time.sleep, ingest):  # the first child only starts the server that forks the others
            begin_s = time.monotonic()
            arguments = (folder / "whole", site.base_url) if target is ingest else (0,)
            child = context.Process(target=target, args=arguments)
            child.start()
            child.join()
            whole_s = time.monotonic() - begin_s
            assert child.exitcode == 0
        hits = killed_ingest(folder / "killed", site.base_url, kills, whole_s, seed)
        ingest(folder / "killed", site.base_url)
    whole, killed = contents(folder / "whole"), contents(folder / "killed")
    assert sum(name.startswith("clips/") for name in whole) >= 3
    assert killed == whole, sorted(set(killed.items()) ^ set(whole.items()))[:4]
    assert verify(Corpus(str(folder / "killed"))) == []
    return f"{hits} of {kills} kills hit; {len(whole)} files and rows are as without them"


def make_voices(spoken) -> list[np.ndarray]:
    """Four recordings of two sentences, with silence around each, and no two alike."""
    pause = np.zeros(18_000, np.float32)
    said = [np.concatenate([spoken(sentence), pause]) for sentence in SENTENCES]
    return [np.concatenate([pause, said[n], said[(n + 1) % len(said)]]) for n in range(len(said))]


def test_a_killed_ingest_ends_as_an_undisturbed_one(spoken, tmp_path):
    message = check(make_voices(spoken), tmp_path, kills=5, seed=int(os.environ.get("TRIFORCE_KILL_SEED", "1")))
    if message.startswith("0 "):
        pytest.fail("no kill hit a living process: the work was done before the first one")


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill an ingest at random moments and compare what it ends with.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    beat = (np.sin(np.arange(24_000) * 0.05) * (np.arange(24_000) % 4000 < 2500)).astype(np.float32)
    voices = [np.concatenate([beat * 0.3 + rng.normal(0, 0.02, 24_000).astype(np.float32)] * 12) for _ in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        print(check(voices, Path(folder), options.kills, options.seed))


if __name__ == "__main__":
    main()
