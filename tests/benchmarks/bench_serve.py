"""How soon and how fast `triforce serve` speaks, and in how much memory, beside piper and espeak-ng.

``python tests/benchmarks/bench_serve.py [--set rows=8 ...]`` starts the server with the voice that comes along (or
``--release``), asks for speech as 1, 4 and 16 clients at once, and prints a table. First sound is the time from a
request to the first bytes of sound; cold is the first request to a server that has just said its address. The others
speak the same sentences in a process each: piper's first sound is its first sentence, espeak-ng's its first samples.

``--inside`` is for a core that other work shares: the server's engine in this process, without HTTP, and all times are
CPU seconds of its threads. With ``--compiled no`` it draws without the compiled step.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import psutil
import torch

from triforce.flows.speech.engine import SpeechEngine
from triforce.flows.speech.speaker import ROWS, SpeakConfig, Speaker
from triforce.models.decoding.precision import Compiled
from triforce.models.memory import reuse_freed_memory
from triforce.models.release import Release

SENTENCES = (
    "The ferry leaves at noon, and nobody waits for it.",
    "How many people live on the island now?",
    "She opened the window, looked down the street, and closed it again.",
    "It was late when they came back, and the lamp was still burning.",
    "There is more bread on the table.",
    "He had written three letters that morning, and had not sent one of them.",
    "The road goes past the mill and over the bridge.",
    "Nothing was said about it until the following spring.",
)
COMMAND = str(Path(sys.executable).with_name("triforce"))
PIPER = """
import json, sys, time
import psutil
from triforce.flows.examples.voice import load_voice
started = time.perf_counter()
voice = load_voice(int(sys.argv[1]))
loaded, first, sound = time.perf_counter() - started, [], 0.0
for text in json.loads(sys.argv[2]) * 2:
    begun = time.perf_counter()
    for number, chunk in enumerate(voice.synthesize(text)):
        if not number:
            first.append(time.perf_counter() - begun)
        sound += len(chunk.audio_float_array) / chunk.sample_rate
wall = time.perf_counter() - started - loaded
print(json.dumps({"cold": loaded + first[0], "first": first[1:], "sound": sound, "wall": wall,
                  "bytes": psutil.Process().memory_info().rss}))
"""


@dataclass
class Asked:
    """What clients saw."""

    first_s: list[float] = field(default_factory=list)
    """Time to the first sound of each answer."""
    sound_s: float = 0.0
    refused: int = 0
    failed: int = 0
    wall_s: float = 0.0
    stall_s: list[float] = field(default_factory=list)
    """How long a listener of each answer who hears it from its first sound on waits for more of it, at most."""

    def row(self, name: str, cold_s: float | None, megabytes: float | None) -> list[str]:
        """Return a row of the table."""
        rate = self.sound_s / self.wall_s if self.wall_s else 0.0
        p50, p95 = (f"{1000 * np.quantile(self.first_s, q):.0f}" if self.first_s else "" for q in (0.5, 0.95))
        stall = f"{1000 * np.quantile(self.stall_s, 0.95):.0f}" if self.stall_s else ""
        cold = "" if cold_s is None else f"{1000 * cold_s:.0f}"
        memory = "" if megabytes is None else f"{megabytes:.0f}"
        return [name, cold, p50, p95, stall, f"{rate:.1f}", f"{self.refused}", f"{self.failed}", memory]


@contextmanager
def server(arguments: argparse.Namespace) -> Iterator[tuple[str, int, float]]:
    """Start the server; yields its address, its process and how long that took."""
    command = [COMMAND, "serve", "--port", "0", "--release", arguments.release, "--replicas", str(arguments.replicas)]
    for setting in arguments.settings:
        command += ["--set", setting]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith(b"{"):
        raise RuntimeError("the server did not start; its message is above")
    try:
        yield json.loads(line)["address"], process.pid, time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)


def ask(address: str, text: str, seed: int, asked: Asked) -> None:
    """Ask for a text and note what comes."""
    body = {"input": text, "response_format": "pcm", "seed": seed}
    started, first, size, stall = time.perf_counter(), 0.0, 0, 0.0
    try:
        with httpx.stream("POST", f"{address}/v1/audio/speech", json=body, timeout=300) as answer:
            if answer.status_code == 429 and "retry-after" in answer.headers:
                asked.refused += 1
                return
            answer.raise_for_status()
            for part in answer.iter_raw():
                now = time.perf_counter() - started
                if part and not size:
                    asked.first_s.append(now)
                    first = now
                stall = max(stall, now - first - size / 2 / 24_000 if size else 0.0)
                size += len(part)
            asked.stall_s.append(stall)
    except httpx.HTTPError as error:
        print(f"failed: {error}", file=sys.stderr)
        asked.failed += 1
    asked.sound_s += size / 2 / 24_000


def crowd(address: str, num_clients: int, num_asks: int) -> Asked:
    """Let clients ask at once, each ``num_asks`` times without a pause."""
    asked = Asked()

    def client(number: int) -> None:
        for turn in range(num_asks):
            ask(address, SENTENCES[(number + turn) % len(SENTENCES)], number + turn, asked)

    started = time.perf_counter()
    with ThreadPoolExecutor(num_clients) as threads:
        list(threads.map(client, range(num_clients)))
    asked.wall_s = time.perf_counter() - started
    return asked


def megabytes(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process, and that of all processes below it (Ray's)."""
    process = psutil.Process(pid)
    below = [child.memory_info().rss for child in process.children(recursive=True)]
    return process.memory_info().rss / 1e6, sum(below) / 1e6


def speak_by_server(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the rows of the server."""
    with server(arguments) as (address, pid, start_s):
        print(f"the server answered after {start_s:.1f} s", file=sys.stderr)
        cold = Asked()
        ask(address, SENTENCES[0], 0, cold)
        crowd(address, 1, 2)
        for clients in arguments.clients:
            asked = crowd(address, clients, arguments.asks)
            own, below = megabytes(pid)
            name = f"triforce serve, {clients} client{'s' * (clients > 1)}"
            yield asked.row(name, cold.first_s[0] if clients == arguments.clients[0] else None, own + below)
        long = Asked()
        started = time.perf_counter()
        ask(address, " ".join(SENTENCES * 2), 0, long)
        long.wall_s = time.perf_counter() - started
        yield long.row("triforce serve, one long text", None, sum(megabytes(pid)))


def speak_inside(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the rows of the server's engine in this process, in CPU seconds of its threads."""
    torch.set_num_threads(1)
    reuse_freed_memory()
    release = Release.load(arguments.release, compiled=arguments.compiled)
    engine = SpeechEngine(release, num_rows=ROWS, pooled=True)
    engine.start()
    speaker = Speaker(release, SpeakConfig())
    _crowd_inside(engine, speaker, 1)  # which measures the voice
    for clients in arguments.clients:
        asked = _crowd_inside(engine, speaker, clients)
        yield asked.row(f"{release.drawn_in}, {clients} at once", None, megabytes(os.getpid())[0])
    engine.stop()


def _crowd_inside(engine: SpeechEngine, speaker: Speaker, num_clients: int) -> Asked:
    """Hand a sentence in for each client at once."""
    asked, started = Asked(), time.process_time()
    ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def listen(heard: list[int], part: np.ndarray | Exception | None) -> None:
        if isinstance(part, np.ndarray):
            if len(part) and not heard:
                asked.first_s.append(time.process_time() - started)
            heard.append(len(part))
            asked.sound_s += len(part) / engine.release.sample_rate_hz
        else:
            ended.put(part)

    for number in range(num_clients):
        text = SENTENCES[number % len(SENTENCES)]
        engine.submit(speaker, "default", [text], number, partial(listen, []))
    asked.failed = sum(ended.get() is not None for _ in range(num_clients))
    asked.wall_s = time.process_time() - started
    return asked


def speak_by_piper(threads: int) -> list[str] | None:
    """Return piper's row, None where it is not installed."""
    command = [sys.executable, "-c", PIPER, str(threads), json.dumps(SENTENCES)]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        print(f"piper: {done.stderr.decode().strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    asked = Asked(found["first"], found["sound"], wall_s=found["wall"])
    return asked.row("piper, voice joe", found["cold"], found["bytes"] / 1e6)


def speak_by_espeak() -> list[str] | None:
    """Return espeak-ng's row, a process for each sentence; None where it is not installed."""
    asked, most = Asked(), 0
    started = time.perf_counter()
    for text in SENTENCES * 2:
        begun = time.perf_counter()
        try:
            process = subprocess.Popen(["espeak-ng", "--stdout", text], stdout=subprocess.PIPE)
        except FileNotFoundError:
            print("espeak-ng is not installed", file=sys.stderr)
            return None
        assert process.stdout is not None
        head = os.read(process.stdout.fileno(), 4096)
        asked.first_s.append(time.perf_counter() - begun)
        size = len(head) - 44
        while part := os.read(process.stdout.fileno(), 65536):
            size += len(part)
            most = max(most, psutil.Process(process.pid).memory_info().rss)
        process.wait()
        asked.sound_s += size / 2 / int.from_bytes(head[24:28], "little")
    asked.wall_s = time.perf_counter() - started
    return asked.row("espeak-ng", asked.first_s[0], most / 1e6 if most else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", default="voice")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--asks", type=int, default=4, help="Sentences that each client asks for.")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="Threads of piper.")
    parser.add_argument("--set", dest="settings", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--inside", action="store_true", help="CPU seconds of the engine in this process")
    parser.add_argument("--compiled", choices=get_args(Compiled), default="auto", help="with --inside")
    arguments = parser.parse_args()
    if arguments.inside:
        rows = list(speak_inside(arguments))
    else:
        rows = list(speak_by_server(arguments))
        rows += [row for row in (speak_by_piper(arguments.threads), speak_by_espeak()) if row]
    head = ["", "cold, ms", "first sound p50, ms", "p95, ms", "runs dry p95, ms", "times real time"]
    head += ["429", "failed", "RSS, MB"]
    print("\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)))
    alone = [float(row[2]) for row in rows if row[0].endswith(("1 client", " 1 at once")) and row[2]]
    print(f"first sound warm, median: {statistics.median(alone):.0f} ms" if alone else "no sound")


if __name__ == "__main__":
    main()
