"""A headless Chromium, driven by its own protocol."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--mute-audio")
START_S = 120.0


class Tab:
    """One page of the browser."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.errors: list[str] = []
        """Exceptions that nobody caught, and what the content policy refused."""
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Return the result of a method of the protocol."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": arguments}))
        while (answer := json.loads(self._socket.recv(timeout=180))).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["params"]["exceptionDetails"]))
        entry = event.get("params", {}).get("entry", {})
        if event.get("method") == "Log.entryAdded" and entry.get("level") == "error":
            self.errors.append(entry["text"])

    def run(self, expression: str) -> Any:
        """Return the value of an expression, awaited."""
        arguments = {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        found = self.call("Runtime.evaluate", **arguments)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, limit_s: float = 60.0) -> Any:
        """Wait for an expression to become true; return its value."""
        deadline = time.monotonic() + limit_s
        while not (value := self.run(expression)):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.05)
        return value

    def press(self, key: str) -> None:
        """Press a key, where the focus is."""
        text = {"text": key} if len(key) == 1 else {}
        about = text | {"key": key, "windowsVirtualKeyCode": 27 if key == "Escape" else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the page a size, and the colours of a light or dark screen."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.until(f"innerWidth === {width}")

    def open(self, address: str) -> None:
        """Go to an address and wait for it."""
        self.call("Page.navigate", url=address)
        self.until(f"location.href.startsWith({json.dumps(address)}) && document.readyState === 'complete'")


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A tab of a browser of its own; skips the test where there is none."""
    from websockets.sync.client import connect

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    flags = [*FLAGS, "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={profile}"]
    command = [chromium, *flags, "--remote-debugging-port=0", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not (profile / "DevToolsActivePort").exists():
            assert time.monotonic() < deadline, "the browser did not start"
            time.sleep(0.1)
        port = (profile / "DevToolsActivePort").read_text().split()[0]
        while not (
            pages := [one for one in httpx.get(f"http://127.0.0.1:{port}/json").json() if one["type"] == "page"]
        ):
            assert time.monotonic() < deadline, "the browser has no tab"
            time.sleep(0.1)
        with connect(pages[0]["webSocketDebuggerUrl"], open_timeout=60, max_size=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        process.wait(60)
