"""Judge a voice on sentences that no network trained on: ``python -m triforce.flows.examples.narrator.judge``.

Beside it stand, in one run on the same sentences, the synthesiser that it learnt from, what the dVAE makes of that, and
espeak-ng where it is installed. Whisper base, which taught nothing, counts wrong words; one candidate a sentence, but
for one row with the best of four by Whisper tiny.en. DNSMOS rates the sound.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import soundfile
import soxr
import torch

from triforce.flows.examples import voice
from triforce.flows.examples.piper.prepare import unseen_texts
from triforce.flows.speech.speaker import SpeakConfig, Speaker
from triforce.ingest import storage
from triforce.ingest.clips.dnsmos import overall_quality
from triforce.models.audio.vocoder import GriffinLim
from triforce.models.decoding.precision import Precision
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.release import Release
from triforce.models.voice.bundled import VOICE
from triforce.train.evaluate.intervals import error_rate, mean_interval, resample_clips
from triforce.train.evaluate.judge import Judge, JudgeConfig
from triforce.train.evaluate.metrics import character_errors, pooled, word_errors

NUM_RESAMPLES = 2000
KEPT = 5
"""Utterances of each system that are written."""
BEST_OF = 4

Say = Callable[[int, str], np.ndarray]
"""Number and text of a sentence to its samples ``(N,)`` at the release's rate."""


class Systems:
    """What speaks: each a method from a sentence to samples."""

    def __init__(self, release: Release, sampling: SamplingConfig) -> None:
        self.release, self.rate, self.sampling = release, release.sample_rate_hz, sampling
        self.piper_voice = voice.load_voice()
        self.griffin_lim = GriffinLim(release.mel_config)
        self.heard: dict[int, np.ndarray] = {}

    def all(self, best: bool) -> dict[str, Say]:
        """The systems by name, in the order of the table."""
        found: dict[str, Say] = {"piper, joe": self.piper}
        if shutil.which("espeak-ng"):
            found["espeak-ng"] = self.espeak
        found |= {"dVAE decode, Griffin-Lim": self.decoded, "dVAE decode, vocoder": self.restored}
        found["voice, one candidate"] = self.voice(1)
        if best:
            found[f"voice, best of {BEST_OF} by tiny.en"] = self.voice(BEST_OF)
        return found

    def piper(self, number: int, text: str) -> np.ndarray:
        """Speak by the synthesiser that the voice learnt from, as piper sets it."""
        samples, rate = voice.speak(self.piper_voice, text)
        self.heard[number] = soxr.resample(samples, rate, self.rate)
        return self.heard[number]

    def espeak(self, number: int, text: str) -> np.ndarray:
        """Speak by espeak-ng."""
        said = subprocess.run(["espeak-ng", "--stdout", text], check=True, capture_output=True).stdout
        samples, rate = soundfile.read(io.BytesIO(said), dtype="float32")
        return soxr.resample(samples, rate, self.rate)

    def decoded(self, number: int, text: str) -> np.ndarray:
        """Encode what piper said, decode it, and invert the mel without a network."""
        return self.griffin_lim(self._decode(number, text)).numpy()

    def restored(self, number: int, text: str) -> np.ndarray:
        """Encode what piper said, decode it, and invert the mel by the release's vocoder."""
        return self.release.vocode(self._decode(number, text))

    def _decode(self, number: int, text: str) -> torch.Tensor:
        heard = self.heard[number] if number in self.heard else self.piper(number, text)
        return self.release.decode(self.release.encode(heard))

    def voice(self, candidates: int) -> Say:
        """Return the voice with a number of candidates."""
        sampling = self.sampling.model_copy(update={"num_candidates": candidates})
        speaker = Speaker(self.release, SpeakConfig(sampling=sampling, judge=JudgeConfig(model="tiny.en")))
        return lambda number, text: speaker.speak(text, seed=number).waveform


def judge(
    release: Release,
    texts: Sequence[str],
    sampling: SamplingConfig,
    folder: Path | None,
    *,
    best: bool = False,
    only: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Return each system's figures; some of the utterances and ``judge.json`` are written into ``folder``. With
    ``only`` those systems alone are judged whose names begin so.
    """
    judges = Judge(JudgeConfig(model="base"))
    draws = resample_clips(len(texts), NUM_RESAMPLES, seed=0)
    figures: dict[str, dict[str, Any]] = {}
    for name, say in Systems(release, sampling).all(best).items():
        if only and not name.startswith(tuple(only)):
            continue
        say(0, texts[0])  # what is loaded and compiled once is not counted
        started = time.perf_counter()
        sounds = [say(number, text) for number, text in enumerate(texts)]
        took, rate = time.perf_counter() - started, release.sample_rate_hz
        heard = judges([_at_least(sound, rate) for sound in sounds], rate, texts)
        words = [word_errors(text, said) for text, said in zip(texts, heard, strict=True)]
        letters = [character_errors(text, said) for text, said in zip(texts, heard, strict=True)]
        quality = [score for sound in sounds if np.isfinite(score := overall_quality(sound, rate))]
        figures[name] = {
            "wer": error_rate(words, draws),
            "cer": pooled(letters).rate,
            "dnsmos": mean_interval(quality, NUM_RESAMPLES, seed=0) if quality else None,
            "s_per_s": took / max(1e-9, sum(map(len, sounds)) / rate),
            "heard": heard,
        }
        print(row(name, figures[name]), flush=True)
        if folder is not None:
            _keep(folder, name, sounds[:KEPT], rate)
    if folder is not None:
        storage.write_bytes(folder / "judge.json", json.dumps({"texts": list(texts)} | figures, indent=1).encode())
    return figures


HEADER = "| | WER, % | CER, % | DNSMOS | seconds a second |\n|---|---|---|---|---|"


def row(name: str, found: dict[str, Any]) -> str:
    """Return a row of the table."""
    value, low, high = (100 * rate for rate in found["wer"])
    quality = "" if found["dnsmos"] is None else "{:.2f} ({:.2f}-{:.2f})".format(*found["dnsmos"])
    return (
        f"| {name} | {value:.1f} ({low:.1f}-{high:.1f}) | {100 * found['cer']:.1f} | {quality} "
        f"| {found['s_per_s']:.2f} |"
    )


def _at_least(sound: np.ndarray, rate: int) -> np.ndarray:
    """Return a sound with silence behind it where it is under half a second, which Whisper cannot read."""
    return np.pad(sound, (0, max(0, rate // 2 - len(sound)))).astype(np.float32)


def _keep(folder: Path, name: str, sounds: Sequence[np.ndarray], rate: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    slug = "".join(c if c.isalnum() else "-" for c in name)
    for number, sound in enumerate(sounds):
        if sound.size:
            soundfile.write(folder / f"{slug}-{number}.wav", sound, rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", nargs="?", default=VOICE, help="a release; default: the voice that comes along")
    parser.add_argument("--out", type=Path, help="folder for utterances and judge.json")
    parser.add_argument("--limit", type=int, default=None, help="sentences at most; default: all 200")
    parser.add_argument("--best", action="store_true", help=f"also the best of {BEST_OF} candidates")
    parser.add_argument("--only", nargs="+", default=(), help="systems, by how their names begin: piper voice")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--precision", choices=get_args(Precision), default="auto", help="of the GPT's weights")
    options = parser.parse_args()
    sampling = SamplingConfig(temperature=options.temperature, guidance=options.guidance)
    print(HEADER)
    release = Release.load(options.release, precision=options.precision)
    judge(release, unseen_texts()[: options.limit], sampling, options.out, best=options.best, only=options.only)


if __name__ == "__main__":
    main()
