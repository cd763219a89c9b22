"""Judge pictures that networks restored or drew, and captions that they wrote.

    python -m triforce.flows.examples.emoji.judge FOLDER --corpus CORPUS

``FOLDER/<arm>/<clip_id>.png`` are pictures, as a rule of the arms decode, bicubic, diffusion and drawn, and
``FOLDER/captions.jsonl`` captions, a ``clip_id`` and a ``text`` a line. Name, split and original come from the corpus.

What counts as right: `matching`. The distances of features are of the judge's own network: `Judge.features`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from triforce.flows.examples.emoji.data import Picture, read_pictures
from triforce.flows.examples.emoji.made import RESTORED, Made, give_verdicts, read_made
from triforce.flows.examples.emoji.matching import NUM_NAMES, CaptionVerdict, Names, retrieved
from triforce.flows.examples.emoji.page import write_pages
from triforce.flows.examples.emoji.retrieval import Judge, RetrievalConfig, cached_judge
from triforce.ingest import storage
from triforce.ingest.media.pixels import to_planes
from triforce.ingest.text_tables import format_table
from triforce.train.evaluate.intervals import frechet_interval, mean_interval, resample_clips
from triforce.train.evaluate.pictures import Similarity, similarity

NUM_RESAMPLES = 200
"""Bootstrap draws: enough for two digits of a 95 % interval. Assumed."""
LEAST_FOR_FRECHET = 40
"""Pictures below which a Fréchet distance is not computed: covariances of fewer say nothing. Assumed."""
SPLITS = ("seen", "combination", "concept")


def judge_folder(
    folder: Path,
    corpus_uri: str,
    cache: Path,
    config: RetrievalConfig | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Any]:
    """Judge what lies in ``folder``; write ``judged.json``, ``page.html`` and ``sheet.png`` there; return the figures.

    The judge is trained on all pictures of the corpus unless its weights are in ``cache``.
    """
    pictures = read_pictures(corpus_uri)
    by_id = {each.clip_id: each for each in pictures}
    made = read_made(folder, by_id)
    judge = trained_judge(pictures, cache, config)
    give_verdicts(made, by_id, judge)
    figures = {
        "arms": {arm: _arm_figures(arm, made, by_id) for arm in made.ordered_arms()},
        "frechet": _frechet(made, by_id, judge, num_resamples),
        "captions": _caption_figures(made, by_id),
        "problems": made.problems,
    }
    storage.write_bytes(folder / "judged.json", json.dumps(figures, indent=1, ensure_ascii=False).encode())
    write_pages(folder, made, by_id, figures)
    return figures


def trained_judge(pictures: Sequence[Picture], cache: Path, config: RetrievalConfig | None = None) -> Judge:
    """Return the judge of these pictures."""
    pixels = np.stack([each.pixels for each in pictures])
    emoji = [each.emoji for each in pictures]
    return cached_judge(pixels, [each.name for each in emoji], [each.concept for each in emoji], cache, config)


def held_out_accuracy(corpus_uri: str, cache: Path, config: RetrievalConfig | None = None) -> dict[str, list[float]]:
    """Return how often a judge that was trained on the seen pictures alone finds the names of originals, by split."""
    pictures = read_pictures(corpus_uri)
    judge = trained_judge([each for each in pictures if each.split == "seen"], cache, config)
    names, found = Names(pictures), {}
    for split in SPLITS:
        chosen = [each for each in pictures if each.split == split]
        right = retrieved(judge, [each.pixels for each in chosen], [names.among(each) for each in chosen])
        found[split] = list(mean_interval(right, NUM_RESAMPLES, 0))
    return found


def _arm_figures(arm: str, made: Made, pictures: dict[str, Picture]) -> dict[str, dict[str, Any]]:
    """Return figures of an arm by split: the share retrieved and, of restorations, the nearness to the originals."""
    rows: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        chosen = [clip_id for clip_id in made.arms[arm] if pictures[clip_id].split == split]
        if not chosen:
            continue
        right = [made.right[arm][clip_id] for clip_id in chosen]
        rows[split] = {"num": len(chosen), "retrieved": list(mean_interval(right, NUM_RESAMPLES, 0))}
        if arm in RESTORED:
            near = [_nearness(made.arms[arm][clip_id], pictures[clip_id].pixels) for clip_id in chosen]
            psnr = [each.psnr_db for each in near if each.psnr_db is not None]
            rows[split]["psnr_db"] = float(np.mean(psnr)) if psnr else None
            rows[split]["ssim"] = float(np.mean([each.ssim for each in near]))
    return rows


def _nearness(pixels: np.ndarray, original: np.ndarray) -> Similarity:
    """Compare a restoration with the original, which is brought to its size."""
    height, width = pixels.shape[:2]
    if original.shape[:2] != (height, width):
        original = np.asarray(Image.fromarray(original).resize((width, height), Image.Resampling.BOX))
    return similarity(to_planes(original), to_planes(pixels))


def _frechet(made: Made, pictures: dict[str, Picture], judge: Judge, num_resamples: int) -> dict[str, Any]:
    """Return the Fréchet distances of arms to the originals of the same clips, of those seen and those held out.

    ``diffusion-bicubic`` is the paired difference, below zero where the diffusion network is nearer.
    """
    found: dict[str, Any] = {}
    features = {
        arm: dict(zip(some, judge.features(list(some.values())), strict=True)) for arm, some in made.arms.items()
    }
    for part, splits in (("seen", SPLITS[:1]), ("held out", SPLITS[1:])):
        rows: dict[str, Any] = {}
        for arm in made.ordered_arms():
            if arm != "original":
                rows |= _one_frechet(arm, arm, None, features, pictures, splits, num_resamples)
        if "diffusion" in features and "bicubic" in features:
            names = ("diffusion-bicubic", "diffusion", "bicubic")
            rows |= _one_frechet(*names, features, pictures, splits, num_resamples)
        if rows:
            found[part] = rows
    return found


def _one_frechet(
    label: str,
    arm: str,
    minus: str | None,
    features: dict[str, dict[str, np.ndarray]],
    pictures: dict[str, Picture],
    splits: Sequence[str],
    num_resamples: int,
) -> dict[str, Any]:
    """Return a row of `_frechet`, or none where there are too few pictures."""
    common = set(features[arm]) & set(features[minus or arm])
    chosen = sorted(clip_id for clip_id in common if pictures[clip_id].split in splits)
    if len(chosen) < LEAST_FOR_FRECHET:
        return {}
    of = {name: np.stack([features[name][clip_id] for clip_id in chosen]) for name in {"original", arm, minus or arm}}
    draws = resample_clips(len(chosen), num_resamples, 0)
    interval = frechet_interval(of["original"], of[arm], draws, minus=None if minus is None else of[minus])
    return {label: {"num": len(chosen), "distance": list(interval)}}


def _caption_figures(made: Made, pictures: dict[str, Picture]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for split in SPLITS:
        verdicts = [verdict for clip_id, verdict in made.verdicts.items() if pictures[clip_id].split == split]
        if verdicts:
            shares = {name: [getattr(each, name) for each in verdicts] for name in CaptionVerdict._fields}
            intervals = {name: list(mean_interval(values, NUM_RESAMPLES, 0)) for name, values in shares.items()}
            rows[split] = {"num": len(verdicts)} | intervals
    return rows


def tables(figures: dict[str, Any]) -> str:
    """Return the figures as tables of text."""
    rows = [
        (arm, split, row["num"], share(row["retrieved"]), _number(row.get("psnr_db"), 1), _number(row.get("ssim"), 3))
        for arm, splits in figures["arms"].items()
        for split, row in splits.items()
    ]
    parts = [format_table(("arm", "split", "pictures", f"right of {NUM_NAMES} %", "PSNR dB", "SSIM"), rows, (0, 1))]
    distances = [
        (arm, part, row["num"], "{:.4f} ({:.4f} to {:.4f})".format(*row["distance"]))
        for part, arms in figures["frechet"].items()
        for arm, row in arms.items()
    ]
    captions = [
        (split, row["num"], share(row["exact"]), share(row["right"])) for split, row in figures["captions"].items()
    ]
    if distances:
        parts.append(format_table(("arm", "pictures of", "num", "Fréchet distance"), distances, (0, 1)))
    if captions:
        parts.append(format_table(("captions of", "num", "exact %", "right %"), captions))
    return "\n".join(parts)


def summary(figures: dict[str, Any]) -> str:
    """Return the figures in a line: what is drawn and captioned rightly, and how diffusion compares with bicubic."""
    parts = [
        f"{arm} {split} {row['retrieved'][0]:.0%}"
        for arm, splits in figures["arms"].items()
        if arm in ("original", "drawn")
        for split, row in splits.items()
    ]
    parts += [f"captions {split} {row['right'][0]:.0%}" for split, row in figures["captions"].items()]
    if difference := figures["frechet"].get("held out", {}).get("diffusion-bicubic"):
        parts.append(
            "Fréchet distance of diffusion less that of bicubic {:.3f} ({:.3f} to {:.3f})".format(
                *difference["distance"]
            )
        )
    return ", ".join(parts)


def share(interval: Sequence[float]) -> str:
    """Return a share with its interval in percent."""
    return "{:.1f} ({:.1f} to {:.1f})".format(*(100 * value for value in interval))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def main() -> None:
    """Judge a folder from the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="Folder of <arm>/<clip_id>.png and captions.jsonl.")
    parser.add_argument("--corpus", required=True, help="The corpus that the pictures are of.")
    parser.add_argument("--cache", type=Path, help="Folder of the judge's weights; by default FOLDER.")
    parser.add_argument("--held-out", action="store_true", help="Also train a judge without the held-out pictures.")
    given = parser.parse_args()
    if given.held_out:
        for split, interval in held_out_accuracy(given.corpus, given.cache or given.folder).items():
            print(f"judge trained on seen originals alone, {split}: {share(interval)} % right of {NUM_NAMES}")
    figures = judge_folder(given.folder, given.corpus, given.cache or given.folder)
    print(tables(figures))
    for problem in figures["problems"][:10]:
        print(problem)


if __name__ == "__main__":
    main()
