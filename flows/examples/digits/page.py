"""The report of the digits: tables, and for each direction a row of prompts and answers to look at and play."""

from __future__ import annotations

import base64
import html
import io

import numpy as np
import soundfile

from triforce.flows.examples.digits.crossing import Answer, Direction
from triforce.flows.examples.digits.data import WORDS
from triforce.ingest.media.pixels import encode_png

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:left}
img{width:56px;height:56px;image-rendering:pixelated;border:1px solid #ccc}
.row{display:flex;flex-wrap:wrap;gap:.6rem}.card{border:1px solid #ddd;border-radius:6px;padding:.5rem;min-width:9rem}
.card.wrong{border-color:#c33;background:#fff3f3}.small{color:#666;font-size:.85rem}audio{width:8.5rem;height:32px}
"""


def write_page(directions: list[Direction], tables: dict[str, list[dict]], notes: list[str]) -> str:
    """Return one HTML document that opens without a network."""
    parts = [f"<!doctype html><meta charset=utf-8><title>Digits in three media</title><style>{STYLE}</style>"]
    parts.append("<h1>Digits in three media, one network</h1>")
    parts += [f"<p>{html.escape(note)}</p>" for note in notes]
    for title, rows in tables.items():
        parts.append(f"<h2>{html.escape(title)}</h2>{_table(rows)}")
    for direction in directions:
        parts.append(f"<h2>{html.escape(direction.layout)}: {direction.share_right:.0%} right</h2><div class=row>")
        parts += [_card(answer, direction.layout) for answer in direction.answers[: len(WORDS)]]
        parts.append("</div>")
    return "\n".join(parts)


def _table(rows: list[dict]) -> str:
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row.values()) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _card(answer: Answer, layout: str) -> str:
    right = answer.judged == answer.word
    prompt = " ".join(_medium(content) for content in answer.prompt.values())
    verdict = html.escape(answer.judged or "nothing")
    return (
        f'<div class="card{"" if right else " wrong"}"><div>{prompt}</div><div class=small>&rarr; {layout}</div>'
        f"<div>{_medium(answer.made)}</div><div class=small>{answer.word}; judged: {verdict}</div></div>"
    )


def _medium(content: np.ndarray | str) -> str:
    if isinstance(content, str):
        return f"<b>{html.escape(content)}</b>"
    if content.dtype == np.uint8:
        return f'<img src="data:image/png;base64,{base64.b64encode(encode_png(content)).decode()}">'
    buffer = io.BytesIO()
    soundfile.write(buffer, content, 24_000, format="WAV", subtype="PCM_16")
    return f'<audio controls src="data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode()}"></audio>'
