"""The record of an evaluation, which ``evaluation.json`` holds, and its table for a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from triforce.ingest import storage
from triforce.ingest.text_tables import format_table
from triforce.train.evaluate.intervals import (
    Interval,
    error_rate,
    error_rate_difference,
    mean_interval,
    resample_clips,
)
from triforce.train.evaluate.metrics import Errors

FORMAT = 1
FILE_NAME = "evaluation.json"

LABELS = {
    "original": "Original",
    "griffin_lim": "Griffin-Lim only",
    "vocoder": "Vocoder only",
    "dvae_griffin_lim": "dVAE, Griffin-Lim",
    "dvae": "dVAE decode",
    "diffusion_griffin_lim": "+ diffusion, Gr.-L.",
    "diffusion": "dVAE + diffusion",
    "tts_unseen": "TTS, unseen text",
    "tts_train": "TTS, training text",
    "tts_bundled": "Voice that comes along",
}
"""Systems in the order of tables: each adds a loss, or should win some back, over the one before."""

COMPARED = (
    ("vocoder", "original"),
    ("dvae", "vocoder"),
    ("diffusion", "dvae"),
    ("diffusion", "vocoder"),
    ("dvae", "original"),
    ("dvae_griffin_lim", "original"),
    ("diffusion", "original"),
    ("vocoder", "griffin_lim"),
    ("dvae", "dvae_griffin_lim"),
    ("diffusion", "diffusion_griffin_lim"),
)
"""Pairs that are compared clip by clip: the loss of each step, what diffusion wins back, what is left to win, the
excess over the originals, and the release's vocoder against Griffin-Lim on the same mels.
"""
EXCESS = tuple(system for system, reference in COMPARED if reference == "original")
"""Systems whose excess over the originals `EvaluateConfig.more_judges` tell too."""

MEANS = ("log_mel_l1", "mcd_db", "sharpness", "dnsmos", "similarity")
"""Figures that are means over clips."""


@dataclass(frozen=True)
class System:
    """The figures of one system over its clips. Rates are shares, 1 = every word wrong."""

    name: str
    num_clips: int
    num_words: int
    wer: Interval
    cer: Interval
    log_mel_l1: float | None = None
    """Nats, against the original's mel; None where there is none to compare, as in TTS."""
    mcd_db: float | None = None
    sharpness: float | None = None
    dnsmos: float | None = None
    """1 to 5; only where `EvaluateConfig.quality` asks for it."""
    similarity: float | None = None
    """Cosine of the voice with the original's, 1 = the same; only where `EvaluateConfig.similarity` asks for it."""
    frechet: float | None = None
    """Fréchet distance of Whisper's encoder frames from those of the originals."""
    intervals: dict[str, Interval] = field(default_factory=dict)
    """95 % bootstrap intervals of the means above, by their names."""
    reached_end_share: float | None = None
    """TTS only: share of clips that the GPT ended by itself."""


@dataclass(frozen=True)
class Comparison:
    """How much higher the figures of ``system`` are than those of ``reference``, clip by clip."""

    system: str
    reference: str
    wer_difference: Interval
    dnsmos_difference: Interval | None = None
    """Only where `EvaluateConfig.quality` asks for it."""
    judge: str | None = None
    """Whisper's name, of `EvaluateConfig.more_judges`; None: the judge of the whole evaluation."""

    def line(self) -> str:
        """Return the comparison as text; an interval without 0 inside is a difference that the clips prove."""
        value, low, high = (100 * figure for figure in self.wer_difference)
        labels = LABELS.get(self.system, self.system), LABELS.get(self.reference, self.reference)
        quality = ""
        if self.dnsmos_difference is not None:
            quality = "; {:+.2f} DNSMOS ({:+.2f} to {:+.2f})".format(*self.dnsmos_difference)
        by = f" by {self.judge}" if self.judge else ""
        return f"{labels[0]} against {labels[1]}: {value:+.1f} % WER{by} ({low:+.1f} to {high:+.1f}){quality}"


@dataclass(frozen=True)
class Evaluation:
    """The whole record. The same inputs and seed give the same record, but for ``timings``."""

    key: str
    """Hash of release, clips and config: an evaluation with the same key need not run again."""
    config: dict[str, Any]
    release: dict[str, Any]
    """`Release.info`: sizes, hashes, rates."""
    data: dict[str, Any]
    judge: dict[str, Any]
    codebook: dict[str, Any]
    """size, perplexity, live_share, codes_per_second, bits_per_second, and counts of the codes that occur."""
    systems: list[System]
    comparisons: list[Comparison]
    clips: list[dict[str, Any]]
    """One row a clip and set: clip_id, text, and by system the hypothesis, as ``heard``, and every figure."""
    samples: list[dict[str, Any]]
    """Clips with their sound, by system; paths are relative to the folder."""
    timings: dict[str, Any] = field(default_factory=dict)
    """Real-time factor by system (seconds of work for a second of sound), seconds of judging, the machine."""

    def system(self, name: str) -> System | None:
        return next((system for system in self.systems if system.name == name), None)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT} | _plain(asdict(self)), indent=1, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Raises ValueError for another format."""
        fields = json.loads(text)
        if (found := fields.pop("format", None)) != FORMAT:
            raise ValueError(f"evaluation of format {found}; this version reads format {FORMAT}: evaluate again")
        fields["systems"] = [
            System(**row | {name: Interval(*row[name]) for name in ("wer", "cer")} | _intervals(row))
            for row in fields["systems"]
        ]
        fields["comparisons"] = [
            Comparison(
                **row | {name: Interval(*row[name]) for name in row if name.endswith("_difference") and row[name]}
            )
            for row in fields["comparisons"]
        ]
        return cls(**fields)

    def table(self) -> str:
        """Return the systems as a table, and below it the codebook's use and the comparisons, as lines of text."""
        head: tuple[str, ...] = ("system", "clips", "words", "WER %", "95 %", "CER %", "95 %", "mel L1", "MCD dB")
        head = (*head, "sharp", "Fréchet", "DNSMOS", "voice", "RTF")
        factors = self.timings.get("real_time_factor", {})
        rows = [
            (
                LABELS.get(s.name, s.name),
                str(s.num_clips),
                str(s.num_words),
                *_rate(s.wer),
                *_rate(s.cer),
                _number(s.log_mel_l1),
                _number(s.mcd_db, 2),
                _number(s.sharpness),
                _number(s.frechet, 1),
                _number(s.dnsmos, 2),
                _number(s.similarity, 2),
                _number(factors.get(s.name)),
            )
            for s in self.systems
        ]
        book = self.codebook
        codebook = (
            f"codebook of {book['size']}: perplexity {book['perplexity']:.0f}, {book['live_share']:.1%} in use here; "
            f"{book['codes_per_second']:.1f} codes/s, {book['bits_per_second']:.0f} bits/s"
        )
        return "\n".join([format_table(head, rows), codebook, *(comparison.line() for comparison in self.comparisons)])


def read_evaluation(uri: str) -> Evaluation | None:
    """Return the evaluation in the folder ``uri``, or None where there is none yet."""
    path = storage.join(uri, FILE_NAME)
    return Evaluation.from_json(storage.read_bytes(path).decode()) if storage.exists(path) else None


def summarize_systems(rows: Sequence[dict], num_resamples: int, seed: int) -> list[System]:
    """Return the figures of every system that occurs in ``rows``, which are `Evaluation.clips`."""
    return [_summarize_system(name, found, num_resamples, seed) for name in LABELS if (found := _rows_of(rows, name))]


def compare_systems(rows: Sequence[dict], num_resamples: int, seed: int) -> list[Comparison]:
    """Compare the pairs of `COMPARED` of which both were run, and the originals with the rest by each other judge."""
    comparisons = []
    for system, reference in COMPARED:
        pairs = [
            (row["systems"][system], row["systems"][reference])
            for row in rows
            if {system, reference} <= set(row["systems"])
        ]
        if pairs:
            draws = resample_clips(len(pairs), num_resamples, seed)
            first, second = (_errors(side, "words") for side in zip(*pairs, strict=True))
            wer = error_rate_difference(first, second, draws)
            rated = [pair for pair in pairs if all(len(_finite([row], "dnsmos")) for row in pair)]
            differences = [a["dnsmos"] - b["dnsmos"] for a, b in rated]
            dnsmos = mean_interval(differences, num_resamples, seed) if differences else None
            comparisons.append(Comparison(system, reference, wer, dnsmos))
    for judge in sorted({name for row in rows for one in row["systems"].values() for name in one.get("words_by", {})}):
        for system in EXCESS:
            sides = [
                [row["systems"][name]["words_by"][judge] for name in (system, "original")]
                for row in rows
                if all(judge in row["systems"].get(name, {}).get("words_by", {}) for name in (system, "original"))
            ]
            if sides:
                first, second = ([Errors(*words) for words in side] for side in zip(*sides, strict=True))
                draws = resample_clips(len(sides), num_resamples, seed)
                wer = error_rate_difference(first, second, draws)
                comparisons.append(Comparison(system, "original", wer, judge=judge))
    return comparisons


def _summarize_system(name: str, rows: Sequence[dict], num_resamples: int, seed: int) -> System:
    draws = resample_clips(len(rows), num_resamples, seed)
    words = _errors(rows, "words")
    return System(
        name=name,
        num_clips=len(rows),
        num_words=sum(one.total for one in words),
        wer=error_rate(words, draws),
        cer=error_rate(_errors(rows, "characters"), draws),
        log_mel_l1=_mean(rows, "log_mel_l1"),
        mcd_db=_mean(rows, "mcd_db"),
        sharpness=_mean(rows, "sharpness"),
        dnsmos=_mean(rows, "dnsmos"),
        similarity=_mean(rows, "similarity"),
        intervals={
            name: mean_interval(values, num_resamples, seed) for name in MEANS if (values := _finite(rows, name))
        },
        reached_end_share=_mean(rows, "reached_end"),
    )


def _rows_of(rows: Sequence[dict], system: str) -> list[dict]:
    return [row["systems"][system] for row in rows if system in row["systems"]]


def _errors(rows: Sequence[dict], unit: str) -> list[Errors]:
    return [Errors(*row[unit]) for row in rows]


def _mean(rows: Sequence[dict], name: str) -> float | None:
    """Return the mean over the clips that have the figure, each weighing the same."""
    values = _finite(rows, name)
    return sum(values) / len(values) if values else None


def _finite(rows: Sequence[dict], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None and math.isfinite(row[name])]


def _intervals(row: dict) -> dict[str, dict[str, Interval]]:
    return {"intervals": {name: Interval(*values) for name, values in row.get("intervals", {}).items()}}


def _rate(interval: Interval) -> tuple[str, str]:
    return f"{100 * interval.value:.1f}", f"{100 * interval.low:.1f}-{100 * interval.high:.1f}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _plain(value: Any) -> Any:
    """Return the value with null for NaN, which JSON lacks: a figure that could not be taken."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
