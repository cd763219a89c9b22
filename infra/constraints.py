"""Write infra/constraints.txt, a pin for every package that an installation with any extra takes: ``make constraints``.

pip's resolver is asked, once for each group of extras, what it would install; nothing is installed or built. A pin that
stands in the file already is kept, so only packages that pyproject.toml newly takes are added, at their newest version,
and those that nothing takes any more are dropped. To renew one package delete its line; ``--upgrade`` renews all
but those of `HELD`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from dependencies import requirements as requirements_of

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "infra" / "constraints.txt"
HELD = ("torch", "ray", "prefect")
"""Packages that only a person renews, with the slow tests: releases of theirs have changed behaviour before."""

GROUPS = (("test", "media", "vocos"), ("cluster-test", "serve", "infra"))
"""Extras that are resolved together. All groups share one environment's pins, so a package has one version in all."""


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it: lower case, single dashes."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(path: Path = CONSTRAINTS) -> dict[str, str]:
    """Return version by canonical name from lines ``name==version``; comments and empty lines are skipped."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pins = (line.partition("==") for line in lines if line)
    return {canonical(name): version for name, _, version in pins}


def resolve(requirements: list[str], pins: dict[str, str]) -> dict[str, str]:
    """Return what pip would install for the requirements under the pins: version by canonical name.

    Only wheels are considered. A local version label (``2.13.0+cpu``) is left out: it differs between indexes.

    Raises:
        RuntimeError: they do not resolve, or the index cannot be reached; the message is pip's.
    """
    with tempfile.TemporaryDirectory() as folder:
        constraints, wanted, report = (Path(folder) / name for name in ("constraints", "requirements", "report"))
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        wanted.write_text("".join(f"{line}\n" for line in requirements))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:", "--report", str(report)]
        command += ["-c", str(constraints), "-r", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
            raise RuntimeError("pip cannot resolve this:\n" + "\n".join(errors))
        packages = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return {canonical(package["name"]): package["version"].partition("+")[0] for package in packages}


def renew(pins: dict[str, str], upgrade: bool) -> dict[str, str]:
    """Return the pins of all groups together, from those that hold now."""
    held = {name: version for name, version in pins.items() if name in HELD or not upgrade}
    found: dict[str, str] = {}
    for group in GROUPS:
        found |= resolve(requirements_of(group), held | found)
    return dict(sorted(found.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help=f"renew every pin but those of {', '.join(HELD)}")
    new = renew(read_pins(), parser.parse_args().upgrade)
    CONSTRAINTS.write_text("".join(f"{name}=={version}\n" for name, version in new.items()), encoding="utf-8")
