"""The speech endpoint as a command, as OpenAI's clients, a browser and an intruder see it; replicas by Ray Serve."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
import soundfile
import tiny_run

from triforce.flows.speech.serve import ServeConfig
from triforce.flows.speech.serving.start import start, with_absolute_paths
from triforce.ingest.media.encode import encode_stream

KEY = "k-1234"
COMMAND = str(Path(sys.executable).with_name("triforce"))


def decoded(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "wav"])
def test_every_format_carries_the_sound_and_flows(name):
    pieces = [tiny_run.hum(0.5, pitch_hz=pitch) for pitch in (120, 240, 180)]
    parts = list(encode_stream(iter(pieces), 24_000, name))
    assert len(parts) > 1
    sound = decoded(b"".join(parts))
    rate = 48_000 if name == "opus" else 24_000
    assert len(sound) / rate == pytest.approx(1.5, abs=0.15)
    scale = 32768 if sound.dtype == np.int16 else 1
    assert np.abs(sound / scale).std() == pytest.approx(np.abs(np.concatenate(pieces)).std(), rel=0.1)
    with pytest.raises(ValueError, match="use one of wav"):
        next(encode_stream(iter(pieces), 24_000, "midi"))


def test_nobody_is_let_in_without_a_key_from_elsewhere(tmp_path):
    with pytest.raises(ValueError, match="set TRIFORCE_API_KEY"):
        start(ServeConfig(release=str(tmp_path), host="0.0.0.0"))
    with pytest.raises(FileNotFoundError, match="train one with"):
        start(ServeConfig(release=tiny_run.write_release(tmp_path / "r", stages=("dvae",))))


def test_paths_are_those_of_the_folder_and_the_voice_that_comes_along_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert with_absolute_paths(ServeConfig()).release == "voice"
    found = with_absolute_paths(ServeConfig(release="./voice", voices="people"))
    assert (found.release, found.voices) == (str(tmp_path / "voice"), str(tmp_path / "people"))
    assert with_absolute_paths(ServeConfig(release="s3://bucket/release")).release == "s3://bucket/release"
    assert with_absolute_paths(ServeConfig(release=f"file://{tmp_path}/r")).release == f"{tmp_path}/r"
    (tmp_path / "weights").mkdir()
    named = [with_absolute_paths(ServeConfig(vocoder=name)).vocoder for name in ("weights", "griffin-lim", None)]
    assert named == [str(tmp_path / "weights"), "griffin-lim", None]
    with pytest.raises(ValueError, match="max_waiting"):
        ServeConfig(max_waiting=0)


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """Run the command over tiny networks; yields the address."""
    with process_of(folder, *options) as (process, address):
        yield address
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130


@contextmanager
def process_of(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the command until it ends, for which the caller has to see; it is killed where the caller fails."""
    release = tiny_run.write_release(folder / "release")
    command = [COMMAND, "serve", "--release", release, "--port", "0", "--set", "speak.sampling.max_codes=16"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--set", "max_chars=200", *options],
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | {"TRIFORCE_API_KEY": KEY, "OMP_NUM_THREADS": "1"},
        )
    try:
        line = process.stdout.readline()
        assert line.startswith(b"{"), (folder / "log").read_text()[-2000:]
        yield process, json.loads(line)["address"]
        process.wait(120)
    finally:
        process.kill()
        process.wait(120)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve")) as address:
        yield address


@pytest.mark.slow
def test_told_to_end_it_lets_those_who_listen_hear_the_end(tmp_path):
    with process_of(tmp_path) as (process, address):
        headers = {"Authorization": f"Bearer {KEY}"}
        fields = {"input": "One two. " * 4, "response_format": "pcm"}
        with httpx.stream("POST", f"{address}/v1/audio/speech", json=fields, headers=headers, timeout=60) as answer:
            parts = answer.iter_raw()
            first = next(parts)
            process.terminate()
            assert len(first) < len(first + b"".join(parts))
    assert process.returncode == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_several_replicas_answer_by_ray_serve(tmp_path):
    pytest.importorskip("ray.serve", reason="pip install 'triforce[serve]'")
    with (
        serving(tmp_path, "--replicas", "2") as address,
        httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"}, timeout=120) as client,
    ):
        assert len({ask(client, response_format="pcm").content for _ in range(3)}) == 1
        assert httpx.post(f"{address}/v1/audio/speech", json={"input": "Hi."}, timeout=60).status_code == 401


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server, headers={"Authorization": f"Bearer {KEY}"}, timeout=120) as client:
        yield client


def ask(client: httpx.Client, **fields) -> httpx.Response:
    return client.post(
        "/v1/audio/speech", json={"model": "tts-1", "input": "Hello there.", "voice": "default"} | fields
    )


@pytest.mark.slow
def test_it_speaks_as_the_openai_endpoint_does(client):
    answer = ask(client, response_format="wav")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
    pcm = ask(client, response_format="pcm").content
    assert answer.content[44:] == pcm  # the same seed, the same sound
    assert len(pcm) > 2 * 24_000 * 0.2
    assert ask(client, response_format="pcm", seed=1).content != pcm
    assert len(ask(client, response_format="pcm", speed=2.0).content) < len(pcm)
    sound, rate = soundfile.read(io.BytesIO(ask(client).content))  # mp3 unless asked otherwise
    assert (rate, sound.ndim) == (24_000, 1)
    assert client.get("/v1/models").json()["data"][0]["id"] == "triforce"


@pytest.mark.slow
def test_the_first_sentence_comes_before_the_last_is_spoken(client):
    fields = {"input": "One two. " * 20, "response_format": "pcm"}
    started, times = time.monotonic(), []
    with client.stream("POST", "/v1/audio/speech", json=fields) as answer:
        for _ in answer.iter_raw():
            times.append(time.monotonic() - started)
    assert len(times) >= 5
    assert times[0] < 0.5 * times[-1]


@pytest.mark.slow
def test_what_is_wrong_is_said_as_openai_says_it(client, server):
    wrong = (
        ({"input": ""}, 400, "input"),
        ({"input": "x" * 201}, 400, "200 at most"),
        ({"response_format": "midi"}, 400, "response_format"),
        ({"speed": 9}, 400, "speed"),
        ({"model": "gpt-9"}, 404, "this server has 'triforce'"),
    )
    for fields, status, words in wrong:
        answer = ask(client, **fields)
        assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text
    assert client.post("/v1/audio/speech", content=b"{").status_code == 400
    assert client.post("/v1/audio/speech", content=b" " * 100_000).status_code == 413
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
        answer = httpx.post(f"{server}/v1/audio/speech", json={"input": "Hello."}, headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert httpx.get(f"{server}/docs", timeout=60).status_code == 404


@pytest.mark.slow
def test_a_browser_types_and_listens(server, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--mute-audio"]
    flags += ["--autoplay-policy=no-user-gesture-required", f"--user-data-dir={tmp_path}", "--remote-debugging-port=0"]
    browser = subprocess.Popen([chromium, *flags, server], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        found = type_and_listen(tmp_path, server)
    finally:
        browser.terminate()
        browser.wait(60)
    assert "wrong or missing key" in found["before"]
    assert "s of speech in" in found["after"]
    assert found["bad"] == ""
    assert found["length"] > 0.2
    assert found["width"] <= 800


SCRIPT = """(async () => {
  const get = id => document.getElementById(id);
  const wait = async done => { while (!done()) await new Promise(go => setTimeout(go, 100)); };
  await wait(() => document.readyState === 'complete' && get('status')?.textContent);
  const before = get('status').textContent;
  get('key').value = 'KEY';
  get('key').dispatchEvent(new Event('change'));
  await wait(() => get('status').textContent === '');
  get('text').value = 'Hello. And again.';
  get('go').click();
  await wait(() => !get('go').disabled && get('status').textContent);
  const player = get('player');
  if (player.src) await wait(() => player.duration > 0);
  return JSON.stringify({ before, after: get('status').textContent, bad: get('status').className,
    length: player.duration || 0, width: document.documentElement.scrollWidth });
})()""".replace("KEY", KEY)


def type_and_listen(profile: Path, server: str) -> dict:
    """What the page shows without a key, and after a text was typed and spoken, by the browser's own protocol."""
    from websockets.sync.client import connect

    deadline = time.monotonic() + 120
    while not (profile / "DevToolsActivePort").exists():
        assert time.monotonic() < deadline, "the browser did not start"
        time.sleep(0.2)
    port = (profile / "DevToolsActivePort").read_text().split()[0]
    while not (pages := [t for t in httpx.get(f"http://127.0.0.1:{port}/json").json() if t["url"].startswith(server)]):
        assert time.monotonic() < deadline, "the browser did not open the page"
        time.sleep(0.2)
    with connect(pages[0]["webSocketDebuggerUrl"], open_timeout=60) as socket:
        while evaluate(socket, "document.readyState + location.protocol").get("value") != "completehttp:":
            assert time.monotonic() < deadline, "the page did not load"
            time.sleep(0.2)
        return json.loads(evaluate(socket, SCRIPT)["value"])


def evaluate(socket, expression: str) -> dict:
    arguments = {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True}
    socket.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": arguments}))
    while (answer := json.loads(socket.recv(timeout=180))).get("id") != 1:
        pass
    found = answer.get("result", {})
    assert "exceptionDetails" not in found, found
    return found.get("result", {})  # empty where the page changed meanwhile
