"""Print the project's dependencies, and those of the extras named as arguments, for ``pip install -r``."""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def extras() -> list[str]:
    """Return the names of the project's extras."""
    return list(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"])


def requirements(extras: list[str] | tuple[str, ...] = ()) -> list[str]:
    """Return every requirement once, setuptools for the build included; extras that name extras are followed.

    Raises:
        ValueError: pyproject.toml has no such extra.
    """
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"]
    lines, waiting = [*project["dependencies"], "setuptools>=77"], list(extras)
    while waiting:
        extra = waiting.pop()
        if extra not in known:
            raise ValueError(f"extra {extra!r}: pyproject.toml has {', '.join(known)}")
        for line in known[extra]:
            own = re.fullmatch(r"triforce\[(.*)\]", line)
            if own:
                waiting += own[1].split(",")
            else:
                lines.append(line)
    return sorted(set(lines))


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
