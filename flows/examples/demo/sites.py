"""Three sites made of the demo's speech: a podcast, an audiobook library and video pages, as the web has them.

Below one folder::

    podcast/feed.xml.in, podcast/episode-01.mp3 ...        RSS 2.0 with the itunes tags
    library/books.json.in, library/chapter-01.mp3 ...      the LibriVox API's JSON
    videos/talk-01.html.in, videos/talk-01.webm ...        HTML5 pages with Opus in WebM
    sites.json                                             written last: what is there

A ``.in`` file is a template that `triforce.flows.examples.demo.serve_sites` puts the server's address into. The same
speech gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import numpy as np

from triforce.flows.examples.demo import pages
from triforce.flows.examples.demo.pages import Programme
from triforce.flows.examples.demo.speech import Prompt, SpeechDataset, shuffled
from triforce.ingest import storage
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ
from triforce.ingest.media.encode import write_published

SHARES = {"podcast": 0.40, "library": 0.35, "videos": 0.25}
"""Share of the speech that each site publishes."""
TARGET_S = {"podcast": 240.0, "library": 150.0, "videos": 150.0}
"""Approximate length of an episode, a chapter and a video. Assumed; a site has at least two."""
NAMES = {"podcast": ("episode", ".mp3"), "library": ("chapter", ".mp3"), "videos": ("talk", ".webm")}
PAUSE_S = (0.7, 1.5)
"""Shortest and longest pause between two prompts."""
FIRST_PUBLISHED = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)


def lay_out_sites(speech: SpeechDataset, folder: Path) -> dict[str, list[Programme]]:
    """Write the three sites below ``folder``, unless they are there for the same speech; return programmes by site."""
    key = _speech_key(speech)
    index = folder / "sites.json"
    if index.exists():
        written = json.loads(index.read_text())
        if written["speech"] == key:
            return {site: [Programme(**row) for row in rows] for site, rows in written["programmes"].items()}
        index.unlink()  # other speech than before: half-new sites must not count as complete
    programmes = {site: _write_site(site, prompts, folder / site) for site, prompts in _divide(speech.training).items()}
    for path, text in pages.templates(programmes, speech).items():
        storage.write_bytes(folder / path, text.encode())
    rows = {site: [programme.__dict__ for programme in listed] for site, listed in programmes.items()}
    storage.write_bytes(index, json.dumps({"speech": key, "programmes": rows}, indent=1).encode())
    return programmes


def _speech_key(speech: SpeechDataset) -> str:
    rows = [(prompt.name, round(prompt.duration_s, 3)) for prompt in speech.training]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def _divide(prompts: list[Prompt]) -> dict[str, list[Prompt]]:
    """Return each site's prompts: its share of the seconds, in the order of their names' hashes."""
    total_s = sum(prompt.duration_s for prompt in prompts)
    shares: dict[str, list[Prompt]] = {site: [] for site in SHARES}
    filled = dict.fromkeys(SHARES, 0.0)
    for prompt in shuffled(prompts):
        # The site that is furthest behind its share: with few, long files every site still gets one.
        site = min(SHARES, key=lambda name: filled[name] / (SHARES[name] * total_s))
        shares[site].append(prompt)
        filled[site] += prompt.duration_s
    return shares


def _write_site(site: str, prompts: list[Prompt], folder: Path) -> list[Programme]:
    stem, ending = NAMES[site]

    def publish(number: int, group: list[Prompt]) -> Programme:
        name = f"{stem}-{number:02d}"
        title = f"{pages.TITLES[site]}, {stem} {number}"
        with storage.atomic_file(folder / f"{name}{ending}") as path:
            duration_s = write_published(path, _with_pauses(group, seed=name), title=title, ending=ending)
            num_bytes = path.stat().st_size
        published = format_datetime(FIRST_PUBLISHED + timedelta(weeks=number - 1))
        return Programme(name, number, title, f"{name}{ending}", round(duration_s, 3), num_bytes, published)

    groups = list(_groups(prompts, TARGET_S[site]))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # the encoders run outside of Python's lock
        return list(pool.map(publish, range(1, len(groups) + 1), groups))


def _groups(prompts: list[Prompt], target_s: float) -> Iterator[list[Prompt]]:
    """Yield the prompts in order, in groups of about ``target_s``: at least two, where there are two prompts."""
    pause_s = sum(PAUSE_S) / 2
    total_s = sum(prompt.duration_s + pause_s for prompt in prompts)
    count = min(len(prompts), max(2, round(total_s / target_s)))
    group: list[Prompt] = []
    done_s, closed = 0.0, 0
    for i, prompt in enumerate(prompts):
        group.append(prompt)
        done_s += prompt.duration_s + pause_s
        left = len(prompts) - i - 1
        # Close at the share that is due, or when the prompts that are left just suffice for the groups that are left.
        if done_s >= (closed + 1) * total_s / count or left == count - closed - 1:
            yield group
            group, closed = [], closed + 1
    if group:
        yield group


def _with_pauses(prompts: list[Prompt], seed: str) -> Iterator[np.ndarray]:
    """Yield the prompts' samples with a pause after each, whose length depends on the seed and the prompt's name."""
    for prompt in prompts:
        yield from prompt.pieces()
        draw = int.from_bytes(hashlib.sha256(f"{seed}/{prompt.name}".encode()).digest()[:4], "big") / 2**32
        yield np.zeros(round((PAUSE_S[0] + draw * (PAUSE_S[1] - PAUSE_S[0])) * SAMPLE_RATE_HZ), np.float32)
