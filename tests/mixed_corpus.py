"""A corpus of every kind of clip: scores at thresholds and beside them, missing ones, texts in many scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from corpora import WORDS, sweep
from hypothesis import strategies as st

from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.corpus.records import (
    PUBLISHED,
    RECOGNISER,
    SAMPLE_RATE_HZ,
    Clip,
    Media,
    Recording,
    Word,
    make_recording_id,
)
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.encode import encode_flac
from triforce.ingest.media.pixels import encode_png

TITLE = "<script>document.title='taken'</script> & <b>Sons</b>"
AGREEMENTS, OVERLAPS = (None, 0.95, 0.6, 0.59), (0.02, 0.12, None, 0.13)
AT_LIMITS: dict[str, tuple[float | None, ...]] = {
    "avg_logprob": (-0.2, -1.0, -1.01, -0.3, None),
    "no_speech_prob": (0.01, 0.6, 0.7, None),
    "compression_ratio": (1.2, 2.4, 2.5),
    "chars_per_s": (12.0, 5.0, 21.0, 22.0, 3.0, None),
    "language_probability": (0.99, 0.8, 0.79, None),
    "snr_db": (30.0, 10.0, 9.5, 12.25, None),
    "bandwidth_hz": (8000.0, 3400.0, 11000.0),
    "clipped_share": (0.0, 0.001, 0.002),
    "rms_dbfs": (-20.0, -45.0, -50.0),
    "modulation_db": (9.0, 3.5, 3.0),
    "edge_db": (-30.0, -6.0, -3.0, None),
    "voice_similarity": (0.9, 0.7, 0.6, None),
    "dnsmos_ovrl": (3.2, 3.0, 2.5, None),
    "loudness_lufs": (-21.0, -16.5, None),
}
TEXTS = (
    "Nobody knew how long the journey would take, or what they would find.",
    "One TWO three",
    "go on and stop " + "go " * 6,
    "oh " + "a" * 25,
    "Thanks for watching!",
    " ... ",
    "我们今天要讨论的是城市交通的未来，以及它会怎样改变人们的生活方式。",
    "Die Rechtsschutzversicherungsgesellschaften waren das Thema.",
    "İstanbul'da <b>güzel</b> bir gün & gece",
    "",
    None,
)


def write_mixed(folder: Path, clips_per_recording: int = 60) -> Corpus:
    """Three sources, two recordings each; the sound is a tenth of a second whatever the row says."""
    generator, corpus = np.random.default_rng(5), Corpus(str(folder))
    audio = Media(encode_flac(np.zeros(2400, np.int16)))
    for number, source in enumerate(("alpha", "beta", "gamma", "alpha", "beta", "gamma")):
        recording = _recording(source, number)
        clips, start = [], 0
        for index in range(clips_per_recording):
            length = int(generator.choice([2.9, 3.0, 6.0, 20.0, 20.5]) * SAMPLE_RATE_HZ) + int(
                generator.choice([0, 24])
            )
            columns = _columns(generator, length / SAMPLE_RATE_HZ)
            columns["text_source"] = (None, RECOGNISER, PUBLISHED)[index % 3]
            columns["overlap_share"] = OVERLAPS[index % 4]
            columns["agreement"] = AGREEMENTS[index % 4]
            if index % 17 == 0 and number == 2:
                columns["title"] = "another title"
            clips.append(Clip.cut(recording, start, start + length, SAMPLE_RATE_HZ, audio=audio, **columns))
            start += length
        corpus.write_recording(recording)
        corpus.write_clips(recording, clips)
    return corpus


def _recording(source: str, number: int) -> Recording:
    name = f"r{number}"
    return Recording(
        make_recording_id(source, name),
        source,
        "podcast",
        name,
        f"https://example.org/{name}",
        title=TITLE if number == 0 else f"Episode {number}",
        author=("Ann", "Bob", None)[number % 3],
        licence="CC0 1.0" if number % 2 else None,
    )


def _columns(generator: np.random.Generator, duration_s: float) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, values in AT_LIMITS.items():
        usual = generator.random() < 0.75
        columns[name] = values[0] if usual else values[generator.integers(len(values))]
    columns["text"] = TEXTS[0] if generator.random() < 0.6 else TEXTS[generator.integers(len(TEXTS))]
    columns["language"] = (None, "en", "en", "de", "zh")[generator.integers(5)]
    columns["asr_model"] = (None, "tiny.en")[generator.integers(2)]
    columns["cut_blind"] = (None, False, False, False, True)[generator.integers(5)]
    columns["modality"] = "music" if generator.random() < 0.05 else None
    columns["speaker"] = f"speaker-{generator.integers(3)}"
    first, last = generator.choice([0.04, 0.05, 0.2]), generator.choice([0.04, 0.05, 0.2])
    if generator.random() < 0.8:
        columns["words"] = (Word("one", float(first), 0.6, 0.9), Word("two", 1.0, duration_s - float(last), 0.3))
    return columns


def write_heard(folder: Path, num_clips: int = 12) -> Corpus:
    """Two sources with sound to hear, times of words and scores, and a picture."""
    corpus, generator = Corpus(str(folder)), np.random.default_rng(3)
    for number, source in enumerate(("street-talks", "library")):
        recording, clips, start = _recording(source, number), [], 0
        for index in range(num_clips):
            waveform = sweep(float(generator.uniform(3.1, 5)), 100 * number + index)
            said = [str(word) for word in generator.choice(WORDS, 8)]
            each_s = len(waveform) / SAMPLE_RATE_HZ / len(said)
            words = tuple(
                Word(word, at * each_s, (at + 1) * each_s, 0.95 if at % 3 else 0.4) for at, word in enumerate(said)
            )
            columns: dict[str, Any] = dict(text=" ".join(said), words=words, language="en", language_probability=0.98)
            columns |= dict(asr_model="tiny.en", chars_per_s=len(" ".join(said)) / (len(waveform) / SAMPLE_RATE_HZ))
            columns |= dict(
                snr_db=float(generator.normal(16 + 8 * number, 5)), avg_logprob=float(-generator.gamma(2, 0.12))
            )
            columns |= dict(no_speech_prob=0.02, compression_ratio=1.2, clipped_share=0.0, rms_dbfs=-22.0)
            columns |= dict(modulation_db=float(generator.normal(8, 1)), edge_db=-20.0, bandwidth_hz=9000.0)
            end = start + len(waveform)
            audio = Media(encode_flac((waveform * 32767).astype(np.int16)))
            clips.append(Clip.cut(recording, start, end, SAMPLE_RATE_HZ, audio=audio, **columns))
            start = end
        if number:
            pixels = generator.integers(0, 255, (24, 32, 3), dtype=np.uint8)
            shown = Media(encode_png(pixels))
            clips.append(Clip.cut(recording, start, start + 1, 1, image=shown, modality="image", text="a picture"))
        corpus.write_recording(recording)
        corpus.write_clips(recording, clips)
    return corpus


@st.composite
def configs(draw: st.DrawFn) -> FilterConfig:
    """Limits of which some lie at scores that the corpus has."""

    def some(name: str, *more: float):
        return draw(st.sampled_from([*(v for v in AT_LIMITS[name] if v is not None), *more]))

    fields = {"min_s": draw(st.sampled_from([0.0, 2.5, 3.0, 6.0])), "max_s": draw(st.sampled_from([6.0, 20.0, 30.0]))}
    fields |= {"max_no_speech_prob": some("no_speech_prob"), "min_avg_logprob": some("avg_logprob", -5.0)}
    fields |= {"max_compression_ratio": some("compression_ratio"), "min_snr_db": some("snr_db", -10.0)}
    fields |= {"min_unique_word_share": draw(st.sampled_from([0.0, 0.4, 0.5, 1.0]))}
    fields |= {
        "max_word_chars": draw(st.sampled_from([8, 25, 26, 90])),
        "max_compound_chars": draw(st.sampled_from([12, 44, 70])),
    }
    fields |= {"min_chars_per_s": some("chars_per_s", 0.0), "max_chars_per_s": some("chars_per_s", 40.0)}
    fields |= {"max_rate_iqr": draw(st.sampled_from([None, 0.5, 1.5]))}
    fields |= {"languages": draw(st.sampled_from([None, ("en",), ("de", "zh")]))}
    fields |= {"min_language_probability": some("language_probability"), "max_clipped_share": some("clipped_share")}
    fields |= {"min_bandwidth_hz": some("bandwidth_hz", 0.0), "min_modulation_db": some("modulation_db", 0.0)}
    fields |= {"max_edge_db": some("edge_db", 0.0), "min_voice_similarity": some("voice_similarity", 0.0)}
    fields |= {"max_overlap_share": draw(st.sampled_from([1.0, *filter(None, OVERLAPS)]))}
    fields |= {"min_agreement": draw(st.sampled_from([0.0, *filter(None, AGREEMENTS)]))}
    fields |= {"min_dnsmos": some("dnsmos_ovrl", 0.0), "min_rms_dbfs": some("rms_dbfs")}
    if draw(st.booleans()):  # else hardly a clip would be kept, and the last filters would never be asked
        fields = dict(
            draw(st.lists(st.sampled_from(sorted(fields.items(), key=str)), max_size=3, unique_by=lambda one: one[0]))
        )
    return FilterConfig(**fields)
