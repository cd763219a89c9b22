"""Hours of a synthetic voice on one device: ``python -m triforce.flows.examples.piper.make_pack PREPARED PACK``.

Needs torch, numpy, safetensors and pydantic alone: for machines that have nothing else. ``prepare`` makes PREPARED.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from triforce.flows.examples.piper.on_cores import speak_on_cores
from triforce.flows.examples.piper.pack import SpeechWriter
from triforce.flows.examples.piper.prepared import load_texts, load_voice
from triforce.flows.examples.piper.synthesise import SynthesisConfig, Synthesiser


def make_pack(
    prepared: Path,
    folder: Path,
    name: str = "train",
    hours: float | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    samples: bool = False,
    config: SynthesisConfig | None = None,
) -> dict[str, float]:
    """Speak the sentences ``name`` of a prepared folder into a pack, and return what was made and how fast.

    Stops at ``hours`` of speech or after ``minutes`` of work, whichever comes first; none: all sentences.
    """
    config = config or SynthesisConfig()
    began = time.perf_counter()
    texts = load_texts(prepared, name)
    if torch.device(device).type == "cpu":
        batches = speak_on_cores(prepared, texts, config)
    else:
        batches = Synthesiser(*load_voice(prepared, device), config)(texts)
    loaded = time.perf_counter()
    # A thread fetches and writes a batch while the next is launched.
    with SpeechWriter(folder, config, samples) as writer, ThreadPoolExecutor(1) as pool:
        written: Future[None] | None = None
        for batch in batches:
            if written is not None:
                written.result()
            written = pool.submit(writer.write, batch)
            if hours is not None and writer.seconds >= hours * 3600:
                break
            if minutes is not None and time.perf_counter() - began >= minutes * 60:
                break
        if written is not None:
            written.result()
    took = time.perf_counter() - loaded
    return {
        "clips": writer.num_clips,
        "hours": writer.seconds / 3600,
        "load_s": loaded - began,
        "speak_s": took,
        "times_real_time": writer.seconds / took,
    }


def main() -> None:
    """Run ``make_pack`` and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--name", default="train", help="train or unseen")
    parser.add_argument("--hours", type=float, help="speech at most")
    parser.add_argument("--minutes", type=float, help="work at most")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--samples", action="store_true", help="keep the waveforms too")
    parser.add_argument("--batch-size", type=int, default=128, help="sentences at once; a CPU takes one a core")
    parser.add_argument("--half", action="store_true", help="decoder in float16")
    parser.add_argument("--compile", action="store_true", help="compile the decoder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = SynthesisConfig(
        batch_size=options.batch_size,
        half=options.half,
        compile=options.compile,
        seed=options.seed,
    )
    figures = make_pack(
        options.prepared,
        options.pack,
        options.name,
        options.hours,
        options.minutes,
        options.device,
        options.samples,
        config,
    )
    print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
