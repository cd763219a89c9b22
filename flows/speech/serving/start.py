"""``triforce serve``: starts the replicas and stops them.

One replica is this process with uvicorn; several are Ray Serve's. The server listens to this machine alone unless a key
is set.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import NamedTuple

import uvicorn

from triforce.flows.speech.access import KEY_VARIABLE, hash_key, require_key
from triforce.flows.speech.serve import ServeConfig, SpeechServer
from triforce.flows.speech.serving.stalls import stall_limit
from triforce.ingest import storage
from triforce.models.voice.bundled import VOICE

logger = logging.getLogger(__name__)

SEND_BYTES = 1 << 18
"""Sound that the kernel keeps for a client, some seconds of pcm. Left alone it takes 4 MB, a minute and a half that is
spoken before it is seen that nobody reads."""
STOP_S = 3
"""Seconds that answers under way have when the server is stopped. Assumed."""


class Running(NamedTuple):
    """A server that answers."""

    address: str
    stop: Callable[[], None]


def start(config: ServeConfig, key: str | None = None) -> Running:
    """Start serving: in this process, or with several replicas by Ray Serve.

    Raises ValueError where others could reach it without a key.
    """
    from triforce.models.release_files import load_card, require_dvae

    require_key(config.host, key)
    config = with_absolute_paths(config)
    require_dvae(config.release)
    if load_card(config.release, "gpt") is None:
        raise FileNotFoundError(f"{config.release}: no gpt/config.json here; train one with `triforce train gpt`")
    key_hash = hash_key(key) if key else None
    return _start_here(config, key_hash) if config.replicas == 1 else _start_replicas(config, key_hash)


def with_absolute_paths(config: ServeConfig) -> ServeConfig:
    """Return the config as a process in another folder needs it; `VOICE` is a name, not a path."""
    release = config.release if config.release == VOICE else storage.absolute(config.release)
    vocoder = config.vocoder
    if vocoder and os.path.isdir(vocoder):  # else it is a name
        vocoder = os.path.abspath(vocoder)
    voices = config.voices and os.path.abspath(config.voices)
    return config.model_copy(update={"release": release, "vocoder": vocoder, "voices": voices})


def _start_here(config: ServeConfig, key_hash: str | None) -> Running:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.create_server((config.host, config.port), family=family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # its connections have the same
    server = SpeechServer(config, key_hash)
    settings = uvicorn.Config(
        server.__serve_build_asgi_app__(),
        http=stall_limit(config.max_stall_s, server.stalled),
        log_level="warning",
        lifespan="off",
        proxy_headers=False,  # a client is its connection's other end, by which a place is known
        timeout_graceful_shutdown=STOP_S,
    )
    app = uvicorn.Server(settings)
    thread = threading.Thread(target=app.run, args=([listening],), name="http")
    thread.start()

    def stop() -> None:
        app.should_exit = True
        thread.join()
        server.engine.stop()

    return Running(_address(config.host, listening.getsockname()[1]), stop)


def _start_replicas(config: ServeConfig, key_hash: str | None) -> Running:
    try:
        from ray import serve
    except ImportError as error:
        raise ImportError("several replicas need Ray Serve: pip install 'triforce[serve]'") from error
    from triforce.tokenize.ray_session import connect

    port = config.port or _free_port()
    connect()
    serve.start(http_options={"host": config.host, "port": port})
    deployment = serve.deployment(
        name="speech", num_replicas=config.replicas, max_ongoing_requests=config.max_waiting + 16
    )(serve.ingress()(SpeechServer))
    serve.run(deployment.bind(config, key_hash), name="triforce")
    return Running(_address(config.host, port), serve.shutdown)


def serve_forever(config: ServeConfig) -> None:
    """Serve until interrupted or told to end (SIGTERM); the key comes from the environment, where no list of processes
    shows it."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    address, stop = start(config, os.environ.get(KEY_VARIABLE))
    guarded = "with the key" if os.environ.get(KEY_VARIABLE) else "without a key, to this machine alone"
    print(json.dumps({"address": address, "speech": f"{address}/v1/audio/speech"}), flush=True)
    logger.warning("open %s in a browser; served %s; Ctrl-C ends it", address, guarded)
    try:
        while not ended.wait(3600):
            pass
    finally:
        stop()


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
