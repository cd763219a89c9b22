"""The report's section on the codes: how often each occurs, which follows which, how the frequent ones sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from triforce.ingest import storage
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.encode import encode_flac
from triforce.models.audio.mel import MelConfig
from triforce.models.quantize import perplexity
from triforce.models.release_files import load_card
from triforce.tokenize.inspect.usage import CodeUsage, Occurrence, code_usage
from triforce.tokenize.planning.inputs import read_rows
from triforce.tokenize.planning.plan_files import Member
from triforce.tokenize.read import decode_flac

TEMPLATE = "codes_template.html"
NUM_HEARD = 16
"""Number of codes with sounds to play."""
AROUND_S = 0.15
"""Sound played before and after the code itself, whose 43 ms alone are a click. Assumed."""


def codes_section(tokens: str | None, corpus: str | None, release: str | None) -> str | None:
    """Return the section as HTML, None where nothing is tokenized yet. Sounds need the corpus and the dVAE's card."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from triforce.flows.report import figures

    if tokens is None or not storage.exists(storage.join(tokens, "index.json")):
        return None
    usage = code_usage(tokens)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["count"] = "{:,}".format
    template = environment.from_string(Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        svg=Markup,
        usage=usage,
        total=int(usage.counts.sum()),
        live=int((usage.counts > 0).sum()),
        perplexity=perplexity(usage.counts),
        histogram=figures.rank_chart(usage.counts[usage.counts > 0].tolist(), name="corpus-codes"),
        transitions=transition_chart(usage),
        rows=_rows(usage, corpus, load_card(release, "dvae") if release else None),
    )


def transition_chart(usage: CodeUsage) -> str:
    """Draw how likely each frequent code (column) follows each other (row), as SVG."""
    from triforce.flows.report import figures

    share = usage.transitions / np.maximum(usage.followers, 1)[:, None]
    figure, axes = figures.new_figure(5.4, 5.0, "transitions")
    image = axes.imshow(np.sqrt(share), cmap="viridis", vmin=0, interpolation="nearest")
    labels = [str(code) for code in usage.top]
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
    axes.set_yticks(range(len(labels)), labels, fontsize=6)
    axes.set_xlabel("next code")
    axes.set_ylabel("code")
    axes.grid(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    ticks = bar.get_ticks()
    bar.set_ticks(ticks, labels=[f"{100 * tick * tick:.0f} %" for tick in ticks])
    bar.ax.tick_params(colors=figures.INK, labelsize=7)
    return figures.to_svg(figure, "transitions")


def _rows(usage: CodeUsage, corpus: str | None, card: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the frequent codes: share, likeliest next code, and sounds of a few places where there are some."""
    total, rows = usage.counts.sum(), []
    for rank, code in enumerate(usage.top[:NUM_HEARD]):
        after = int(usage.transitions[rank].argmax())
        likely = usage.transitions[rank, after] / max(1, usage.followers[rank])
        sounds: list[str | None] = []
        if corpus and card and "mel" in card:
            sounds = [snippet(Corpus(corpus), place, card) for place in usage.occurrences[rank]]
        row = {"code": int(code), "share": usage.counts[code] / total, "next": int(usage.top[after]), "likely": likely}
        rows.append(row | {"sounds": [sound for sound in sounds if sound]})
    return rows


def snippet(corpus: Corpus, place: Occurrence, card: dict[str, Any]) -> str | None:
    """Return the sound around a code as MP3 in a data URI; None where the clip has left the corpus."""
    from triforce.flows.report import figures

    rows = read_rows(corpus, [Member(place.clip_id, place.recording_id, place.source)], None, ["audio"])
    if not rows:
        return None
    config = MelConfig.model_validate(card["mel"])
    waveform = decode_flac(rows[0]["audio"]["bytes"], config.sample_rate_hz)
    per_code = config.hop_length * card["model"]["compression"][0]
    around = round(AROUND_S * config.sample_rate_hz)
    start = place.position * per_code
    heard = waveform[max(0, start - around) : start + per_code + around]
    return figures.mp3(encode_flac(heard, config.sample_rate_hz))


def write_codes_page(tokens: str, out: str, corpus: str | None, release: str | None) -> str:
    """Write the section as a page of its own; return where it was written."""
    section = codes_section(tokens, corpus, release)
    if section is None:
        raise FileNotFoundError(f"{tokens}: no index.json here; run `triforce tokenize` to its end")
    style = (
        "body{max-width:60rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 system-ui,sans-serif}svg{max-width:40rem}"
    )
    style += "td,th{text-align:left;padding:.3rem .8rem .3rem 0;vertical-align:top}audio{height:2rem;width:11rem}"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Codes</title><style>{style}</style>'
    storage.write_bytes(out, f"{head}<h1>What the codes are</h1>{section}</html>".encode())
    return out
