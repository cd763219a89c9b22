"""Pictures of the dashboards of `triforce up`: ``python infra/monitoring/screenshots.py .triforce FOLDER``.

Needs a headless Chromium (Debian, Ubuntu: ``apt-get install chromium``). Secrets go into the browser's requests over
its own control connection, so they are on no command line.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import itertools
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import websockets

from triforce.flows.stack.services import Stack

WIDTH, HEIGHT = 1280, 800
SETTLE_S = 12.0
"""A dashboard draws, then asks its server, then draws again. Assumed for a busy machine."""


class Page:
    """One tab, spoken to by Chromium's own protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._numbers = socket, itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(await self._socket.recv())
            if answer.get("id") == number:
                return dict(answer["result"])

    async def shoot(self, url: str, authorization: str | None, file: Path) -> None:
        await self.call("Network.enable")
        headers = {"Authorization": authorization} if authorization else {}
        await self.call("Network.setExtraHTTPHeaders", headers=headers)
        await self.call("Page.navigate", url=url)
        await asyncio.sleep(SETTLE_S)
        picture = await self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(picture["data"]))


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("no chromium; install it (Debian, Ubuntu: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        where = [f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}", "--remote-debugging-port=0"]
        process = subprocess.Popen(
            [program, *options, *where, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "DevTools listening on" in line)
            port = re.search(r":(\d+)/", line)[1]  # type: ignore[index]
            yield Page(await websockets.connect(await _tab(port), max_size=None))
        finally:
            process.terminate()
            process.wait(timeout=20)


async def _tab(port: str) -> str:
    import httpx

    async with httpx.AsyncClient(trust_env=False) as client:
        tabs = (await client.get(f"http://127.0.0.1:{port}/json")).json()
    return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))


async def main(stack: Stack, out: Path) -> None:
    secret = stack.environment().get("PREFECT_API_AUTH_STRING")
    basic = f"Basic {base64.b64encode(secret.encode()).decode()}" if secret else None
    token = (stack.folder / "ray-token").read_text().strip()
    out.mkdir(parents=True, exist_ok=True)
    async with browser() as page:
        await page.shoot(f"{stack.prefect_url}/runs", basic, out / "prefect.png")
        await page.shoot(f"{stack.ray_url}/#/jobs", f"Bearer {token}", out / "ray.png")
    for name in ("prefect.png", "ray.png"):
        print(out / name, f"{(out / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Screenshots of both dashboards.")
    parser.add_argument("state", type=Path, help="the folder that triforce up was given, .triforce by default")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    asyncio.run(main(Stack(arguments.state), arguments.out))
