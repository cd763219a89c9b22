"""The card of an exported dataset: a README.md with the YAML header that Hugging Face reads."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import yaml

from triforce.ingest.export.config import ExportConfig
from triforce.ingest.export.summary import ExportSummary, Seconds

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MAX_AUTHORS = 1000
"""Authors of a source that the card names, those of the most hours first. Assumed."""
HUB_LICENCES = re.compile(r"cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.0|apache-2\.0|mit|odc-by|pddl")
"""Names of licences that the hub knows, of those that speech comes under."""
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def dataset_card(summary: ExportSummary, config: ExportConfig, name: str) -> str:
    """Return the card: hours, licences, sources, languages, scores, and where to ask that something is taken down."""
    header = yaml.safe_dump(_header(summary, config, name), allow_unicode=True, sort_keys=False)
    sources = [_source_row(summary, source) for source in _sorted(summary.by_source)]
    splits = _by_hours(summary.by_split, "none")
    parts = [
        f"---\n{header}---\n",
        f"# {name}\n",
        f"{summary.duration_s / 3600:.2f} hours of speech in {summary.num_clips} clips by {len(summary.speakers)} "
        "named speakers. 24 kHz, mono, 16 bits; each clip with its text.\n",
        "## Licences\n",
        _table(("licence", "hours"), _by_hours(summary.by_licence, "not stated")),
        "Each clip is under the licence that its row states; one that asks for it wants the author named.\n",
        "## Sources\n",
        _table(("source", "hours", "licences", "authors"), sources),
        "## Languages\n",
        _table(("language", "hours"), _by_hours(summary.by_language, "not known")),
        f"## Splits\n\n{_table(('split', 'hours'), splits)}" if set(summary.by_split) != {None} else "",
        "## Scores\n",
        _table(("score", *(f"{share:.0%}" for share in QUANTILES)), _score_rows(summary)),
        "Of the clips, the share at the head of a column lies below its number.\n",
        "## Taking something down\n",
        f"Whoever finds their voice or work here and wants it removed writes to {config.contact} and names the clips "
        "by their ids. What is taken down is removed from the corpus, and from every later export.\n",
        "## How it was made\n",
        f"By `triforce corpus export --format {config.format}`, version {_version()}, on "
        f"{datetime.datetime.now(datetime.UTC).date().isoformat()}. {_choice(config)}\n",
    ]
    return "\n".join(part for part in parts if part)


def _header(summary: ExportSummary, config: ExportConfig, name: str) -> dict[str, Any]:
    header: dict[str, Any] = {"pretty_name": name}
    licences = {_hub_licence(licence) for licence in summary.by_licence}
    header["license"] = licences.pop() if len(licences) == 1 else "other"
    if languages := sorted(filter(None, summary.by_language)):
        header["language"] = languages
    header["task_categories"] = ["automatic-speech-recognition", "text-to-speech"]
    header["size_categories"] = [next((size for most, size in SIZES if summary.num_clips < most), "n>10M")]
    if config.format == "parquet":
        files = [{"split": "train", "path": "data/train-*.parquet"}]
        header["configs"] = [{"config_name": "default", "data_files": files}]
    return header


def _hub_licence(licence: str | None) -> str:
    """The hub's name of a licence, ``other`` where it has none."""
    plain = re.sub(r"\s+", "-", (licence or "").strip().lower())
    return plain if HUB_LICENCES.fullmatch(plain) else "other"


def _by_hours(sums: Seconds, unnamed: str) -> list[tuple[str, str]]:
    return [(name or unnamed, f"{sums[name] / 3600:.2f}") for name in _sorted(sums)]


def _sorted(sums: Seconds) -> list[str | None]:
    """The names, those of the most seconds first."""
    return sorted(sums, key=lambda name: (-sums[name], name or ""))


def _source_row(summary: ExportSummary, source: str) -> tuple[str, str, str, str]:
    authors = [author for author in _sorted(summary.authors_of[source]) if author]
    more = f" and {len(authors) - MAX_AUTHORS} more" if len(authors) > MAX_AUTHORS else ""
    licences = ", ".join(licence or "not stated" for licence in _sorted(summary.licences_of[source]))
    hours = f"{summary.by_source[source] / 3600:.2f}"
    return source, hours, licences, ", ".join(authors[:MAX_AUTHORS]) + more or "not named"


def _score_rows(summary: ExportSummary) -> list[tuple[str, ...]]:
    return [
        (name, *(f"{value:.2f}" for value in np.quantile(np.asarray(found, np.float64), QUANTILES)))
        for name, found in summary.scores.items()
        if len(found)
    ]


def _choice(config: ExportConfig) -> str:
    lists = {name: getattr(config, name) for name in ("sources", "speakers", "languages")}
    chosen = [f"{name} {', '.join(values)}" for name, values in lists.items() if values]
    chosen += [f"{name} of at least {least:g}" for name, least in config.min_scores.items()]
    return f"Only: {'; '.join(chosen)}." if chosen else "All clips that the corpus keeps."


def _version() -> str:
    try:
        return version("triforce")
    except PackageNotFoundError:
        return "unknown, run from its source"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    """Text from outside, which may neither end its cell nor become markup."""
    return re.sub(r"([|<>\[\]`*_\\])", r"\\\1", " ".join(str(text).split()))
