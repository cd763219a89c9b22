"""The page of the emoji: originals, decodes, restorations and drawn pictures side by side, and a contact sheet."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from triforce.flows.examples.emoji.data import Picture
from triforce.flows.examples.emoji.made import Made
from triforce.flows.examples.emoji.matching import NUM_NAMES
from triforce.flows.report.figures import data_uri
from triforce.ingest import storage
from triforce.ingest.media.pixels import encode_png

NUM_SHOWN, NUM_CAPTIONS = 24, 60
"""Rows of pictures of a split, and captions of a split, on the page. Assumed."""
SHEET_COLUMNS, SHEET_PER_SPLIT, SHEET_SIDE, SHEET_GAP = 12, 12, 96, 6
SPLITS = {
    "seen": "names that were trained on",
    "combination": "unseen combinations of a seen concept and a seen skin tone",
    "concept": "unseen concepts",
}
STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.3rem .7rem;border-bottom:1px solid #8886;text-align:left;
vertical-align:middle}.scroll{overflow-x:auto}img{width:96px;height:96px;display:block;background:#fff;
border:3px solid #8886;border-radius:4px}img.right{border-color:#3f9c6d}img.wrong{border-color:#d9534f}
.small{font-size:.85rem;opacity:.8}
"""


def write_pages(folder: Path, made: Made, pictures: dict[str, Picture], figures: dict[str, Any]) -> None:
    """Write ``page.html``, which opens without a network, and ``sheet.png``."""
    storage.write_bytes(folder / "page.html", _page(made, pictures, figures).encode())
    sheet = contact_sheet(made, pictures)
    if sheet is not None:
        storage.write_bytes(folder / "sheet.png", encode_png(sheet))


def _page(made: Made, pictures: dict[str, Picture], figures: dict[str, Any]) -> str:
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width"><title>Emoji drawn from their names</title>',
        f"<style>{STYLE}</style><h1>Emoji drawn from their names</h1>",
        f"<p>A frame is green where the judge finds the picture's name among {NUM_NAMES}, and red where it does not. "
        "The judge was trained on the real pictures alone; the originals are what it can reach.</p>",
        _figures_table(figures),
    ]
    for split, title in SPLITS.items():
        rows = shown_clips(made, pictures, split, NUM_SHOWN)
        if rows:
            parts.append(f'<section id="{split}"><h2>{html.escape(title.capitalize())}</h2>')
            parts.append(_pictures_table(rows, made, pictures) + "</section>")
    captions = [_captions_table(made, pictures, split) for split in SPLITS]
    if any(captions):
        parts += ['<section id="captions"><h2>Captions that the network wrote</h2>', *captions, "</section>"]
    return "\n".join(parts)


def shown_clips(made: Made, pictures: dict[str, Picture], split: str, count: int) -> list[str]:
    """Return clips of a split to show: those that most arms have, by id, which is in random order."""
    chosen = [clip_id for clip_id in made.arms["original"] if pictures[clip_id].split == split]
    chosen.sort(key=lambda clip_id: (-sum(clip_id in some for some in made.arms.values()), clip_id))
    return chosen[:count]


def _figures_table(figures: dict[str, Any]) -> str:
    splits = [split for split in SPLITS if any(split in rows for rows in figures["arms"].values())]
    head = "".join(f"<th>{html.escape(split)}</th>" for split in splits)
    body = []
    for arm, rows in figures["arms"].items():
        cells = "".join(f"<td>{_share(rows[s]['retrieved']) if s in rows else '-'}</td>" for s in splits)
        body.append(f"<tr><td>{html.escape(arm)}</td>{cells}</tr>")
    lines = [f"<h2>Names found among {NUM_NAMES}</h2>", _table(f"<tr><th></th>{head}</tr>{''.join(body)}")]
    for part, arms in figures["frechet"].items():
        for arm, row in arms.items():
            value, low, high = row["distance"]
            lines.append(
                f"<p class=small>Fréchet distance of {row['num']} pictures, {html.escape(part)}, "
                f"{html.escape(arm)}: {value:.4f} ({low:.4f} to {high:.4f})</p>"
            )
    for split, row in figures["captions"].items():
        lines.append(
            f"<p class=small>Captions, {html.escape(split)}: exact {_share(row['exact'])}, "
            f"right {_share(row['right'])} of {row['num']}</p>"
        )
    return "\n".join(lines)


def _share(interval: list[float]) -> str:
    value, low, high = (100 * each for each in interval)
    return f"{value:.0f} % <span class=small>({low:.0f} to {high:.0f})</span>"


def _pictures_table(rows: list[str], made: Made, pictures: dict[str, Picture]) -> str:
    arms = [arm for arm in made.ordered_arms() if any(clip_id in made.arms[arm] for clip_id in rows)]
    head = "".join(f"<th>{html.escape(arm)}</th>" for arm in arms)
    body = []
    for clip_id in rows:
        cells = "".join(f"<td>{_image(made, arm, clip_id)}</td>" for arm in arms)
        body.append(f"<tr><td>{html.escape(pictures[clip_id].emoji.name)}</td>{cells}</tr>")
    return _table(f"<tr><th></th>{head}</tr>{''.join(body)}")


def _image(made: Made, arm: str, clip_id: str) -> str:
    if clip_id not in made.arms[arm]:
        return ""
    verdict = "right" if made.right[arm][clip_id] else "wrong"
    source = data_uri(encode_png(made.arms[arm][clip_id]), "image/png")
    return f'<img class="{verdict}" alt="{html.escape(arm)}: {verdict}" src="{source}">'


def _captions_table(made: Made, pictures: dict[str, Picture], split: str) -> str:
    chosen = sorted(clip_id for clip_id in made.captions if pictures[clip_id].split == split)[:NUM_CAPTIONS]
    rows = []
    for clip_id in chosen:
        picture, verdict = pictures[clip_id], made.verdicts[clip_id]
        image = f'<img alt="original" src="{data_uri(encode_png(picture.pixels), "image/png")}">'
        words = "exact" if verdict.exact else "right" if verdict.right else "wrong"
        cells = (picture.emoji.name, made.captions[clip_id], words)
        rows.append(f"<tr><td>{image}</td>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    if not rows:
        return ""
    head = "<tr><th></th><th>name</th><th>caption</th><th></th></tr>"
    return f"<h3>{html.escape(SPLITS[split].capitalize())}</h3>{_table(head + ''.join(rows))}"


def _table(rows: str) -> str:
    """Return a table that scrolls by itself on a narrow screen."""
    return f'<div class="scroll"><table>{rows}</table></div>'


def contact_sheet(made: Made, pictures: dict[str, Picture]) -> np.ndarray | None:
    """Return ``(H, W, 3)`` uint8: pictures in columns, an arm in each row, a band for each split.

    None where there are no pictures.
    """
    arms, cell = made.ordered_arms(), SHEET_SIDE + SHEET_GAP
    shown = [clips for split in SPLITS if (clips := shown_clips(made, pictures, split, SHEET_PER_SPLIT))]
    bands = [clips[i : i + SHEET_COLUMNS] for clips in shown for i in range(0, len(clips), SHEET_COLUMNS)]
    if not bands:
        return None
    width = max(map(len, bands)) * cell + SHEET_GAP
    height = len(bands) * (len(arms) * cell + SHEET_GAP) + SHEET_GAP
    sheet = Image.new("RGB", (width, height), "white")
    for number, clips in enumerate(bands):
        top = SHEET_GAP + number * (len(arms) * cell + SHEET_GAP)
        for row, arm in enumerate(arms):
            for column, clip_id in enumerate(clips):
                if clip_id in made.arms[arm]:
                    small = Image.fromarray(made.arms[arm][clip_id]).resize((SHEET_SIDE, SHEET_SIDE))
                    sheet.paste(small, (SHEET_GAP + column * cell, top + row * cell))
    return np.asarray(sheet)
