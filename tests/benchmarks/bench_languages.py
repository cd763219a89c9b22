"""Speech in several languages by the default config: which language each clip is told to be, and what is written.

    python tests/benchmarks/bench_languages.py --sounds FOLDER --texts FOLDER --languages es fr it ru

The prompts are Debian's: ``asterisk-core-sounds-<language>-g722`` unpacked below ``--sounds``, and
``asterisk-core-sounds-<language>``, which holds the texts, below ``--texts``. A recording of each language states
nothing of its language; its prompts' texts come along as a transcript. Truth are the texts of the prompts that a clip
holds whole.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import jiwer
import numpy as np
import soundfile
from known_speech import RATE_HZ, KnownRecording, build_recording, read_prompts

from triforce.ingest import storage
from triforce.ingest.asr.config import TranscribeConfig
from triforce.ingest.asr.transcribe import Transcriber
from triforce.ingest.asr.writing import plain_words
from triforce.ingest.clips.clip_recording import ClipConfig, clip_recording
from triforce.ingest.corpus.records import Clip, Recording
from triforce.ingest.corpus.store import Corpus


def record(folder: Path, language: str, known: KnownRecording) -> tuple[Corpus, Recording]:
    corpus = Corpus(str(folder / language))
    media_path = corpus.media_path("known", language, "flac")
    path = Path(corpus.uri) / media_path
    path.parent.mkdir(parents=True)
    soundfile.write(path, known.waveform, RATE_HZ)
    transcript = f"recordings/source=known/{language}.transcript.txt"
    storage.write_bytes(storage.join(corpus.uri, transcript), "\n".join(text for *_, text in known.prompts).encode())
    row = Recording(
        *(language, "known", "file", language, f"https://example.org/{language}"),
        media_path=media_path,
        metadata={"transcript_path": transcript},
    )
    corpus.write_recording(row)
    return corpus, row


def truth(known: KnownRecording, clip: Clip) -> str | None:
    """What a clip says, None where it cuts a prompt in two."""
    texts = []
    for start, end, text in known.prompts:
        sound = [
            (max(a, clip.start_sample), min(b, clip.end_sample), b - a) for a, b in known.speech if start <= a < end
        ]
        share = sum(max(0, b - a) for a, b, _ in sound) / sum(length for *_, length in sound)
        if share > 0.95:
            texts.append(text)
        elif share > 0.05:
            return None
    return " ".join(texts)


def errors(pairs: list[tuple[str, str | None]]) -> float:
    plain = [(" ".join(plain_words(one)), " ".join(plain_words(two)) or "-") for one, two in pairs]
    return jiwer.wer([one for one, _ in plain if one], [two for one, two in plain if one])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--languages", nargs="+", default=["es", "fr", "it", "ru"])
    parser.add_argument("--seconds", type=float, default=45.0, help="Length of each recording.")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--drop-others", action="store_true", help="Turn other_languages off.")
    settings = parser.parse_args()
    config = TranscribeConfig(model=settings.model, other_languages=not settings.drop_others)
    transcriber = Transcriber(config)
    sys.stdout.write(f"{'':3} clips  told                 kept  recogniser  published  clips with it  speed\n")
    for language in settings.languages:
        (texts,) = settings.texts.rglob(f"core-sounds-{language}.txt.gz")
        (sounds,) = {path.parent for path in settings.sounds.rglob(f"*sounds/{language}_*/vm-intro.g722")}
        known = build_recording(read_prompts(sounds, texts), settings.seconds, 1, plain=True)
        with tempfile.TemporaryDirectory() as folder:
            corpus, row = record(Path(folder), language, known)
            started = time.process_time()
            clip_recording(row, corpus, ClipConfig(transcribe=config), transcriber)
            speed = len(known.waveform) / RATE_HZ / (time.process_time() - started)
            clips = [Clip.from_row(each) for each in corpus.clips().to_pylist()]
        told = ", ".join(f"{name} {count}" for name, count in Counter(clip.language for clip in clips).most_common())
        whole = [(truth(known, clip), clip) for clip in clips]
        heard = [(said, clip.recognised or clip.text) for said, clip in whole if said]
        written = [(said, clip.text) for said, clip in whole if said]
        given = np.mean([clip.text_source == "published" for clip in clips])
        sys.stdout.write(
            f"{language:3} {len(clips):5d}  {told:20} {sum(clip.drop_reason is None for clip in clips):4d} "
            f"{errors(heard):11.1%} {errors(written):10.1%} {given:14.0%} {speed:6.1f}x\n"
        )
        for clip in clips:
            if clip.drop_reason or clip.text_source != "published":
                sys.stdout.write(f"     {clip.drop_reason} {clip.language} {clip.agreement}: {clip.text!r}\n")


if __name__ == "__main__":
    main()
