"""A sweep over the ways to sample a release's diffusion network: where the flow starts, by which sampler, in how many
steps, with how much guidance, and the mean; beside the dVAE's decode that it starts from, and the originals.

Each row is stored when it is done, so a sweep that was stopped goes on, and a larger one keeps what is there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from triforce.ingest import storage
from triforce.ingest.clips.dnsmos import overall_quality
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, Clip
from triforce.ingest.text_tables import format_table
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.release import Release
from triforce.tokenize.read import decode_flac
from triforce.train.evaluate import metrics
from triforce.train.evaluate.clips import clip_seed, select_clips
from triforce.train.evaluate.intervals import error_rate, error_rate_difference, resample_clips
from triforce.train.evaluate.judge import Judge, JudgeConfig

logger = logging.getLogger(__name__)

FILE_NAME = "sweep.json"
BASELINES = ("original", "vocoder", "dvae")


class SweepConfig(BaseModel):
    """The ways that are tried. The rows are a cross, not a grid: each part varies one thing from ``base``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: SamplerConfig = SamplerConfig(num_steps=8, temperature=1.0)
    steps: tuple[int, ...] = Field((1, 2, 4, 8, 16, 100), description="Steps of Euler.")
    evaluations: tuple[int, ...] = Field((4, 8, 16), description="Network evaluations of Heun and DPM-Solver++(2M).")
    start_times: tuple[float, ...] = Field((0.25, 0.5, 0.75), description="Starts from the prior, 0 being noise.")
    temperatures: tuple[float, ...] = Field((0.25, 0.5), description="Standard deviations of the starting noise.")
    guidance: tuple[float, ...] = Field((0.5, 1.0, 2.0), description="Guidance scales, 0 being none.")
    text_guidance: tuple[float, ...] = Field(
        (), description="Guidance scales of the latents alone, where the network conditions on the GPT's."
    )
    mean_draws: tuple[int, ...] = Field((1, 4), description="Draws of the mean prediction.")
    limit: int | None = Field(None, ge=1, description="Held-out clips at most.")
    quality: bool = Field(False, description="DNSMOS too: extra `quality`.")
    num_resamples: int = Field(2000, ge=100, le=100_000, description="Bootstrap resamples of the clips.")
    seed: int = Field(0, ge=0, description="Seed of the clips' order, of noise and of the bootstrap.")
    judge: JudgeConfig = JudgeConfig()

    def variants(self) -> dict[str, SamplerConfig]:
        """Return the sampler of each row, by name, without repetitions."""
        tried: list[tuple[str, dict[str, Any]]] = []
        tried += [(f"mean, {n} draw{'s' * (n > 1)}", {"method": "mean", "num_steps": n}) for n in self.mean_draws]
        tried += [(f"euler, {n} step{'s' * (n > 1)}", {"method": "euler", "num_steps": n}) for n in self.steps]
        for n in self.evaluations:
            tried.append((f"heun, {max(1, n // 2)} steps", {"method": "heun", "num_steps": max(1, n // 2)}))
            tried.append((f"dpm++2m, {n} steps", {"method": "dpm++2m", "num_steps": n}))
        tried += [(f"from the prior at {t:g}", {"start_time": t}) for t in self.start_times]
        tried += [(f"temperature {t:g}", {"temperature": t}) for t in self.temperatures]
        tried += [(f"guidance {g:g}", {"guidance": g}) for g in self.guidance]
        tried += [(f"text guidance {g:g}", {"guidance": g, "guidance_of": "latents"}) for g in self.text_guidance]
        base = self.base.model_dump()  # all fields, so that none is the card's
        return {name: SamplerConfig.model_validate(base | change) for name, change in tried}


@dataclass(frozen=True)
class HeldoutClip:
    """A held-out clip with what is the same for all rows."""

    clip: Clip
    waveform: np.ndarray
    mel: torch.Tensor
    prior: torch.Tensor
    told: dict[str, torch.Tensor | None]
    """What the network is told beside the prior."""


def sweep(release_uri: str, heldout_uri: str, out_uri: str, config: SweepConfig | None = None) -> str:
    """Measure every row, write ``sweep.json`` below ``out_uri``, and return the table as text."""
    config = config or SweepConfig()
    release = Release.load(release_uri)
    if release.diffusion is None:
        raise FileNotFoundError(f"{release_uri}: no diffusion/config.json; train one with `triforce train diffusion`")
    clips = select_clips(heldout_uri, seed=config.seed, limit=config.limit)
    if not clips:
        raise ValueError(f"{heldout_uri!r}: no clip with text to recognise: name a corpus of held-out clips")
    held = [_prepare(release, clip) for clip in clips]
    measure = Measure(release, held, config)
    rows = _stored(out_uri, measure.key)
    systems: dict[str, SamplerConfig | None] = {name: None for name in BASELINES} | config.variants()
    for name, sampler in tqdm(systems.items(), desc="sweep", unit="row", dynamic_ncols=True):
        settings = None if sampler is None else sampler.model_dump(mode="json")
        if rows.get(name, {}).get("sampler", 0) != settings:
            rows[name] = measure(name, sampler) | {"sampler": settings}
            record = {"key": measure.key, "config": config.model_dump(mode="json"), "rows": rows}
            storage.write_bytes(storage.join(out_uri, FILE_NAME), json.dumps(record, indent=1).encode())
    return table({name: rows[name] for name in systems}, config)


def _prepare(release: Release, clip: Clip) -> HeldoutClip:
    waveform = decode_flac(clip.media, SAMPLE_RATE_HZ)
    mel = release.log_mel(waveform)
    codes = release.encode(waveform)
    return HeldoutClip(clip, waveform, mel, release.decode(codes, mel.shape[-1]), release.told(codes, clip.text))


def _stored(out_uri: str, key: str) -> dict[str, dict[str, Any]]:
    path = storage.join(out_uri, FILE_NAME)
    record = json.loads(storage.read_bytes(path)) if storage.exists(path) else {}
    return record["rows"] if record.get("key") == key else {}


class Measure:
    """Measures a row: every clip by one way to sound, and the judge on them."""

    def __init__(self, release: Release, held: Sequence[HeldoutClip], config: SweepConfig) -> None:
        self.release, self.held, self.config = release, held, config
        self.judge = Judge(config.judge)
        self._original: metrics.FeatureStatistics | None = None
        about = [{name: stage["hash"] for name, stage in release.info()["stages"].items()}, release.vocoder_hash]
        about += [[one.clip.clip_id, one.clip.text] for one in held]
        about.append(config.model_dump(mode="json", include={"seed", "quality", "judge"}))
        self.key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def __call__(self, name: str, sampler: SamplerConfig | None) -> dict[str, Any]:
        started = time.perf_counter()
        mels = [self._mel(name, one, sampler) for one in self.held]
        sounds = [
            one.waveform if name == "original" else self.release.vocode(mel, seed=self._seed(one))
            for one, mel in zip(self.held, mels, strict=True)
        ]
        wall_s = time.perf_counter() - started
        hypotheses, features = self.judge.recognize(sounds, SAMPLE_RATE_HZ, [one.clip.text for one in self.held])
        row = self._figures(mels, sounds, hypotheses) | {"frechet": self._frechet(name, features)}
        seconds = sum(len(one.waveform) for one in self.held) / SAMPLE_RATE_HZ
        return row | {"evaluations": sampler.num_evaluations if sampler else 0, "real_time_factor": wall_s / seconds}

    def _seed(self, one: HeldoutClip) -> int:
        return clip_seed(self.config.seed, one.clip.clip_id)

    def _mel(self, name: str, one: HeldoutClip, sampler: SamplerConfig | None) -> torch.Tensor:
        """Return the mel that the vocoder gets."""
        if name in BASELINES:
            return one.prior if name == "dvae" else one.mel
        return self.release.restore(one.prior, seed=self._seed(one), config=sampler, **one.told)

    def _figures(self, mels: list[torch.Tensor], sounds: list[np.ndarray], hypotheses: list[str]) -> dict[str, Any]:
        language = self.config.judge.language
        pairs = [(one.clip.text, words) for one, words in zip(self.held, hypotheses, strict=True)]
        references, found = [one.mel.numpy() for one in self.held], [mel.numpy() for mel in mels]
        row: dict[str, Any] = {
            "words": [list(metrics.word_errors(*pair, language)) for pair in pairs],
            "log_mel_l1": [metrics.log_mel_l1(a, b) for a, b in zip(found, references, strict=True)],
            "sharpness": [metrics.sharpness(mel) for mel in found],
        }
        if self.config.quality:
            row["dnsmos"] = [overall_quality(sound, SAMPLE_RATE_HZ) for sound in sounds]
        return row

    def _frechet(self, name: str, features: list[np.ndarray]) -> float | None:
        statistics = metrics.FeatureStatistics(features)
        if name == "original" or self._original is None:
            self._original = statistics if name == "original" else self._originals()
        return metrics.frechet_distance(statistics, self._original)

    def _originals(self) -> metrics.FeatureStatistics:
        """Recognise the originals again, whose row was stored by an earlier call."""
        sounds, texts = [one.waveform for one in self.held], [one.clip.text for one in self.held]
        return metrics.FeatureStatistics(self.judge.recognize(sounds, SAMPLE_RATE_HZ, texts)[1])


def table(rows: dict[str, dict[str, Any]], config: SweepConfig) -> str:
    """Return the rows as lines of text; differences in WER are clip by clip against the dVAE's decode."""
    count = len(next(iter(rows.values()))["words"])
    draws = resample_clips(count, config.num_resamples, config.seed)
    errors = {name: [metrics.Errors(*pair) for pair in row["words"]] for name, row in rows.items()}
    original = np.nanmean(rows["original"]["sharpness"])
    head = ("", "evaluations", "WER %", "95 %", "against dVAE", "mel L1", "sharp %", "Fréchet", "DNSMOS", "RTF")
    lines = []
    for name, row in rows.items():
        wer = error_rate(errors[name], draws)
        apart = error_rate_difference(errors[name], errors["dvae"], draws)
        lines.append(
            (
                name,
                str(row["evaluations"] or "-"),
                f"{100 * wer.value:.1f}",
                f"{100 * wer.low:.1f}-{100 * wer.high:.1f}",
                f"{100 * apart.value:+.1f} ({100 * apart.low:+.1f} to {100 * apart.high:+.1f})",
                f"{np.mean(row['log_mel_l1']):.3f}",
                f"{100 * np.nanmean(row['sharpness']) / original:.0f}",
                f"{row['frechet']:.1f}" if row["frechet"] is not None else "-",
                f"{np.nanmean(row['dnsmos']):.2f}" if "dnsmos" in row else "-",
                f"{row['real_time_factor']:.3f}",
            )
        )
    return format_table(head, lines)
