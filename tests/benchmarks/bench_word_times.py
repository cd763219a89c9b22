"""How far times of words and pieces are off: Whisper's, and those of `tokenize/timing`.

``python tests/benchmarks/bench_word_times.py`` speaks sentences by a voice of Debian's ``flite``, which tells when each
phoneme ends, recognises them by Whisper, and compares. Of clips in which a word was misheard nothing is counted.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import soxr
import torch
from late_speech import READER, by_flite, sentences

from triforce.ingest.asr.transcribe import TranscribeConfig, Transcriber
from triforce.models.audio.mel import MelConfig, log_mel
from triforce.models.reading.interleave import SOUNDS, starts_of_pieces, time_words
from triforce.tokenize.timing.refine import SpokenClip, refine

MEL = MelConfig()


def row(name: str, errors: list[np.ndarray], first: list[np.ndarray]) -> str:
    """Return a row of the table: of the starts of words, and of all sounds."""
    cells = []
    for wanted in (True, False):
        found = 1000 * np.concatenate([own[begins | (not wanted)] for own, begins in zip(errors, first, strict=True)])
        apart = np.abs(found)
        cells += [f"{np.median(found):+.0f}", f"{np.median(apart):.0f}", f"{np.percentile(apart, 90):.0f}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voice", default="slt", help="a voice of flite whose phonemes are the dictionary's")
    parser.add_argument("--model", default="tiny.en", help="Whisper model")
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--seconds", type=float, nargs="*", default=[], help="refine the first so many seconds as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    said = list(by_flite(sentences()[: options.sentences], options.voice))
    transcriber = Transcriber(TranscribeConfig(model=options.model, language="en", cpu_threads=1))
    sounds = [soxr.resample(waveform, rate, MEL.sample_rate_hz) for _, (waveform, rate, _), _ in said]
    heard = transcriber.transcribe(sounds, MEL.sample_rate_hz, language="en")
    clips, truth, first = [], [], []
    for (text, _, starts), sound, transcript in zip(said, sounds, heard, strict=True):
        words = [(word.word, word.start_s, word.end_s) for word in transcript.words or ()]
        timed = time_words(READER, transcript.text or "", words) if words else None
        same = timed is not None and [w.read[SOUNDS[w.read]].tolist() for w in timed.words] == [
            w.read[SOUNDS[w.read]].tolist() for w in READER.words(text)
        ]
        if same:
            clips.append(SpokenClip(log_mel(torch.from_numpy(sound), MEL).numpy(), transcript.text, words, "flite"))
            truth.append(np.array(starts))
            counts = [int(SOUNDS[word.read].sum()) for word in READER.words(text)]
            first.append(np.concatenate([np.arange(count) == 0 for count in counts]))
    seconds = np.cumsum([clip.mel.shape[1] / MEL.frames_per_s for clip in clips])
    print(f"{len(clips)} of {len(said)} sentences without a misheard word, {seconds[-1] / 60:.1f} minutes\n")
    print("| ms | words: median | of sizes | 90 % | sounds: median | of sizes | 90 % |\n|---|---|---|---|---|---|---|")
    print(row(f"Whisper {options.model}", [_errors(c, c.words, t) for c, t in zip(clips, truth, strict=True)], first))
    for limit in (*options.seconds, seconds[-1]):
        count, started = int(np.searchsorted(seconds, limit)) + 1, time.monotonic()
        found = refine(clips[:count], READER, MEL.frames_per_s)
        took, kept = time.monotonic() - started, [n for n, words in enumerate(found) if words is not None]
        if kept:
            errors = [_errors(clips[n], found[n], truth[n]) for n in kept]
            print(
                row(
                    f"refined, {limit:.0f} s, {len(kept)} of {count} clips, took {took:.1f} s",
                    errors,
                    [first[n] for n in kept],
                )
            )
        else:
            print(f"| {limit:.0f} s: too little |")


def _errors(clip: SpokenClip, words: object, starts: np.ndarray) -> np.ndarray:
    """Return how late each sound ``(N,)`` of a clip begins by times of its words, seconds."""
    timed = time_words(READER, clip.text, words)
    pieces = [word.read for word in timed.words]
    return starts_of_pieces(timed, pieces)[SOUNDS[np.concatenate(pieces)]] - starts


if __name__ == "__main__":
    main()
