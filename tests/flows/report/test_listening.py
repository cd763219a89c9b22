"""The listening page: blind, fair to each system, and done by keys alone in a real browser."""

from __future__ import annotations

import base64
import collections
import io
import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from triforce.flows.cli.main import app
from triforce.flows.report.listening import draw_pairs, write_listening_page

RATE_HZ = 24_000
LOUDNESS = {"vocos": 0.3, "griffin": 0.02}


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Two systems, one of them far quieter, with three sentences in common."""
    time_s = np.arange(int(0.4 * RATE_HZ)) / RATE_HZ
    for system, gain in LOUDNESS.items():
        (tmp_path / system).mkdir()
        for number, sentence in enumerate(("one", "two", "three", f"only-{system}")):
            tone = gain * np.sin(2 * np.pi * (200 + 50 * number) * time_s)
            soundfile.write(tmp_path / system / f"{sentence}.wav", tone, RATE_HZ)
    return [str(tmp_path / system) for system in LOUDNESS]


def content_of(page: Path) -> dict:
    return json.loads(re.search(r'id="content">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def test_pairs_are_equally_loud_and_of_what_both_say(folders: list[str], tmp_path: Path) -> None:
    page = tmp_path / "listen.html"
    found = CliRunner().invoke(app, ["listen", *folders, "--out", str(page)])
    assert found.exit_code == 0, found.output
    trials = content_of(page)["trials"]
    assert {trial["sentence"] for trial in trials} == {"one", "two", "three"}
    for trial in trials:
        assert sorted(trial["systems"]) == sorted(LOUDNESS)
        sounds = [base64.b64decode(sound.removeprefix("data:audio/flac;base64,")) for sound in trial["sounds"]]
        levels = [float(np.sqrt((soundfile.read(io.BytesIO(sound))[0] ** 2).mean())) for sound in sounds]
        assert levels[0] == pytest.approx(levels[1], rel=0.02)
    assert not re.search(r"https?:", page.read_text())


def test_each_pair_of_systems_is_heard_as_often_and_on_either_side() -> None:
    sentences = {name: {str(number) for number in range(40)} for name in "xyz"}
    drawn = draw_pairs(sentences, 60, seed=3)
    pairs = collections.Counter(tuple(sorted(both)) for _, *both in drawn)
    assert set(pairs.values()) == {20}
    assert len({(sentence, *sorted(both)) for sentence, *both in drawn}) == 60
    first = collections.Counter(systems[0] for _, *systems in drawn)
    assert set(first.values()) == {20}
    assert draw_pairs(sentences, 60, seed=3) == drawn != draw_pairs(sentences, 60, seed=4)


def test_what_cannot_be_compared_is_said(folders: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="systems griffin: no sentence is there by two of them"):
        write_listening_page(folders[1:], tmp_path / "x.html")
    with pytest.raises(ValueError, match="systems other: these folders have vocos, griffin"):
        write_listening_page(folders, tmp_path / "x.html", systems=["other"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no evaluation with samples and no sound files"):
        write_listening_page([tmp_path / "empty"], tmp_path / "x.html")


def test_a_browser_judges_by_keys_alone_and_saves_the_preferences(folders: list[str], tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    page = Path(write_listening_page(folders, tmp_path / "listen.html"))
    profile, saved = tmp_path / "profile", tmp_path / "downloads/preferences.json"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--mute-audio"]
    flags += ["--window-size=500,800", f"--user-data-dir={profile}", "--remote-debugging-port=0"]
    with subprocess.Popen([chromium, *flags, page.as_uri()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as p:
        try:
            found = judge(profile, saved)
        finally:
            p.terminate()
    assert not re.search("vocos|griffin", found["shown"])
    assert found["wide"] == 0
    assert found["refused"] == found["half"] == "Hear both first: A and B play them."
    assert found["back"] == 0
    preferences, trials = json.loads(saved.read_text()), content_of(page)["trials"]
    expected = [trials[0]["systems"][0], trials[1]["systems"][1], None]
    assert [trial["preferred"] for trial in preferences["trials"]] == expected
    assert [trial["plays"] for trial in preferences["trials"]] == [[1, 1]] * 3
    wins = [(system, sum(one == system for one in expected)) for system in LOUDNESS]
    assert [row.split() for row in found["wins"].splitlines()] == [[name, str(won), "of", "3"] for name, won in wins]


def judge(profile: Path, saved: Path) -> dict:
    """Press keys as a listener would, by the browser's own protocol; return what the page showed."""
    from websockets.sync.client import connect

    wait_for(lambda: (profile / "DevToolsActivePort").exists())
    port = (profile / "DevToolsActivePort").read_text().split()[0]
    tabs = wait_for(lambda: [t for t in httpx.get(f"http://127.0.0.1:{port}/json").json() if t["type"] == "page"])
    with connect(tabs[0]["webSocketDebuggerUrl"], open_timeout=60) as socket:
        numbers = itertools.count(1)

        def call(method: str, **parameters: object) -> dict:
            number = next(numbers)
            socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
            while (answer := json.loads(socket.recv(timeout=120))).get("id") != number:
                pass
            return answer["result"]

        def get(expression: str) -> object:
            return call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

        def press(key: str) -> None:
            text = {"text": key} if len(key) == 1 else {}
            call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            call("Input.dispatchKeyEvent", type="keyUp", key=key)

        def hear(*keys: str) -> None:
            for key in keys:
                press(key)
                side = int(key in ("b", "ArrowRight"))
                wait_for(lambda side=side: get(f"heard[{side}] > 0"))

        wait_for(lambda: get("document.readyState") == "complete")
        call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(saved.parent))
        found: dict = {"shown": get("document.body.innerText")}
        found["wide"] = get("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        press("1")
        found["refused"] = get("element('status').textContent")
        hear("a")
        press("2")
        found["half"] = get("element('status').textContent")
        hear("b")
        press("2")
        assert get("at") == 1
        press("Backspace")
        found["back"] = get("at")
        for key in ("1", "2", "0"):
            hear("ArrowLeft", "ArrowRight")
            press(key)
        found["wins"] = get("[...element('wins').rows].map(row => row.innerText).join('\\n')")
        wait_for(saved.exists)
        return found


def wait_for(found: Callable[[], Any], limit_s: float = 150) -> Any:
    deadline = time.monotonic() + limit_s
    while not (value := found()):
        assert time.monotonic() < deadline, "the browser did not get there"
        time.sleep(0.05)
    return value
