"""A user's environment: names that are no UTF-8, links, a C locale, no home, a strict umask, a full disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sync_loop import sync_source

from triforce.ingest.config import AudiobookSource, PodcastSource
from triforce.ingest.corpus.stats import list_recordings, stats
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.verify import verify
from triforce.ingest.local_files import ImportConfig, import_folder

HERE = Path(__file__).parent


def podcast(site, make_feed, sound, count: int, duration_s: float = 1.0) -> PodcastSource:
    items = [(f"g{n}", site.put(f"/{n}.wav", sound(n, duration_s, "WAV"))) for n in range(count)]
    return PodcastSource(name="talk", feeds=[site.put("/feed.xml", make_feed(items))])


@pytest.mark.parametrize("name", ["my corpus", "körpus #1 %20 [x]&?", "~home*", "C:x", "-o"])
def test_a_corpus_may_have_any_name(site, settings, make_feed, sound, tmp_path, name):
    corpus = Corpus(str(tmp_path / name))
    assert sync_source(podcast(site, make_feed, sound, 2), settings, corpus).fetched == 2
    assert os.listdir(tmp_path) == [name]
    assert len(list(list_recordings(corpus))) == stats(corpus)["total"].recordings["fetched"] == 2
    assert verify(corpus) == []


@pytest.mark.parametrize("name", [b"a::b", b"gr\xfc\xdfe"])
def test_a_corpus_that_a_library_would_put_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="rename"):
        Corpus(os.path.join(tmp_path, os.fsdecode(name)))


def test_a_corpus_may_lie_behind_links(site, settings, make_feed, sound, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "corpus").symlink_to("disk")
    corpus = Corpus(str(tmp_path / "corpus"))
    assert sync_source(podcast(site, make_feed, sound, 2), settings, corpus).fetched == 2
    assert (tmp_path / "corpus").is_symlink()
    assert verify(Corpus(str(tmp_path / "disk"))) == []


def test_folders_of_books_may_hold_links_and_any_names(settings, corpus, sound, tmp_path):
    shelf, disk = tmp_path / "shelf", tmp_path / "disk"
    for folder in (shelf, disk / "author"):
        folder.mkdir(parents=True)
    (disk / "author" / "linked.flac").write_bytes(sound(1))
    (shelf / "author").symlink_to(disk / "author")
    (disk / "author" / "circle").symlink_to(shelf)
    (shelf / "file.flac").symlink_to(disk / "author" / "linked.flac")
    for number, name in enumerate((b"gr\xfc\xdfe.flac", b"gr\xfe\xdfe.flac", b"a #1 %41?.flac"), start=2):
        Path(os.fsdecode(os.fsencode(shelf) + b"/" + name)).write_bytes(sound(number))
    source = AudiobookSource(name="own", library="folder", path=str(shelf))
    summary = sync_source(source, settings, corpus)
    assert (summary.fetched, summary.duplicates, summary.rejected) == (4, 1, {})
    ids = {row.source_id for row in corpus.recordings()}
    assert ids == {"author/linked.flac", "file.flac", "gr\\xfc\\xdfe.flac", "gr\\xfe\\xdfe.flac", "a #1 %41?.flac"}
    assert sync_source(source, settings, corpus).discovered == 0


def test_files_of_any_name_are_imported(corpus, sound, tmp_path):
    for number, name in enumerate((b"\xfc.wav", b"\xfe.wav", "ü #1.wav".encode())):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(sound(number, format="WAV"))
    config = ImportConfig(modality="music", source="songs")
    assert import_folder(corpus, tmp_path, config) == {"new": 3, "known": 0, "rejected": 0, "clips": 3}
    assert import_folder(corpus, tmp_path, config)["known"] == 3


SYNC = """
import json, os, sys
sys.path[:0] = [os.environ["TESTS"]]
if os.environ.get("UMASK"):
    os.umask(int(os.environ["UMASK"], 8))
from sync_loop import sync_source
from triforce.ingest.config import PodcastSource, Settings
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.verify import verify

settings = Settings(contact="a@b.org", allow_private_hosts=True, requests_per_s=1000, min_duration_s=0.1)
corpus = Corpus(sys.argv[1])
try:
    summary = sync_source(PodcastSource(name="talk", feeds=[sys.argv[2]]), settings, corpus)
except OSError as error:
    print("failed:", error)
    sys.exit(f"{len(verify(corpus))} faults")
print(summary.fetched, len(verify(corpus)))
"""


def run(arguments: list[str], environment: dict[str, str], *, before: list[str] | None = None):
    own = {name: value for name, value in os.environ.items() if name not in ("HOME", "LANG", "LC_ALL")}
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TESTS": str(HERE)}
    command = [*(before or []), sys.executable, "-c", SYNC, *arguments]
    return subprocess.run(command, env=own | paths | environment, capture_output=True, timeout=120)


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "UMASK": "077"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HOME": "/proc/nowhere"},
    ],
    ids=["no home, C locale, umask 077", "no writable home, ASCII"],
)
def test_a_bare_environment_is_enough(site, make_feed, sound, tmp_path, environment):
    site.put("/%C3%BC.flac", sound(1))
    feed = site.put("/feed.xml", make_feed([("gü", f"{site.base_url}/ü.flac")], title="Grüße"))
    done = run([str(tmp_path / "a corpus"), feed], environment)
    assert done.stdout.split() == [b"1", b"0"], done.stderr
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "a corpus").rglob("*")}
    assert modes == {0} or "UMASK" not in environment


def test_a_full_disk_is_told_and_nothing_half_written_is_believed(site, make_feed, sound, tmp_path):
    """On a disk of a megabyte for six files of a quarter; then on one with room for them."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk: unshare -rm")
    source = podcast(site, make_feed, sound, 6, duration_s=8.0)
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=1m small {disk} && "$@"; code=$?; cp -r {disk}/. {kept}; exit $code'
    done = run([str(disk), source.feeds[0]], {}, before=["unshare", "-rm", "sh", "-c", script, "sh"])
    assert done.stderr.strip() == b"0 faults"
    assert done.returncode == 1
    message = done.stdout.decode()
    assert "No space left on device: free some, then run the same command again" in message
    assert str(disk) in message
    fetched = len(list((kept / "recordings" / "source=talk").glob("*.wav")))
    assert 1 <= fetched < 6
    assert not list(kept.rglob(".tmp-*"))
    done = run([str(kept), source.feeds[0]], {})
    assert done.stdout.split() == [str(6 - fetched).encode(), b"0"], done.stderr
    shutil.rmtree(kept)
