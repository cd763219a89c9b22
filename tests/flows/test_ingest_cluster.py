"""The flow ``ingest`` from end to end: cut on a real Ray cluster, one node of which dies, and seen in the dashboard."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import io
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import soundfile
import yaml

from triforce.flows.jobs import environment
from triforce.ingest.corpus.store import Corpus

NUM_EPISODES = 4


class Handler(http.server.SimpleHTTPRequestHandler):
    """A folder's files, and 429 for all that is called blocked."""

    def do_GET(self):
        if "blocked" in self.path:
            self.send_error(429)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory):
    from prefect.testing.utilities import prefect_test_harness

    environment.prepare()
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def cluster(prefect_home):
    """A head and a second node, each with a raylet, an object store and workers of its own."""
    os.environ |= {"RAY_raylet_start_wait_time_s": "240"}  # 30 s by default, too little on a busy machine
    from ray.cluster_utils import Cluster

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    head = {"num_cpus": 1, "include_dashboard": False, "ray_client_server_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        cluster.client_address = f"ray://127.0.0.1:{port}"
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def programme(tmp_path, spoken):
    """A site's folder with a feed of spoken episodes, one of them absent; give it an address to write the sources."""
    site = tmp_path / "site"
    site.mkdir()
    voice = spoken("The ferry leaves the north harbour at seven, and it does not wait for anyone.")
    for number in range(NUM_EPISODES - 1):
        file = io.BytesIO()
        soundfile.write(file, voice * (1 - 0.1 * number), 24_000, format="FLAC")  # no two are duplicates
        (site / f"{number}.flac").write_bytes(file.getvalue())

    def write_sources(base_url: str, *feeds: str) -> str:
        items = "".join(
            f"<item><guid>episode-{n}</guid><title>Episode {n}</title>"
            f'<enclosure url="{base_url}/{n}.flac" type="audio/flac" length="1"/></item>'
            for n in range(NUM_EPISODES)
        )
        (site / "feed.xml").write_text(f'<rss version="2.0"><channel><title>Talk</title>{items}</channel></rss>')
        source = {"name": "talk", "kind": "podcast", "feeds": [f"{base_url}/{feed}" for feed in feeds or ["feed.xml"]]}
        config = {"contact": "test@example.org", "allow_private_hosts": True, "tries": 1, "sources": [source]}
        (tmp_path / "sources.yaml").write_text(yaml.safe_dump(config))
        return str(tmp_path / "sources.yaml")

    return site, write_sources


def _artifacts(key: str) -> list:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    async def read():
        async with get_client() as client:
            return await client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))

    return asyncio.run(read())


def _kill_when_it_works(node, killed: list[str], stop: threading.Event) -> None:
    """As if the node's plug were pulled: SIGKILL to its raylet once one of its workers has a recording in hand."""
    [raylet] = [found.process for kind, found in node.all_processes.items() if kind == "raylet" for found in found]
    while not stop.wait(0.05):
        with contextlib.suppress(psutil.NoSuchProcess):
            workers = psutil.Process(raylet.pid).children(recursive=True)
            titles = [" ".join(worker.cmdline()) for worker in workers]
            if at_work := [title for title in titles if "clip talk/" in title]:
                os.kill(raylet.pid, signal.SIGKILL)
                killed += at_work
                return


CLIPS = {"transcribe": {"model": "tiny.en", "beam_size": 1, "language": "en"}}


def _files(corpus: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in corpus.glob("clips/source=talk/*")}


@pytest.mark.slow
def test_recordings_are_cut_by_the_cluster_though_a_node_dies(cluster, programme, tmp_path, monkeypatch):
    """From one of its machines, then from outside over ``ray://`` while a node dies with a recording in its hands."""
    import triforce.flows.jobs.clipping as clipping
    from triforce.flows.ingest import ingest

    def not_here(*_):
        raise AssertionError("a recording was cut in the flow's own process")

    monkeypatch.setattr(clipping, "clip_recording", not_here)  # workers import the true one
    monkeypatch.chdir(tmp_path)
    site, write_sources = programme
    killed: list[str] = []
    stop = threading.Event()
    [second] = cluster.worker_nodes
    with serve(site) as base_url:
        [row] = ingest("podcast", write_sources(base_url), "corpus", CLIPS, ray_cluster=cluster.address)
        assert (row["in"], row["fetched"], row["rejected"]) == (NUM_EPISODES, NUM_EPISODES - 1, "1: 1 not_found")
        rows = Corpus(str(tmp_path / "corpus")).clips().to_pylist()
        assert len({clip["recording_id"] for clip in rows}) == NUM_EPISODES - 1
        assert all("harbour" in clip["text"] or "anyone" in clip["text"] for clip in rows)
        [bar] = _artifacts("progress-talk")
        assert (bar.type, bar.data) == ("progress", 100.0)
        assert bar.description.startswith(f"{NUM_EPISODES} of {NUM_EPISODES} recordings; 3 fetched, 0 duplicates")

        killer = threading.Thread(target=_kill_when_it_works, args=(second, killed, stop))
        killer.start()
        try:
            [row] = ingest("podcast", write_sources(base_url), "again", CLIPS, ray_address=cluster.client_address)
        finally:
            stop.set()
            killer.join()
    assert killed, "the second node never had a recording in hand"
    assert (row["fetched"], row["rejected"]) == (NUM_EPISODES - 1, "1: 1 not_found")
    assert _files(tmp_path / "again") == _files(tmp_path / "corpus")


def _kill_next_client_server(killed: list[int], stop: threading.Event) -> None:
    """SIGKILL to the first process that comes up to serve a client of ``ray://``."""
    while not killed and not stop.wait(0.02):
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "specific-server" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(process.pid)
                    break


@pytest.mark.slow
def test_a_server_that_dies_as_it_starts_is_asked_for_again(cluster):
    import triforce.flows.jobs.clipping as clipping
    from triforce.ingest.clips.clip_recording import ClipConfig

    killed: list[int] = []
    stop = threading.Event()
    killer = threading.Thread(target=_kill_next_client_server, args=(killed, stop))
    killer.start()
    try:
        with clipping.connected(cluster.client_address, ClipConfig()) as slots:
            assert slots >= 2
    finally:
        stop.set()
        killer.join()
    assert killed, "no server was started"


@pytest.mark.slow
def test_a_recording_that_never_comes_back_is_given_up(cluster, tmp_path, monkeypatch):
    import triforce.flows.jobs.clipping as clipping
    from triforce.ingest.clips.clip_recording import ClipConfig
    from triforce.ingest.corpus.records import Recording

    monkeypatch.setattr(clipping, "clip_here", lambda *_: time.sleep(600))
    monkeypatch.setattr(clipping, "TIMEOUT_S", 3.0)
    recording = Recording("0" * 16, "talk", "podcast", "x", "https://example.org/x")
    with clipping.connected(cluster.address, ClipConfig()), pytest.raises(TimeoutError, match="not done after 3 s"):
        clipping.clip_on_cluster(recording, Corpus(str(tmp_path)), ClipConfig())


@pytest.mark.slow
def test_one_recording_that_breaks_us_is_counted_and_the_rest_come_in(prefect_home, programme, tmp_path, monkeypatch):
    import triforce.flows.ingest as flow
    import triforce.flows.jobs.clipping as clipping

    def cut(recording, *arguments):
        if recording.title == "Episode 1":
            raise MemoryError("no room for it")
        return clip_recording(recording, *arguments)

    clip_recording = clipping.clip_recording
    monkeypatch.setattr(clipping, "clip_recording", cut)
    monkeypatch.setattr(flow.clip, "retries", 0)
    site, write_sources = programme
    with serve(site) as base_url:
        [row] = flow.ingest("podcast", write_sources(base_url), str(tmp_path / "corpus"), CLIPS)
    assert row["rejected"] == "2: 1 not_found, 1 error"
    assert row["clips"] == len(Corpus(str(tmp_path / "corpus")).clips())


@pytest.mark.slow
def test_a_block_during_discovery_fails_the_run_and_says_why(prefect_home, programme, tmp_path):
    from triforce.flows.ingest import IngestError, ingest

    site, write_sources = programme
    with serve(site) as base_url, pytest.raises(IngestError, match=r"talk: nothing could be read: .*429"):
        ingest("podcast", write_sources(base_url, "blocked.xml"), str(tmp_path / "corpus"))
    bar = max(_artifacts("progress-talk"), key=lambda artifact: artifact.created)  # the tests share a database
    assert bar.description.startswith("could not be read: ")
    assert "429" in bar.description


@pytest.mark.slow
def test_a_source_that_breaks_us_stops_no_other(prefect_home, programme, tmp_path, monkeypatch):
    import triforce.flows.ingest as flow

    site, write_sources = programme
    submit = flow.unclipped

    def full(source, corpus):
        if source == "first":
            raise OSError(28, "No space left on device")
        return submit(source, corpus)

    monkeypatch.setattr(flow, "unclipped", full)
    with serve(site) as base_url:
        place = Path(write_sources(base_url))
        config = yaml.safe_load(place.read_text())
        config["sources"] = [config["sources"][0] | {"name": name, "max_new": 1} for name in ("first", "second")]
        place.write_text(yaml.safe_dump(config))
        with pytest.raises(flow.IngestError, match=r"^first: the run broke off: OSError: .*No space left on device$"):
            flow.ingest("podcast", str(place), str(tmp_path / "corpus"), CLIPS)
    assert len(Corpus(str(tmp_path / "corpus")).clipped_ids("second")) == 1
