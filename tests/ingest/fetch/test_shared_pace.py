"""Processes that fetch from one host keep its pace and its connections together, also when one of them is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from triforce.ingest import storage
from triforce.ingest.config import Settings, load_sources
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.pace.host import host_of

WORKER = """
import sys
from triforce.ingest.config import Settings
from triforce.ingest.fetch.web import get_document

settings = Settings.model_validate_json(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for url in sys.argv[2:]:
    get_document(url, settings)
    print("done", flush=True)
"""


@pytest.fixture(params=["folder", "object store"])
def place(request, tmp_path) -> str:
    return (
        str(tmp_path / "pace") if request.param == "folder" else f"{request.getfixturevalue('bucket')}/{uuid.uuid4()}"
    )


def shared(settings: Settings, place: str, **values) -> Settings:
    return settings.model_copy(update={"shared_pace": place, **values})


def start(settings: Settings, urls: list[str]) -> subprocess.Popen:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, settings.model_dump_json(), *urls],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout.readline() == "ready\n"
    return worker


def let_go(*workers: subprocess.Popen) -> None:
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()


class Watch:
    """When the site was asked, and by how many at once."""

    def __init__(self, hold_s: float = 0.0):
        self.begun_s: list[float] = []
        self.ended_s: list[float] = []
        self._hold_s = hold_s

    def __call__(self, handler, before: int) -> bool:
        self.begun_s.append(time.monotonic())
        time.sleep(self._hold_s)
        handler.answer(200, b"text")
        self.ended_s.append(time.monotonic())
        return True

    def most_at_once(self) -> int:
        events = sorted([(time_s, 1) for time_s in self.begun_s] + [(time_s, -1) for time_s in self.ended_s])
        return max(sum(change for _, change in events[: index + 1]) for index in range(len(events)))


def test_two_processes_keep_the_pace_of_a_host_together(site, settings, place):
    watch = Watch()
    url = site.put("/text", script=watch)
    ours = shared(settings, place, requests_per_s=10.0, connections_per_host=2, lease_s=5.0)
    workers = [start(ours, [url] * 8) for _ in range(2)]
    let_go(*workers)
    assert [worker.wait(60) for worker in workers] == [0, 0]
    begun_s = sorted(watch.begun_s)
    assert len(begun_s) == 16
    assert begun_s[-1] - begun_s[0] >= 15 / 10.0 - 0.2
    assert all(later - earlier >= 5 / 10.0 - 0.2 for earlier, later in zip(begun_s, begun_s[5:], strict=False))


def test_a_connection_is_held_for_as_long_as_it_is_used_and_longer_than_a_lease(site, settings, place):
    watch = Watch(hold_s=1.7)
    url = site.put("/long", script=watch)
    ours = shared(settings, place, connections_per_host=1, lease_s=1.0)
    workers = [start(ours, [url]) for _ in range(2)]
    let_go(*workers)
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert watch.most_at_once() == 1
    assert max(watch.begun_s) - min(watch.ended_s) < 2.2, "it was given back, and not left to end"


def test_what_a_killed_process_held_is_free_after_its_lease(site, settings, place):
    held, watch = Watch(hold_s=8.0), Watch()
    url, other = site.put("/held", script=held), site.put("/text", script=watch)
    ours = shared(settings, place, connections_per_host=1, lease_s=2.0)
    killed, lives = start(ours, [url]), start(ours, [other, other])
    let_go(killed)
    while not held.begun_s:
        time.sleep(0.01)
    let_go(lives)
    time.sleep(2.5)
    assert not watch.begun_s, "the only connection is held"
    killed.send_signal(signal.SIGKILL)
    killed_s = time.monotonic()
    assert lives.wait(60) == 0
    assert watch.begun_s[0] - killed_s < 1.5 * 2.0 + 2.0  # at the longest, and two of the longest waits between looks
    assert len(watch.begun_s) == 2


def test_all_must_agree(settings, place):
    first = shared(settings, place, requests_per_s=4.0)
    host_of("http://one.example.org/", first).wait_for_turn()
    with pytest.raises(ValueError, match=r"'requests_per_s': 8.0.*'requests_per_s': 4.0.*agreement.json"):
        host_of("http://two.example.org/", shared(settings, place, requests_per_s=8.0))


def test_of_many_that_make_a_file_one_does(place):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: storage.create(f"{place}/a/file", str(n).encode()), range(8)))
    assert made.count(True) == 1
    assert storage.read_bytes(f"{place}/a/file") == str(made.index(True)).encode()


def test_a_place_that_cannot_be_used_is_a_passing_failure(settings, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Rejected, match="shared pace") as caught:
        host_of("http://example.org/", shared(settings, str(tmp_path / "file")))
    assert caught.value.reason.transient


def test_turns_that_have_passed_are_not_kept(settings, tmp_path):
    host = host_of("http://example.org/", shared(settings, str(tmp_path / "pace"), requests_per_s=200.0))
    for _ in range(60):
        host.wait_for_turn()
    [folder] = [path for path in (tmp_path / "pace").iterdir() if path.is_dir()]
    assert len(list((folder / "turns").iterdir())) < 30


def test_a_path_is_relative_to_the_file(tmp_path):
    file = tmp_path / "sources.yaml"
    file.write_text(
        "contact: tests@example.org\nshared_pace: pace\n"
        "sources: [{name: a, kind: podcast, feeds: ['https://example.org/feed']}]\n"
    )
    assert load_sources(str(file)).settings.shared_pace == str(tmp_path / "pace")


def test_a_clock_that_is_far_ahead_is_named_and_waited_for_by_nobody(settings, tmp_path):
    host = host_of("http://ahead.example/", shared(settings, str(tmp_path), requests_per_s=4.0, lease_s=5.0))
    host.wait_for_turn()
    [turns] = tmp_path.glob("*/turns")
    (turns / str(int((time.time() + 3600) * 4))).write_bytes(b"")
    with pytest.raises(Rejected, match=r"turns: turns are taken 3[56]\d\d s ahead.*clock"):
        host.wait_for_turn()
