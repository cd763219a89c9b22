"""A loopback web site, a corpus, and sounds to serve."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from xml.sax.saxutils import escape

import av
import numpy as np
import pytest
import soundfile
from loopback_site import serving

from triforce.ingest import storage
from triforce.ingest.config import Settings
from triforce.ingest.corpus.store import Corpus


@pytest.fixture
def site():
    with serving() as site:
        yield site


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return Corpus(str(tmp_path / "corpus"))


@pytest.fixture
def settings() -> Settings:
    """As on the open web but for the loopback server and a test's impatience."""
    return Settings(
        contact="tests@example.org",
        allow_private_hosts=True,
        backoff_s=0.01,
        requests_per_s=1000,
        tries=3,
        min_duration_s=0.1,
    )


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket of an S3-compatible store on loopback."""
    s3fs = pytest.importorskip("s3fs", reason="pip install 'triforce[cluster-test]'")
    server = pytest.importorskip("moto.server", reason="pip install 'triforce[cluster-test]'")
    store = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    store.start()
    url = "http://{}:{}".format(*store.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ({"AWS_ENDPOINT_URL": url} | keys).items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        storage.resolve("s3://triforce")[0].mkdir("triforce")
        yield "s3://triforce"
    s3fs.S3FileSystem.clear_instance_cache()
    store.stop()


@pytest.fixture(scope="session")
def sound() -> Callable[..., bytes]:
    """``sound(seed, duration_s, format)``: noise that differs by seed, as the bytes of a FLAC, WAV, OGG or MP3 file."""

    def make(seed: int = 0, duration_s: float = 1.0, format: str = "FLAC", rate_hz: int = 16_000) -> bytes:
        noise = np.random.default_rng(seed).normal(0, 0.1, int(duration_s * rate_hz)).astype(np.float32)
        file = io.BytesIO()
        soundfile.write(file, noise, rate_hz, format=format)
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def webm(sound) -> bytes:
    """Two seconds of Opus in WebM, as a page's player would get."""
    output = io.BytesIO()
    with av.open(io.BytesIO(sound(99, 2.0, "WAV", 48_000))) as source, av.open(output, "w", format="webm") as target:
        stream = target.add_stream("libopus", rate=48_000, layout="mono")
        for frame in source.decode(audio=0):
            frame.pts = None
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return output.getvalue()


@pytest.fixture(scope="session")
def make_feed() -> Callable[..., str]:
    """``make_feed([(guid, url), ...])``: an RSS 2.0 feed.

    An item may be a dict with ``guid``, ``url`` and extra XML.
    """

    def make(items: list, title: str = "A Talk", extra: str = "") -> str:
        rows = [item if isinstance(item, dict) else {"guid": item[0], "url": item[1]} for item in items]
        body = "".join(
            f"<item><title>Episode {escape(row['guid'])}</title><guid>{escape(row['guid'])}</guid>"
            f'<enclosure url="{escape(row["url"])}" type="{row.get("type", "audio/mpeg")}" '
            f'length="{row.get("length", 1)}"/>'
            f"{row.get('extra', '')}</item>"
            for row in rows
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0" '
            'xmlns:itunes="http://www.itunes.com/dtds/podcast-1.0.dtd" '
            'xmlns:podcast="https://podcastindex.org/namespace/1.0" '
            'xmlns:atom="http://www.w3.org/2005/Atom" xmlns:psc="http://podlove.org/simple-chapters">'
            f"<channel><title>{escape(title)}</title><language>en-GB</language>{extra}{body}</channel></rss>"
        )

    return make
