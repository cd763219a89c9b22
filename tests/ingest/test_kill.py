"""The ingest of the demo's sites, killed again and again, ends as one that nobody disturbed.

The suite kills it five times, with few recordings and without Whisper. As a program it uses the demo's own speech and
the flow as users run it, Prefect and Whisper included: ``python tests/ingest/test_kill.py --kills 20``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import soundfile
import yaml
from sync_loop import sync_source

from triforce.flows.examples.demo import serve_sites
from triforce.flows.examples.demo.sites import lay_out_sites
from triforce.flows.examples.demo.sources import write_sources
from triforce.flows.examples.demo.speech import Prompt, SpeechDataset, obtain_speech
from triforce.ingest.clips.clip_recording import ClipConfig, clip_recording
from triforce.ingest.config import load_sources
from triforce.ingest.corpus.records import Status
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.verify import verify
from triforce.ingest.media.decode import probe_duration_s

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "She sells sea shells by the sea shore, every day of the week.",
    "Nothing is lost, and nothing is there twice.",
    "A killed process leaves finished files and nothing else.",
)

PRELOADED = [
    "triforce.ingest.clips.clip_recording",
    "triforce.ingest.sync",
    "triforce.ingest.corpus.verify",
    "yt_dlp",
    "soundfile",
]
"""What each life needs, imported once: otherwise kills fall into imports, where there is nothing to break."""

PIECE_PAUSE_S = 0.05
"""Between two pieces of a body, 64 kB: slow enough to be killed in the middle of a download."""

Ingest = Callable[[Path, str], None]
"""Brings the corpus in a folder up to date with the sources in a file."""


def ingest_plainly(corpus_folder: Path, sources: str) -> None:
    """All sources, then the clips of all that is fetched, one after the other and without words."""
    corpus, config = Corpus(str(corpus_folder)), load_sources(sources)
    for source in config.sources:
        sync_source(source, config.settings, corpus)
        clipped = corpus.clipped_ids(source.name)
        for row in corpus.recordings(source.name):
            if row.status == Status.FETCHED and row.recording_id not in clipped:
                clip_recording(row, corpus, ClipConfig(), None)


def ingest_by_flow(corpus_folder: Path, sources: str) -> None:
    """As ``triforce ingest podcast``, ``audiobook`` and ``youtube`` do."""
    from triforce.flows.jobs import environment

    os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
    environment.prepare(corpus_folder.parent / f"prefect-{corpus_folder.name}")
    from triforce.flows.ingest import ingest

    clips = {"transcribe": {"model": "tiny.en", "language": "en", "beam_size": 1}}
    for kind in ("podcast", "audiobook", "youtube"):
        ingest(kind, sources, str(corpus_folder), clips)


def live(ingest: Ingest, folder: Path, sources: str, started: Event) -> None:
    """What a child process does, in a session of its own, so that a kill takes its children too."""
    os.setsid()
    started.set()
    ingest(folder, sources)


@contextlib.contextmanager
def serving(speech: SpeechDataset, folder: Path) -> Iterator[str]:
    """The demo's three sites at their slow server, and a feed of copies; the path of a ``sources.yaml`` for all."""
    sites = folder / "sites"
    lay_out_sites(speech, sites)
    first = sorted((sites / "podcast").glob("episode-*.mp3"))[0].name
    shutil.copy(sites / "podcast" / first, sites / "podcast" / "copy.mp3")
    with serve_sites.serve(sites) as base_url:
        urls = [f"{base_url}/podcast/{name}" for name in (f"{first}?utm_source=again", "copy.mp3", "absent.mp3")]
        items = "".join(
            f'<item><guid>copy-{n}</guid><enclosure url="{url}" type="audio/mpeg" length="1"/></item>'
            for n, url in enumerate(urls)
        )
        (sites / "copies.xml").write_text(f'<rss version="2.0"><channel><title>Copies</title>{items}</channel></rss>')
        path = write_sources(folder, base_url)
        document = yaml.safe_load(path.read_text()) | {"requests_per_s": 1000, "max_failed_share": 1.0}
        document["sources"].insert(1, {"name": "copies", "kind": "podcast", "feeds": [f"{base_url}/copies.xml"]})
        path.write_text(yaml.safe_dump(document))
        yield str(path)


def slowly(app):
    """The demo's web application, sending its bodies with pauses."""

    async def slow(scope, receive, send):
        async def send_slowly(message):
            await send(message)
            if message["type"] == "http.response.body" and message.get("more_body"):
                await asyncio.sleep(PIECE_PAUSE_S)

        await app(scope, receive, send_slowly)

    return slow


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


def start(ingest: Ingest, folder: Path, sources: str) -> BaseProcess:
    """An ingest in a process of its own, which has begun its work."""
    context = multiprocessing.get_context("forkserver")
    started = context.Event()
    child = context.Process(target=live, args=(ingest, folder, sources, started))
    child.start()
    assert started.wait(timeout=300)
    return child


def finish(child: BaseProcess) -> None:
    """Wait for an ingest that nobody disturbs, and end the server that Prefect may have left running beside it."""
    child.join()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    assert child.exitcode == 0


def traces(folder: Path) -> dict[str, int]:
    """Size by path of all that lies there, finished or not."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.suffix != ".lock":
                found[str(path)] = path.stat().st_size
    return found


def live_and_die(ingest: Ingest, folder: Path, sources: str, life_s: float) -> tuple[bool, bool]:
    """Kill an ingest ``life_s`` after its first deed: whether it was still at work, and left something half done."""
    before = traces(folder)
    child = start(ingest, folder, sources)
    while child.is_alive() and traces(folder) == before:
        time.sleep(0.002)
    child.join(life_s)
    hit = child.is_alive()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # also what an ended one may have left
    child.join()
    after = traces(folder)
    hit = hit and after != before
    changed = [name for name, size in after.items() if before.get(name) != size]
    return hit, hit and any("/.tmp-" in name or "/state/partial/" in name for name in changed)


def killed_ingests(
    ingest: Ingest, folder: Path, sources: str, kills: int, whole_s: float, seed: int
) -> tuple[list[Path], int]:
    """Ingest below ``folder`` until ``kills`` kills hit an ingest at work: the corpora, and how many left it torn.

    Where one is complete before that, as a busy machine may make of it, another is begun.
    """
    rng = random.Random(seed)
    places: list[Path] = []
    hits = torn = 0
    hit = False
    for _ in range(5 * kills):
        if hits == kills:
            return places, torn
        if not hit:
            places.append(folder / f"killed-{len(places)}")
            places[-1].mkdir()
        # From its first deed on, each life gets a part of the time that all the work takes: kills fall all along it.
        hit, is_torn = live_and_die(ingest, places[-1], sources, rng.uniform(0.0, 1.0) * whole_s / kills)
        hits, torn = hits + hit, torn + is_torn
    raise AssertionError(f"only {hits} of {5 * kills} kills came while there was something to break")


def check(ingest: Ingest, speech: SpeechDataset, folder: Path, kills: int, seed: int) -> str:
    """Run both ways and compare; a sentence about it. `AssertionError` if they differ."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    with serving(speech, folder) as sources:
        child = start(ingest, folder / "whole", sources)
        begin_s = time.monotonic()
        finish(child)
        whole_s = time.monotonic() - begin_s
        places, torn = killed_ingests(ingest, folder, sources, kills, whole_s, seed)
        for place in places:
            finish(start(ingest, place, sources))
    whole = contents(folder / "whole")
    rows = list(Corpus(str(folder / "whole")).recordings())
    assert {row.reason for row in rows if row.source == "copies"} == {"duplicate_url", "duplicate_bytes", "not_found"}
    fetched = {kind: sum(row.status == Status.FETCHED for row in rows if row.source_kind == kind) for kind in KINDS}
    assert min(fetched.values()) >= 2
    clips = Corpus(str(folder / "whole")).clips().to_pylist()
    assert {clip["recording_id"] for clip in clips} == {row.recording_id for row in rows if row.media_path}
    for place in places:
        killed = contents(place)
        assert killed == whole, sorted(set(killed.items()) ^ set(whole.items()))[:4]
        assert verify(Corpus(str(place))) == []
    return (
        f"{kills} kills hit an ingest at work in {whole_s:.1f} s of work, {torn} of them left something half done; "
        f"{json.dumps(fetched)}, {len(clips)} clips: {len(whole)} files and rows are as without them"
    )


KINDS = ("podcast", "audiobook", "youtube")


def spoken_speech(spoken, folder: Path) -> SpeechDataset:
    """Eight prompts of the synthetic voice, enough for two recordings at each site."""
    prompts = []
    for number in range(8):
        text = SENTENCES[number % len(SENTENCES)]
        path = folder / f"prompt-{number}.flac"
        soundfile.write(path, spoken(text) * (1.0 - 0.1 * (number // len(SENTENCES))), 24_000)
        prompts.append(Prompt(path.stem, path, text, probe_duration_s(path)))
    return SpeechDataset(prompts, [], origin="a test", author="Joe", licence="CC0 1.0")


def test_a_killed_ingest_ends_as_an_undisturbed_one(spoken, tmp_path, monkeypatch):
    monkeypatch.setattr(serve_sites, "make_app", lambda folder, make=serve_sites.make_app: slowly(make(folder)))
    (tmp_path / "prompts").mkdir()
    print(check(ingest_plainly, spoken_speech(spoken, tmp_path / "prompts"), tmp_path, kills=5, seed=1))


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill an ingest at random moments and compare what it ends with.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="Without Prefect and Whisper: two minutes, not twenty.")
    options = parser.parse_args()
    serve_sites.make_app = partial(lambda make, folder: slowly(make(folder)), serve_sites.make_app)
    with tempfile.TemporaryDirectory() as folder:
        speech = obtain_speech(Path(folder) / "speech")
        ingest = ingest_plainly if options.plain else ingest_by_flow
        print(check(ingest, speech, Path(folder), options.kills, options.seed))


if __name__ == "__main__":
    main()
