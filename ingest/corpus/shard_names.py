"""Names of token shards and of the marks of those that hold clips which were taken out of the corpus.

The corpus marks shards as stale, and tokenizing writes them: both take the names from here.
"""

from __future__ import annotations

import re

PREFIX = "shard-"
STALE_ENDING = ".stale"


def shard_stem(index: int) -> str:
    """Return the name that all files of shard ``index`` share, without an ending."""
    return f"{PREFIX}{index:06d}"


def shard_name(index: int) -> str:
    """Return the file name of shard ``index``."""
    return f"{shard_stem(index)}.tar"


def shard_index(name: str) -> int | None:
    """Return the number of the shard that a file belongs to by its name, None for a file of no shard."""
    found = re.match(PREFIX + r"(\d+)\.", name)
    return None if found is None else int(found[1])


def stale_mark(shard_uri: str) -> str:
    """Return the file whose existence says of a shard that it holds clips which were taken out of the corpus."""
    return shard_uri.removesuffix(".tar") + STALE_ENDING
