"""Files from Debian packages, without installing them and without being root."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

TIMEOUT_S = 300.0
"""Time allowed for one apt command on a slow line. Assumed."""


class DebianError(RuntimeError):
    """The packages cannot be downloaded here; the message says why."""


def unpack(packages: list[str], folder: Path) -> Path:
    """Download ``packages`` and unpack them into ``folder``, unless it is there; return the folder."""
    if folder.is_dir():
        return folder
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise DebianError(f"no {tool} on this machine to fetch the package {packages[0]} with")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as scratch:
        # Absolute: apt reads a relative folder as below its own root.
        downloads, root = Path(scratch).absolute() / "debs", Path(scratch).absolute() / "root"
        downloads.mkdir()
        _download(packages, downloads)
        for deb in sorted(downloads.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(deb), str(root)], downloads)
        os.replace(root, folder)
    return folder


def _download(packages: list[str], folder: Path) -> None:
    """Download by the machine's own package lists or, where these are missing or old, by lists of our own."""
    # apt drops to the user _apt for downloads, who may not write here; as any other user it ignores the setting.
    download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages]
    try:
        _run(download, folder)
    except DebianError as error:
        logger.info("%s; trying with fresh package lists", error)
        options = _private_state(folder.parent / "apt")
        _run(["apt-get", "-q", *options, "update"], folder)
        _run([download[0], *options, *download[1:]], folder)


def _private_state(folder: Path) -> list[str]:
    """Return options that keep apt's lists and caches in ``folder``; its sources stay the machine's."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": folder / "cache",
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "root",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, env=os.environ | {"LC_ALL": "C"}
        )
    except subprocess.TimeoutExpired as error:
        raise DebianError(f"{' '.join(command[:1])} did not end within {TIMEOUT_S:.0f} s") from error
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no message"]
        raise DebianError(f"{command[0]} {command[-1]} failed: {last[0].strip()}")
