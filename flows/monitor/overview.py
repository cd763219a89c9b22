"""One page about a run, from what the stages wrote: hours by source, drops by reason, shards, losses."""

from __future__ import annotations

import json
from collections import Counter

from triforce.flows.monitor import stage_progress
from triforce.flows.monitor.ingest_summary import counted
from triforce.ingest import storage
from triforce.ingest.corpus.stats import stats
from triforce.ingest.corpus.store import Corpus

STAGES = ("dvae", "gpt", "diffusion")


def overview(folder: str) -> str:
    """Return Markdown about the run below ``folder``, laid out as by the flow ``pipeline``; leave out missing parts."""
    parts = [_corpus(storage.join(folder, "corpus")), _tokens(storage.join(folder, "tokens"))]
    parts += [_stage(storage.join(folder, "release"), stage) for stage in STAGES]
    return "\n\n".join(part for part in parts if part) or "nothing is here yet"


def _corpus(uri: str) -> str:
    corpus = Corpus(uri)
    if not corpus.sources():
        return ""
    rows = ["| source | recordings | hours | clips | kept | kept hours | dropped | rejected |", "|---" * 8 + "|"]
    for name, item in stats(corpus).items():
        cells = (
            name,
            sum(item.recordings.values()),
            f"{item.recorded_s / 3600:.2f}",
            item.num_clips,
            item.num_kept,
            f"{item.kept_s / 3600:.2f}",
            counted(Counter(item.drops)),
            counted(Counter(item.reasons)),
        )
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "### Corpus\n\n" + "\n".join(rows)


def _tokens(uri: str) -> str:
    """Return a line for each dVAE, whose shards are in a folder of their own."""
    rows = []
    for name in storage.list_folders(uri):
        index = storage.join(uri, name, "index.json")
        if storage.exists(index):
            totals = json.loads(storage.read_bytes(index))["totals"]
            hours = totals["duration_s"] / 3600
            rows.append(f"- dVAE {name}: {totals['num_clips']} clips, {totals['num_codes']} codes, {hours:.2f} h")
    return "### Token shards\n\n" + "\n".join(rows) if rows else ""


def _stage(release: str, stage: str) -> str:
    metrics = storage.join(release, stage, "metrics.jsonl")
    if not storage.exists(metrics):
        return ""
    return f"### {stage}\n\n{stage_progress.curve_table(metrics, rows=10)}"
