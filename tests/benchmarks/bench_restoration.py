"""What diffusion makes of what a voice reads: ``python tests/benchmarks/bench_restoration.py NAME=RELEASE ...``.

The GPT of the first release reads sentences that no network saw, once. Its codes then become sound by the dVAE's decode
alone and by each release's diffusion network: the mean (one evaluation), samples of several numbers of steps, with the
phonemes hidden, and with those of another place, each through the same vocoder. Whisper base counts wrong words, paired
with those of the decode; DNSMOS rates the sound; the Fréchet distance of Whisper's features is to the synthesiser that
the voice learnt from, saying the same sentences.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch

from triforce.flows.examples import voice
from triforce.flows.examples.piper.prepare import unseen_texts
from triforce.ingest.clips.dnsmos import overall_quality
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.gpt_sampling import Candidate
from triforce.models.release import Release
from triforce.train.evaluate.intervals import error_rate, error_rate_difference, mean_interval, resample_clips
from triforce.train.evaluate.judge import Judge, JudgeConfig
from triforce.train.evaluate.metrics import FeatureStatistics, frechet_distance, sharpness, word_errors

NUM_RESAMPLES = 2000
SHIFT = 7
"""Codes by which the phonemes of the control are moved: 0.3 s, so that another one is said."""

Render = Callable[[int, Candidate], np.ndarray]
"""Number and candidate of a sentence to its mel ``(num_mels, T)``."""


def ways(releases: dict[str, Release], options: argparse.Namespace) -> dict[str, Render]:
    """The rows of the table: how the codes become a mel."""

    def restored(release: Release, sampler: SamplerConfig, change: Callable[[np.ndarray], np.ndarray | None]) -> Render:
        def render(number: int, one: Candidate) -> np.ndarray:
            assert one.spoken is not None
            tokens = release.tokens(one.codes, change(one.spoken))
            return release.restore(release.decode(one.codes), seed=number, config=sampler, tokens=tokens).numpy()

        return render

    first = next(iter(releases.values()))
    found: dict[str, Render] = {"decode": lambda _, one: first.decode(one.codes).numpy()}
    for name, release in releases.items():
        if release.diffusion is None:
            continue
        mean = SamplerConfig(method="mean", num_steps=1)
        found[f"{name}, mean"] = restored(release, mean, lambda spoken: spoken)
        if release.diffusion.config.num_pieces:
            for guidance in options.guidance:
                stressed = mean.model_copy(update={"guidance": guidance, "guidance_of": "latents"})
                found[f"{name}, mean, phonemes stressed by {guidance:g}"] = restored(release, stressed, lambda s: s)
            found[f"{name}, mean, phonemes hidden"] = restored(release, mean, lambda _: None)
            found[f"{name}, mean, phonemes of another place"] = restored(release, mean, lambda s: np.roll(s, SHIFT))
        for steps in options.steps:
            for temperature in options.temperatures:
                sampler = SamplerConfig(method="euler", num_steps=steps, temperature=temperature)
                found[f"{name}, {steps} steps, noise {temperature:g}"] = restored(release, sampler, lambda s: s)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("releases", nargs="+", metavar="NAME=RELEASE", help="with the same dVAE, GPT and vocoder")
    parser.add_argument("--limit", type=int, default=None, help="sentences at most; default: all 200")
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.5, 1.0])
    parser.add_argument("--guidance", type=float, nargs="*", default=[2.0], help="of the phonemes, for the mean")
    parser.add_argument("--out", type=Path, help="file for all figures")
    options = parser.parse_args()
    texts = unseen_texts()[: options.limit]
    releases = {name: Release.load(uri) for name, uri in (entry.split("=", 1) for entry in options.releases)}
    first = next(iter(releases.values()))
    rate, judge = first.sample_rate_hz, Judge(JudgeConfig(model="base"))
    synthesiser = voice.load_voice()
    spoken = (voice.speak(synthesiser, text) for text in texts)
    originals = [soxr.resample(samples, own_rate, rate) for samples, own_rate in spoken]
    heard, features = judge.recognize(originals, rate, texts)
    reference = FeatureStatistics(features)
    draws = resample_clips(len(texts), NUM_RESAMPLES, seed=0)
    candidates = [found[0] for found in first.draw_all(texts, seeds=range(len(texts)), num_rows=16)]
    base = [word_errors(text, said) for text, said in zip(texts, heard, strict=True)]
    print("| | WER, % | against the decode | DNSMOS | Fréchet | sharpness | seconds a second |")
    print("|---|---|---|---|---|---|---|")
    print(f"| the synthesiser | {_percent(error_rate(base, draws))} | | | | | |")
    rows: dict[str, dict[str, Any]] = {}
    decoded: list[Any] = []
    for name, render in ways(releases, options).items():
        started = time.perf_counter()
        mels = [render(number, one) for number, one in enumerate(candidates)]
        took = time.perf_counter() - started
        sounds = [first.vocode(torch.from_numpy(mel), seed=number) for number, mel in enumerate(mels)]
        heard, features = judge.recognize(sounds, rate, texts)
        errors = [word_errors(text, said) for text, said in zip(texts, heard, strict=True)]
        decoded = decoded or errors
        quality = mean_interval([overall_quality(sound, rate) for sound in sounds], NUM_RESAMPLES, seed=0)
        rows[name] = {
            "wer": error_rate(errors, draws),
            "against": error_rate_difference(errors, decoded, draws),
            "dnsmos": quality,
            "frechet": frechet_distance(FeatureStatistics(features), reference),
            "sharpness": float(np.nanmean([sharpness(mel) for mel in mels])),
            "s_per_s": took / (sum(map(len, sounds)) / rate),
            "heard": heard,
        }
        found = rows[name]
        apart = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * value for value in found["against"]))
        print(
            f"| {name} | {_percent(found['wer'])} | {apart} | {{:.2f}} ({{:.2f}}-{{:.2f}}) ".format(*quality)
            + f"| {found['frechet']:.2f} | {found['sharpness']:.3f} | {found['s_per_s']:.3f} |",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps({"texts": texts} | rows, indent=1))


def _percent(found: Any) -> str:
    return "{:.1f} ({:.1f}-{:.1f})".format(*(100 * value for value in found))


if __name__ == "__main__":
    main()
