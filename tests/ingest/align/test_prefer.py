"""Recordings that come with a transcript, from the media file to the clips, with real speech recognition."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from triforce.ingest import storage
from triforce.ingest.align.config import AlignConfig
from triforce.ingest.align.prefer import UNUSED, USE
from triforce.ingest.clips.clip_recording import ClipConfig, clip_recording
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.refilter import refilter
from triforce.ingest.corpus.records import (
    PUBLISHED,
    RECOGNISER,
    SAMPLE_RATE_HZ,
    Clip,
    Recording,
    RejectReason,
    Status,
)
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.takedown import remove

SAID = (
    "Mister Cholmondeley left the harbour before the sun had risen over the hills.",
    "She wrote a short letter to Mrs. Featherstonehaugh, and folded it twice.",
    "He counted the coins again, slowly, and put them into the drawer.",
)
OTHERS = [
    "It was a bright cold day in April, and all the clocks were striking thirteen at once.",
    "Nobody in the village could remember when the bakery had last been painted.",
]
PAUSE = np.zeros(round(2.5 * SAMPLE_RATE_HZ), np.float32)


@pytest.fixture(scope="module")
def flac(spoken) -> bytes:
    file = io.BytesIO()
    waveform = np.concatenate([part for text in SAID for part in (spoken(text), PAUSE)])
    soundfile.write(file, waveform, SAMPLE_RATE_HZ, format="FLAC")
    return file.getvalue()


def record(corpus: Corpus, flac: bytes, transcript: str, ending: str = "txt", **metadata: str) -> Recording:
    media_path = corpus.media_path("talks", "one", "flac")
    path = f"recordings/source=talks/one.transcript.{ending}"
    storage.write_bytes(storage.join(corpus.uri, media_path), flac)
    storage.write_bytes(storage.join(corpus.uri, path), transcript.encode())
    row = Recording("one", "talks", "files", "one", "https://example.org/one", media_path=media_path)
    row = Recording(**vars(row) | {"metadata": metadata | {"transcript_path": path}})
    corpus.write_recording(row)
    return row


def clips_of(corpus: Corpus, columns: list[str] | None = None) -> list[Clip]:
    return [Clip.from_row(row) for row in corpus.clips(columns).to_pylist()]


def test_clips_take_the_published_words(corpus, flac, transcriber):
    published = "\n".join(
        [OTHERS[0], f"Ann: {SAID[0]}", f"Bob: {SAID[1]}", "Ann: [Laughs]", f"Bob: {SAID[2]}", OTHERS[1]]
    )
    recording = record(corpus, flac, published)
    summary = clip_recording(recording, corpus, ClipConfig(), transcriber)
    clips = clips_of(corpus)
    assert [clip.text for clip in clips] == list(SAID)
    assert summary.num_kept == 3
    for clip in clips:
        assert (clip.text_source, clip.asr_model) == (PUBLISHED, "whisper-tiny.en")
        assert "".join(word.word for word in clip.words).strip() == clip.text
        assert 0.8 < clip.agreement <= 1.0
        assert clip.chars_per_s == pytest.approx(len(clip.text) / clip.duration_s)
        times = [time for word in clip.words for time in (word.start_s, word.end_s)]
        assert times == sorted(times)
        assert times[-1] <= clip.duration_s + 0.01
    assert "Cholmondeley" not in clips[0].recognised
    assert clips[2].recognised.startswith("He counted the coins again")
    assert corpus.read_recording("talks", "one").metadata[USE].startswith("published words for 3 of 3 clips")


def test_where_it_says_something_else_the_recogniser_stays(corpus, flac, transcriber):
    recording = record(corpus, flac, "\n".join([SAID[0], OTHERS[0], SAID[2]]))
    clip_recording(recording, corpus, ClipConfig(), transcriber)
    first, second, third = clips_of(corpus)
    assert (first.text, third.text) == (SAID[0], SAID[2])
    assert (second.text_source, second.recognised) == (RECOGNISER, None)
    assert second.text.startswith("She wrote a short letter to")
    assert second.agreement < 0.5
    changed = refilter(corpus, FilterConfig(min_agreement=0.5))
    assert changed["after"].to_pylist() == ["disagreement"]


@pytest.mark.parametrize(
    ("transcript", "ending", "metadata", "reason"),
    [
        ("\n".join(OTHERS * 3), "txt", {}, "another text, translation or recording"),
        (
            "Er zählte die Münzen. Langsam.\n" * 9,
            "txt",
            {"transcript_language": "de"},
            "it is in de, and the speech in en",
        ),
        (" ".join(SAID).lower().replace(".", "").replace(",", ""), "txt", {}, "without capitals"),
        ("WEBVTT\n\n00:00.000 --> 00:02.000\nMister<00:00:00.500><c> left</c>", "vtt", {}, "automatic captions"),
        ("", "txt", {}, "no words in it"),
    ],
)
def test_a_transcript_that_is_none_of_this_speech_is_not_used(
    corpus, flac, transcriber, transcript, ending, metadata, reason
):
    recording = record(corpus, flac, transcript, ending, **metadata)
    assert clip_recording(recording, corpus, ClipConfig(), transcriber).num_clips == 3
    assert {clip.text_source for clip in clips_of(corpus)} == {RECOGNISER}
    assert reason in corpus.read_recording("talks", "one").metadata[UNUSED]


def test_a_recording_that_is_taken_down_while_it_is_cut_stays_so(corpus, flac, transcriber):
    recording = record(corpus, flac, "\n".join(SAID))
    summary = clip_recording(
        recording, corpus, ClipConfig(), transcriber, lambda _: remove(corpus, [recording]) and None
    )
    assert (summary.status, summary.reason) == (Status.REJECTED, RejectReason.FORBIDDEN)
    assert corpus.read_recording("talks", "one").detail == "removed"
    assert corpus.clip_files() == []


def test_again_gives_the_same_bytes_and_it_can_be_turned_off(corpus, flac, transcriber):
    recording = record(corpus, flac, "\n".join(SAID))
    digests = set()
    for _ in range(2):
        clip_recording(corpus.read_recording("talks", "one"), corpus, ClipConfig(), transcriber)
        digests.add(hashlib.sha256(storage.read_bytes(corpus.clips_uri("talks", "one"))).hexdigest())
    assert len(digests) == 1
    config = ClipConfig(align=AlignConfig(prefer_published=False))
    clip_recording(recording, corpus, config, transcriber)
    assert {(clip.text_source, clip.agreement) for clip in clips_of(corpus)} == {(RECOGNISER, None)}


def test_corpora_without_the_columns_are_read_and_refiltered(corpus, flac, transcriber):
    clip_recording(record(corpus, flac, "\n".join(SAID)), corpus, ClipConfig(), transcriber)
    path = storage.resolve(corpus.clips_uri("talks", "one"))[1]
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns(["text_source", "agreement", "recognised"]), path)
    assert [(clip.text_source, clip.agreement, clip.text) for clip in clips_of(corpus)] == [
        (None, None, text) for text in SAID
    ]
    assert len(refilter(corpus, FilterConfig(min_agreement=0.9))) == 0
    assert len(refilter(corpus, FilterConfig(min_s=30, max_s=30))) == 3
    assert clips_of(corpus, ["text", "text_source"])[0].text == SAID[0]
