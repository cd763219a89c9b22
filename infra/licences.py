"""Print name, version and licence of what an installation takes: ``python infra/licences.py [EXTRA ...]``.

Read from the metadata of the packages that are installed here, for the core and for each extra (all of them, if none is
named), requirements of requirements included. LICENCES.md says what follows from them for users.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from constraints import canonical
from dependencies import extras, requirements
from packaging.requirements import Requirement

STRONG = re.compile(r"(?<![LA-Z])A?GPL|GNU (Affero )?General Public", re.IGNORECASE)
"""Licences that extend to a work which is distributed with the package; the LGPL is not one."""


def closure(lines: Iterable[str]) -> dict[str, Distribution | None]:
    """Return the packages that requirements take, by canonical name; None for one that is not installed here."""
    found: dict[str, Distribution | None] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        wanted = waiting.pop()
        name = canonical(wanted.name)
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            found.setdefault(name, None)
            continue
        for extra in {"", *wanted.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            nested = [Requirement(line) for line in found[name].requires or ()]
            waiting += [each for each in nested if each.marker is None or each.marker.evaluate({"extra": extra})]
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """Return the licence that a package's metadata state: the expression, else the classifiers, else the free text."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [
        line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if line.startswith("License ::")
    ]
    named = [line for line in classifiers if line != "OSI Approved"]
    if named:
        return " OR ".join(named)
    text = (metadata.get("License") or "").strip()
    return text.splitlines()[0][:60] if text else "not stated"


def is_strong(terms: str) -> bool:
    """Return whether a licence leaves no choice but the GPL or AGPL: of terms joined by OR each has to be one."""
    return all(STRONG.search(each) for each in re.split(r"\s+OR\s+", terms, flags=re.IGNORECASE))


def table(names: Iterable[str]) -> list[str]:
    """Return a line for each package that the core, or an extra beyond the core, takes."""
    core = closure(requirements())
    lines = []
    for extra in ("", *names):
        packages = (
            {name: each for name, each in closure(requirements([extra])).items() if name not in core} if extra else core
        )
        lines.append(f"\n{extra or 'core'}")
        for name, package in packages.items():
            terms = licence(package) if package else "not installed here"
            lines.append(f"  {name:32} {package.version if package else '':18} {terms}")
    return lines


if __name__ == "__main__":
    print("\n".join(table(sys.argv[1:] or extras())))
