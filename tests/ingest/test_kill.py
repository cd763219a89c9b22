"""An ingest that is killed again and again ends as one that nobody disturbed.

As a program it does the same with more kills: ``python tests/ingest/test_kill.py --kills 20``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
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


PRELOADED = ["numpy", "pytest", "soundfile", "triforce.ingest.clips", "triforce.ingest.sync", "triforce.ingest.verify"]
"""What each life needs, imported once: otherwise kills fall into imports, where there is nothing to break."""


def ingest(folder: Path, base_url: str, started: Event | None = None) -> None:
    """What a child process does: all sources, then the clips of all that is fetched."""
    if started:
        started.set()
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
    """A podcast whose third episode is a copy and whose fifth is absent, and a book of two chapters; bodies come in
    ten pieces.
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


def start(folder: Path, base_url: str) -> BaseProcess:
    """An ingest in a process of its own, which has begun its work."""
    context = multiprocessing.get_context("forkserver")
    started = context.Event()
    child = context.Process(target=ingest, args=(folder, base_url, started))
    child.start()
    assert started.wait(timeout=120)
    return child


def traces(folder: Path) -> dict[str, int]:
    """Size by path of all that lies there, finished or not."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.suffix != ".lock":
                found[str(path)] = path.stat().st_size
    return found


def killed_ingest(folder: Path, base_url: str, kills: int, whole_s: float, seed: int) -> tuple[int, int]:
    """Ingest into ``folder`` with ``kills`` kills at random moments: how many hit a process that had changed the
    corpus, and how many of those left something half done.
    """
    rng = random.Random(seed)
    effective = torn = 0
    for _ in range(kills):
        before = traces(folder)
        child = start(folder, base_url)
        while child.is_alive() and traces(folder) == before:
            time.sleep(0.002)
        # From its first deed on, each life gets a part of the time that all the work takes: kills fall all along it.
        child.join(rng.uniform(0.0, 1.0) * whole_s / kills)
        hit = child.is_alive()
        if hit:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        after = traces(folder)
        effective += hit and after != before
        torn += hit and after != before and any("/.tmp-" in name or "/state/partial/" in name for name in after)
    return effective, torn


def check(voices: list[np.ndarray], folder: Path, kills: int, seed: int) -> str:
    """Run both ways and compare; a sentence about it. `AssertionError` if they differ."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    with serving() as site:
        build_site(site, voices)
        child = start(folder / "whole", site.base_url)
        begin_s = time.monotonic()
        child.join()
        whole_s = time.monotonic() - begin_s
        assert child.exitcode == 0
        effective, torn = killed_ingest(folder / "killed", site.base_url, kills, whole_s, seed)
        ingest(folder / "killed", site.base_url)
    whole, killed = contents(folder / "whole"), contents(folder / "killed")
    num_clips = len(Corpus(str(folder / "whole")).clips())
    assert num_clips >= len(voices)
    assert killed == whole, sorted(set(killed.items()) ^ set(whole.items()))[:4]
    assert verify(Corpus(str(folder / "killed"))) == []
    assert effective >= kills / 2, f"only {effective} of {kills} kills came while there was something to break"
    return (
        f"{effective} of {kills} kills hit an ingest at work in {whole_s:.1f} s of work, {torn} of them left something "
        f"half done; {num_clips} clips, {len(whole)} files and rows are as without them"
    )


def make_voices(spoken, count: int) -> list[np.ndarray]:
    """Recordings of two sentences, with silence around each, and no two alike."""
    pause = np.zeros(18_000, np.float32)
    said = [np.concatenate([spoken(sentence), pause]) for sentence in SENTENCES]
    voices = [np.concatenate([pause, said[n % len(said)], said[(n + 1) % len(said)]]) for n in range(count)]
    return [voice * (1.0 - 0.05 * (n // len(said))) for n, voice in enumerate(voices)]


def test_a_killed_ingest_ends_as_an_undisturbed_one(spoken, tmp_path):
    kills, seed = (int(os.environ.get(f"TRIFORCE_KILL{name}", default)) for name, default in (("S", 5), ("_SEED", 1)))
    print(check(make_voices(spoken, max(4, kills // 2)), tmp_path, kills, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill an ingest at random moments and compare what it ends with.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ |= {"TRIFORCE_KILLS": str(options.kills), "TRIFORCE_KILL_SEED": str(options.seed)}
    sys.exit(pytest.main(["-q", "-s", __file__]))


if __name__ == "__main__":
    main()
