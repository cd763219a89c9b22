"""``report.html``: a run's data, training, figures and sounds in one file that opens without a network."""

from __future__ import annotations

import json
import logging
import os
import struct
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from triforce.flows.report.codes import codes_section
from triforce.ingest import storage
from triforce.ingest.corpus.stats import stats
from triforce.ingest.corpus.store import Corpus
from triforce.models.release_files import STAGES, VOCODER, load_card
from triforce.train.evaluate.results import LABELS, Evaluation, read_evaluation

logger = logging.getLogger(__name__)

TEMPLATE = "report_template.html"
STAGE_TITLES = {"dvae": "dVAE", "gpt": "GPT", "diffusion": "Diffusion", VOCODER: "Vocoder"}
RESYNTHESES = ("original", "vocoder", "dvae", "diffusion")
HEARD_FIRST = ("original", "tts_unseen", "tts_bundled")
"""Systems whose players come first: the original, and who read its text without ever having heard it."""
MAX_AUDIO_BYTES = 11_000_000
"""Sound in the page at most, base64 included, so that it stays under 15 MB; further samples are left out."""
LIBRARIES = ("triforce", "torch", "ray", "prefect", "faster-whisper", "ctranslate2", "yt-dlp", "pyarrow", "numpy")


@dataclass(frozen=True)
class ReportInputs:
    """URIs of the parts of a run; None, or a place with nothing in it, is shown as "not yet"."""

    corpus: str | None = None
    heldout: str | None = None
    release: str | None = None
    evaluation: str | None = None
    timings: str | None = None
    media: str | None = None
    """A folder of other media, each with its corpus, release and tokens."""
    tokens: str | None = None

    @classmethod
    def of_run(cls, folder: str | os.PathLike) -> ReportInputs:
        """Return the parts of a run below one folder, as the demo and the flow ``pipeline`` lay them out."""
        names = {name: name for name in ("corpus", "heldout", "release", "evaluation", "media", "tokens")}
        names["timings"] = "timings.json"
        return cls(**{name: storage.join(folder, place) for name, place in names.items()})


def write_report(
    run_folder: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    *,
    inputs: ReportInputs | None = None,
    title: str = "Triforce",
) -> str:
    """Write the report of a run folder, or of ``inputs`` found elsewhere, to ``out``; return where it was written.

    ``out`` is ``report.html`` in the run folder by default. Raises ImportError where the extra ``report`` is missing,
    ValueError where neither a folder nor inputs are given, and FileNotFoundError where the folder does not exist.
    """
    _require_extra()
    if inputs is None and run_folder is None:
        raise ValueError("nothing to report on: give the folder of a run, or the places of its pieces")
    if out is None and run_folder is None:
        raise ValueError("no place to write to: give out, as in 'report.html'")
    if run_folder is not None and not storage.exists(run_folder):
        raise FileNotFoundError(f"{os.fspath(run_folder)}: no such folder; run `triforce demo` first, or name another")
    inputs = inputs or ReportInputs.of_run(run_folder)
    out = os.fspath(out) if out is not None else storage.join(run_folder, "report.html")
    page = render(inputs, title)
    storage.write_bytes(out, page.encode())
    logger.info("report: %s, %.1f MB", out, len(page) / 1e6)
    return out


def render(inputs: ReportInputs, title: str = "Triforce") -> str:
    """Return the page. Every string that is put in is escaped, but for our own charts."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"hours": _hours, "clock": _clock, "count": "{:,}".format, "percent": "{:.1%}".format}
    template = environment.from_string(Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8"))
    evaluation = read_evaluation(inputs.evaluation) if inputs.evaluation else None
    pieces = {
        "corpus": _corpus(inputs.corpus),
        "heldout": _corpus(inputs.heldout),
        "stages": [about for stage in (*STAGES, VOCODER) if (about := _stage(inputs.release, stage)) is not None],
        "evaluation": _evaluation(evaluation),
        "samples": _samples(inputs.evaluation, evaluation),
        "timings": _timings(inputs.timings),
        "codes": codes_section(inputs.tokens, inputs.corpus, inputs.release),
        "versions": _versions(),
        "resyntheses": RESYNTHESES,
        "media": _media(inputs.media),
    }
    return template.render(title=title, svg=Markup, **pieces)


def _require_extra() -> None:
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the report needs {error.name}: pip install 'triforce[report]'") from error


def _corpus(uri: str | None) -> dict[str, Any] | None:
    """Return counts by source and clip lengths; None where there is no corpus yet."""
    from triforce.flows.report import figures

    if uri is None or not (corpus := Corpus(uri)).sources():
        return None
    by_source = stats(corpus)
    total = by_source.pop("total")
    clips = corpus.clips(["duration_s", "drop_reason"]) if corpus.clip_files() else None
    chart = None
    if clips is not None and clips.num_rows:
        lengths = clips["duration_s"].to_numpy()
        kept = np.array([reason is None for reason in clips["drop_reason"].to_pylist()])
        groups = {"kept": lengths[kept], "dropped": lengths[~kept]}
        chart = figures.histogram(groups, x_label="length of a clip, s", y_label="clips", name=f"lengths-{_slug(uri)}")
    return {"uri": uri, "sources": by_source, "total": total, "lengths": chart}


def _stage(release: str | None, stage: str) -> dict[str, Any] | None:
    """Return a network's size, hash and curves; ``card`` is None where it is not trained yet.

    Returns None where there is no vocoder, as a release needs none.
    """
    about: dict[str, Any] = {"name": stage, "title": STAGE_TITLES[stage], "card": None, "panels": [], "parameters": 0}
    card = load_card(release, stage) if release else None
    if card is None:
        return about if stage != VOCODER else None
    folder = storage.join(release, stage)
    metrics = storage.join(folder, "metrics.jsonl")
    history = _json_lines(metrics) if storage.exists(metrics) else []
    about |= {"card": card, "panels": _panels(history, stage), "last": history[-1] if history else {}}
    return about | {"parameters": _count_values(storage.join(folder, "model.safetensors"))}


def _json_lines(uri: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in storage.read_bytes(uri).decode().splitlines() if line.strip()]


def _panels(history: list[dict[str, Any]], stage: str) -> list[dict[str, str]]:
    """Return a chart for each metric name; ``train/loss`` and ``eval/loss`` share one. Losses come first."""
    from triforce.flows.report import figures

    series: dict[str, dict[str, tuple[list, list]]] = {}
    for entry in history:
        for key, value in entry.items():
            group, slash, name = key.partition("/")
            if slash and isinstance(value, int | float) and np.isfinite(value):
                x, y = series.setdefault(name, {}).setdefault(group, ([], []))
                x.append(entry.get("step", len(x)))
                y.append(value)
    panels = []
    for name in sorted(series, key=lambda name: ("loss" not in name, name)):
        last = ", ".join(f"{group} {points[1][-1]:.4g} at the end" for group, points in series[name].items())
        chart = figures.line_chart(series[name], x_label="step", name=f"{stage}-{_slug(name)}")
        panels.append({"name": name, "chart": chart, "summary": last})
    return panels


def _count_values(uri: str) -> int:
    """Count the values in a safetensors file, from its header alone."""
    fs, path = storage.resolve(uri)
    with fs.open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(int(np.prod(tensor["shape"])) for name, tensor in header.items() if name != "__metadata__")


def _evaluation(evaluation: Evaluation | None) -> dict[str, Any] | None:
    from triforce.flows.report import figures

    if evaluation is None:
        return None
    original = evaluation.system("original")
    rows = [(LABELS[s.name], *(100 * figure for figure in s.wer)) for s in evaluation.systems]
    use = evaluation.codebook
    return {
        "record": evaluation,
        "labels": LABELS,
        "true_sharpness": original.sharpness if original else None,
        "factors": evaluation.timings.get("real_time_factor", {}),
        "chart": figures.interval_chart(rows, x_label="word error rate, %, with 95 % interval", name="wer"),
        "codes": figures.rank_chart(list(use["counts"].values()), name="codes") if use["counts"] else None,
    }


def _samples(uri: str | None, evaluation: Evaluation | None) -> list[dict[str, Any]]:
    """Return the clips to look at and listen to, until the page is full."""
    from triforce.flows.report import figures

    samples: list[dict[str, Any]] = []
    used = 0
    for sample in evaluation.samples if evaluation else []:
        mels = dict(np.load(BytesIO(storage.read_bytes(storage.join(uri, sample["mels"])))))
        reference = mels.get("original", next(iter(mels.values())))
        low, high = (float(np.quantile(reference, share)) for share in (0.01, 0.999)) if reference.size else (0.0, 1.0)
        players = []
        for name, system in sorted(sample["systems"].items(), key=lambda item: item[0] not in HEARD_FIRST):
            mel = mels[name]
            picture = figures.mel_png(mel, low, high) if mel.size else None
            sound = figures.mp3(storage.read_bytes(storage.join(uri, system["audio"]))) if mel.size else None
            used += len(sound or "") + len(picture or "")
            players.append(system | {"name": name, "label": LABELS[name], "picture": picture, "sound": sound})
        if used > MAX_AUDIO_BYTES:
            logger.warning(
                "%d of %d samples are in the report: more would not fit", len(samples), len(evaluation.samples)
            )
            break
        samples.append(sample | {"players": players})
    return samples


def _media(uri: str | None) -> list[dict[str, Any]]:
    if uri is None or not storage.exists(uri):
        return []
    from triforce.flows.report.media import media_sections  # torch

    return media_sections(uri)


def _timings(uri: str | None) -> dict[str, Any] | None:
    return json.loads(storage.read_bytes(uri)) if uri and storage.exists(uri) else None


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in Path(text).name)


def _hours(seconds: float) -> str:
    """Format as hours from one hour on, else as minutes."""
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
