"""What a page has to know of columns, thresholds and clips."""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any

from triforce.flows.browse.catalogue import Catalogue, each_name
from triforce.flows.browse.queries import KINDS, OPERATORS, Overlay
from triforce.flows.browse.thresholds import THRESHOLDS
from triforce.ingest.clips.columns.verdicts import REASONS
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.score_index import SCORES, TEXT_SCORES
from triforce.ingest.corpus.records import Clip

MAX_CHOICES = 300
"""Values that a page offers to choose from; of more it takes what is typed."""
MADE_HERE = {
    "duration_s": "Length, seconds.",
    "letters_per_s": "Letters of an alphabet a second, whatever script the text is in.",
    "unique_word_share": "Share of different words, of ten words or more.",
    "longest_word": "Characters of the longest word.",
    "verdict": "Why the clip would be dropped at the thresholds as they are set here; empty: it would be kept.",
    "marked": "Whether a person marked the clip as wrong.",
    "no_words": "Whether the text has no word in it.",
    "is_phantom": "Whether the text is only what Whisper writes over silence.",
    "touches_edge": "Whether a word touches an end of the clip.",
    "has_words": "Whether the times of the words are known.",
    "has_conditioning": "Whether clips of the same speaker are named.",
}


@cache
def field_documents() -> dict[str, str]:
    """Return what the fields of a `Clip` mean, by the documents in its source."""
    found = re.findall(r'^    (\w+): [^\n]+\n    """(.*?)"""$', inspect.getsource(Clip), re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found} | MADE_HERE


def about_columns(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Return every column: name, kind, operators, meaning, and what it may be where that is little."""
    choices = dict(each_name(catalogue)) | {"verdict": [str(reason) for reason in REASONS if reason]}
    documents = field_documents()
    return [
        {
            "name": name,
            "kind": kind,
            "operators": OPERATORS[kind],
            "is_score": name in (*SCORES, *TEXT_SCORES),
            "about": documents.get(name, ""),
            "choices": choices[name] if len(choices.get(name, ())) in range(1, MAX_CHOICES + 1) else None,
        }
        for name, kind in KINDS.items()
    ]


def about_thresholds() -> list[dict[str, Any]]:
    """Return every threshold with a score: its meaning and the range that it may have."""
    found = []
    for one in THRESHOLDS:
        field = FilterConfig.model_fields[one.field]
        limits = {
            name: getattr(rule, name) for rule in field.metadata for name in ("ge", "gt", "le") if hasattr(rule, name)
        }
        found.append(
            {"field": one.field, "score": one.score, "keeps_above": one.keeps_above, "about": field.description}
            | {"low": limits.get("ge", limits.get("gt")), "high": limits.get("le"), "whole": field.annotation is int}
        )
    return found


def clip_entry(catalogue: Catalogue, row: int, overlay: Overlay) -> dict[str, Any]:
    """Return a clip as a list shows it: its text, its origin, every score."""
    clips = catalogue.clips
    reason = REASONS[int(overlay.verdicts[row])]
    entry: dict[str, Any] = {"clip_id": catalogue.clip_id(row), "row": row}
    entry |= {name: catalogue.text_of(name, row) for name in ("source", "text", "title", "author", "speaker")}
    entry |= {name: catalogue.text_of(name, row) for name in ("language", "drop_reason", "modality")}
    entry["scores"] = {name: float(clips[name][row]) for name in (*SCORES, *TEXT_SCORES)}
    entry["start_s"] = float(clips["start_sample"][row] / clips["sample_rate_hz"][row])
    entry["marked"] = bool(overlay.marked[row])
    entry["verdict"] = reason and str(reason)
    return entry
