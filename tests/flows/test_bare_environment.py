"""The commands of ingest in an environment that gives them little: no home, C locale, a proxy, a strict umask."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import soundfile
import yaml

from triforce.flows.jobs import environment

COMMAND = str(Path(sys.executable).with_name("triforce"))


@pytest.fixture
def bare(tmp_path) -> dict[str, str]:
    """The environment: nothing answers at the proxy, and nothing can be written at home."""
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    (tmp_path / "tmp").mkdir()
    own = {"HOME": "/proc/nowhere", "LC_ALL": "C", "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}
    return own | proxies | {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}


@pytest.fixture
def sources(tmp_path, spoken) -> Path:
    """A file of sources with a feed of one spoken episode, on loopback."""
    root = tmp_path / "site"
    root.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(root))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    sound = io.BytesIO()
    soundfile.write(sound, spoken("The river bends twice before it reaches the old mill."), 24_000, format="FLAC")
    (root / "1.flac").write_bytes(sound.getvalue())
    item = f'<item><guid>1</guid><title>Grüße</title><enclosure url="{address}/1.flac"/></item>'
    (root / "feed.xml").write_text(f"<rss><channel>{item}</channel></rss>", encoding="utf-8")
    path = tmp_path / "the sources.yaml"
    feed = {"name": "talk", "kind": "podcast", "feeds": [f"{address}/feed.xml"]}
    path.write_text(yaml.safe_dump({"contact": "a@b.org", "allow_private_hosts": True, "sources": [feed]}))
    yield path
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_feed_becomes_clips_in_a_bare_environment(bare, sources, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "my corpus").symlink_to("disk")

    def triforce(*arguments: str) -> str:
        done = subprocess.run([COMMAND, *arguments], env=bare, capture_output=True, timeout=300, umask=0o077)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8")

    corpus = str(tmp_path / "my corpus")
    shown = triforce("ingest", "podcast", "--sources", str(sources), "--corpus", corpus)
    assert shown.splitlines()[1].split()[:4] == ["talk", "1", "1", "0"]
    assert "Grüße" in triforce("corpus", "ls", corpus)
    assert triforce("corpus", "verify", corpus).startswith("0 faults")


def test_without_a_home_prefect_gets_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setattr(environment.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    environment.prepare()
    assert "PREFECT_HOME" not in os.environ, "a home is there"
    monkeypatch.setenv("HOME", "/proc/nowhere")
    environment.prepare()
    place = Path(os.environ["PREFECT_HOME"])
    assert place.parent == tmp_path
    assert place.stat().st_mode & 0o777 == 0o700
