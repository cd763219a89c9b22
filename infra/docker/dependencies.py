"""Print the project's dependencies, and those of the extras named as arguments, for ``pip install -r``."""

import re
import sys
import tomllib
from pathlib import Path


def requirements(extras: list[str]) -> list[str]:
    """Every requirement once, setuptools for the build included; extras that name extras are followed."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], "setuptools>=77"]
    waiting = list(extras)
    while waiting:
        for line in project["optional-dependencies"][waiting.pop()]:
            own = re.fullmatch(r"triforce\[(.*)\]", line)
            if own:
                waiting += own[1].split(",")
            else:
                lines.append(line)
    return sorted(set(lines))


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
