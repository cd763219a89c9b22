"""What networks made, as it lies in a folder: pictures by arm and clip, and captions; with the judge's verdicts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from triforce.flows.examples.emoji.data import Picture
from triforce.flows.examples.emoji.matching import CaptionVerdict, Names, caption_right, retrieved
from triforce.flows.examples.emoji.retrieval import Judge
from triforce.ingest.errors import Rejected
from triforce.ingest.json_lines import read_lines
from triforce.ingest.media.pixels import decode_png

RESTORED = ("decode", "bicubic", "diffusion")
"""Arms that restore a given picture, so that nearness to it means something."""


@dataclass
class Made:
    """What lies in a folder to be judged."""

    arms: dict[str, dict[str, np.ndarray]]
    """Pictures ``(H, W, 3)`` uint8 by arm and clip id; the arm ``original`` is the corpus's own."""
    captions: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Files and lines that could not be read, or are of no clip of the corpus; they count nowhere."""
    right: dict[str, dict[str, bool]] = field(default_factory=dict)
    """By arm and clip id: whether the judge finds the name. `give_verdicts` fills these two in."""
    verdicts: dict[str, CaptionVerdict] = field(default_factory=dict)

    def ordered_arms(self) -> list[str]:
        """Return the arms in the order in which pictures come about."""
        first = [arm for arm in ("original", *RESTORED) if arm in self.arms]
        return [*first, *sorted(set(self.arms) - set(first))]


def read_made(folder: Path, pictures: dict[str, Picture]) -> Made:
    """Read what lies in ``folder``. Raises ValueError where there is nothing to judge."""
    made = Made({})
    for path in sorted(folder.glob("*/*.png")):
        if path.stem not in pictures:
            made.problems.append(f"{path.parent.name}/{path.name}: the corpus has no picture of this id")
            continue
        try:
            made.arms.setdefault(path.parent.name, {})[path.stem] = decode_png(path)
        except Rejected as error:
            made.problems.append(f"{path.parent.name}/{path.name}: {error.detail}")
    captions = folder / "captions.jsonl"
    for line, row, fault in read_lines(captions) if captions.is_file() else ():
        if row is None or str(row.get("clip_id")) not in pictures or not isinstance(row.get("text"), str):
            what = fault or "clip_id and text of a clip of the corpus belong here"
            made.problems.append(f"captions.jsonl:{line}: {what}")
        else:
            made.captions[row["clip_id"]] = row["text"]
    if not made.arms and not made.captions:
        raise ValueError(f"{folder}: no <arm>/<clip_id>.png and no captions.jsonl of this corpus are here")
    shown = {clip_id for arm in made.arms.values() for clip_id in arm} | set(made.captions)
    made.arms["original"] = {clip_id: pictures[clip_id].pixels for clip_id in sorted(shown)}
    return made


def give_verdicts(made: Made, pictures: dict[str, Picture], judge: Judge) -> None:
    """Say of each picture and caption whether it is right."""
    names = Names(list(pictures.values()))
    among = {clip_id: names.among(pictures[clip_id]) for clip_id in {*made.arms["original"], *made.captions}}
    for arm, some in made.arms.items():
        found = retrieved(judge, list(some.values()), [among[clip_id] for clip_id in some]) if some else []
        made.right[arm] = {clip_id: bool(value) for clip_id, value in zip(some, found, strict=True)}
    made.verdicts = {clip_id: caption_right(text, among[clip_id]) for clip_id, text in made.captions.items()}
