"""One name for a voice in all recordings of a source."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from triforce.ingest.clips.rescore import rescore
from triforce.ingest.clips.speakers import SpeakerConfig
from triforce.ingest.corpus.packs.compact import compact
from triforce.ingest.corpus.records import DATASET, SAMPLE_RATE_HZ, Clip, Media, Recording
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.encode import encode_flac
from triforce.ingest.speakers import link
from triforce.ingest.speakers.link import Voice, group_voices, link_speakers

AUDIO = Media(encode_flac(np.zeros(240, np.int16)))
VOICES = np.eye(8, 256, dtype=np.float32)


def add(corpus: Corpus, name: str, labels: str, voices: str, kind: str = "podcast", **metadata: str) -> None:
    """A recording whose clips have these labels and are spoken by these voices, a letter a clip; ``A`` is the author's
    name, other letters are numbers after the recording's."""
    generator = np.random.default_rng(sum(map(ord, name)))
    recording = Recording(name, "talks", kind, name, f"https://example.org/{name}", author="Ann", metadata=metadata)
    stated = metadata.get("reader", "Ann")
    clips = []
    for at, (label, voice) in enumerate(zip(labels, voices, strict=True)):
        vector = VOICES[ord(voice) - ord("a")] + generator.normal(0, 0.01, 256)
        clips.append(
            Clip.cut(
                recording,
                at * SAMPLE_RATE_HZ,
                (at + 1) * SAMPLE_RATE_HZ,
                SAMPLE_RATE_HZ,
                audio=AUDIO,
                speaker=stated if label == "A" else f"{name}#{label}",
                voice=tuple((vector / np.linalg.norm(vector)).tolist()),
            )
        )
    corpus.write_recording(recording)
    corpus.write_clips(recording, clips)


def speakers(corpus: Corpus) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in corpus.clips(["recording_id", "speaker"]).to_pylist():
        found.setdefault(row["recording_id"], []).append(row["speaker"])
    return found


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return Corpus(str(tmp_path))


def test_a_voice_has_one_name_and_an_author_is_one_voice(corpus):
    """Ann hosts the first two; a guest comes twice; somebody else speaks most in the third, which names Ann too."""
    add(corpus, "r1", "AAA11", "aaabb")
    add(corpus, "r2", "AA1", "aab")
    add(corpus, "r3", "AA12", "ccab")
    assert link_speakers(corpus, "talks", SpeakerConfig()) == 3
    expected = {
        "r1": ["Ann", "Ann", "Ann", "r1#1", "r1#1"],
        "r2": ["Ann", "Ann", "r1#1"],
        "r3": ["r3#0", "r3#0", "Ann", "r1#1"],
    }
    assert speakers(corpus) == expected
    stamps = [Path(file).stat().st_mtime_ns for file in corpus.clip_files()]
    assert link_speakers(corpus, "talks", SpeakerConfig()) == 3
    assert speakers(corpus) == expected
    assert stamps == [Path(file).stat().st_mtime_ns for file in corpus.clip_files()]


def test_voices_in_packs_are_named_too(corpus):
    add(corpus, "r1", "AA1", "aab")
    add(corpus, "r2", "AA1", "aab")
    for path in Path(corpus.uri).rglob("*.parquet"):
        os.utime(path, (1e9, 1e9))
    compact(corpus)
    assert not list(Path(corpus.uri).glob("clips/*/*.parquet"))
    assert link_speakers(corpus, "talks", SpeakerConfig()) == 2
    assert speakers(corpus) == {"r1": ["Ann", "Ann", "r1#1"], "r2": ["Ann", "Ann", "r1#1"]}


def test_a_rescore_that_was_killed_before_it_compared_the_recordings_goes_on_there(corpus):
    pytest.importorskip("resemblyzer", reason="pip install 'triforce[speakers]'")
    add(corpus, "r1", "AA1", "aab")
    add(corpus, "r2", "AA1", "aab")
    assert rescore(corpus, voices=SpeakerConfig()) == []
    assert speakers(corpus)["r2"] == ["Ann", "Ann", "r1#1"]


def test_a_reader_whom_a_library_names_keeps_that_name(corpus):
    """Two sections by one reader through two microphones, and one by another reader in nearly the same voice."""
    add(corpus, "r1", "AA", "aa", reader="Joe")
    add(corpus, "r2", "AA", "bb", reader="Joe")
    add(corpus, "r3", "AA", "aa", reader="Kim")
    link_speakers(corpus, "talks", SpeakerConfig())
    assert speakers(corpus) == {"r1": ["Joe"] * 2, "r2": ["Joe"] * 2, "r3": ["Kim"] * 2}


def test_datasets_and_recordings_without_voices_are_left_alone(corpus):
    add(corpus, "r1", "AA", "ab", kind=DATASET)
    add(corpus, "r2", "1A", "ab")
    assert link_speakers(corpus, "talks", SpeakerConfig()) == 2
    assert speakers(corpus) == {"r1": ["Ann", "Ann"], "r2": ["r2#1", "Ann"]}


def test_more_voices_than_are_compared_at_once_join_the_nearest(monkeypatch):
    monkeypatch.setattr(link, "MAX_GROUPED", 4)
    order = "abcdabce"
    voices = [Voice(f"r{at}", "x#0", 100.0 - at, VOICES[ord(name) - ord("a")]) for at, name in enumerate(order)]
    groups = group_voices(voices, SpeakerConfig())
    assert [groups.tolist().index(group) for group in groups] == [0, 1, 2, 3, 0, 1, 2, 7]
