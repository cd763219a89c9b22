"""The documents name every reason for a rejection, as the code has them."""

from __future__ import annotations

import re
from pathlib import Path

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import REASONS

README = Path(__file__).parents[2] / "ingest" / "README.md"


def table() -> list[str]:
    head = ["| reason | meaning | tried again | what to do next |", "|---|---|---|---|"]
    return head + [
        f"| `{reason}` | {each.meaning} | {'yes' if reason.transient else 'no'} | {each.advice} |"
        for reason, each in REASONS.items()
    ]


def test_every_reason_is_explained():
    assert set(REASONS) == set(RejectReason)


def test_the_readme_holds_the_table():
    """On failure the message is the table to put there."""
    section = re.search(r"## Why a recording is rejected\n(.*?)\n## ", README.read_text("utf-8"), re.DOTALL).group(1)
    assert [line for line in section.splitlines() if line.startswith("|")] == table(), "\n".join(table())
