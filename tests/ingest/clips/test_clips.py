"""From a media file to a recording's clips, with real speech recognition."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from triforce.ingest import storage
from triforce.ingest.clips.clip_recording import ClipConfig, clip_recording
from triforce.ingest.corpus.arrow_schema import CLIP_SCHEMA
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, Clip, Recording, RejectReason, Status
from triforce.ingest.corpus.store import Corpus

SENTENCES = (
    "The ship left the harbour before the sun had risen over the hills.",
    "She wrote a short letter to her brother and folded it twice.",
    "In the morning, the market was already full of people.",
    "He counted the coins again, slowly, and put them into the drawer.",
)
PAUSES_S = (0.5, 1.6, 0.4, 2.6)


def _put(corpus: Corpus, name: str, data: bytes, **fields) -> Recording:
    media_path = corpus.media_path("talks", name, "mp3")
    storage.write_bytes(storage.join(corpus.uri, media_path), data)
    recording = Recording(name, "talks", "files", name, "https://example.org/" + name, media_path=media_path, **fields)
    corpus.write_recording(recording)
    return recording


def _mp3(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE_HZ, format="MP3")
    return file.getvalue()


@pytest.fixture(scope="module")
def talk(spoken) -> np.ndarray:
    noise = np.random.default_rng(0)
    parts = [np.zeros(SAMPLE_RATE_HZ // 2, np.float32)]
    for sentence, pause_s in zip(SENTENCES, PAUSES_S, strict=True):
        parts += [spoken(sentence), np.zeros(round(pause_s * SAMPLE_RATE_HZ), np.float32)]
    waveform = np.concatenate(parts)
    return waveform + noise.normal(0, 1e-3, len(waveform)).astype(np.float32)


def _wav(channels: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, channels, SAMPLE_RATE_HZ, format="WAV")
    return file.getvalue()


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower().replace("harbor", "harbour"))


def test_a_recording_becomes_clips_whose_audio_and_text_match(tmp_path: Path, talk, transcriber):
    corpus = Corpus(str(tmp_path))
    recording = _put(corpus, "one", _mp3(talk), title="A talk", licence="CC0-1.0", metadata={"reader": "Joe"})
    seconds = []
    summary = clip_recording(recording, corpus, ClipConfig(), transcriber, seconds.append)

    assert (summary.num_clips, summary.num_kept, summary.dropped) == (2, 2, {})
    assert summary.recording_s == pytest.approx(len(talk) / SAMPLE_RATE_HZ, abs=0.2)
    assert seconds == sorted(seconds)
    table = corpus.clips(CLIP_SCHEMA.names).to_pylist()
    assert [Clip.from_row(row).to_row() for row in table] == table
    assert _words(" ".join(clip["text"] for clip in table)) == _words(" ".join(SENTENCES))
    for clip in table:
        samples, rate_hz = soundfile.read(io.BytesIO(clip["audio"]["bytes"]), dtype="int16")
        assert (rate_hz, len(samples)) == (SAMPLE_RATE_HZ, clip["end_sample"] - clip["start_sample"])
        assert (clip["speaker"], clip["licence"], clip["title"]) == ("Joe", "CC0-1.0", "A talk")
        assert clip["asr_model"] == "whisper-tiny.en"
        times = [time for word in clip["words"] for time in (word["start_s"], word["end_s"])]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= clip["duration_s"] + 0.01


def test_the_same_recording_gives_the_same_bytes(tmp_path: Path, talk, transcriber):
    digests = set()
    for name in ("a", "b"):
        corpus = Corpus(str(tmp_path / name))
        clip_recording(_put(corpus, "one", _mp3(talk)), corpus, ClipConfig(), transcriber)
        digests.add(hashlib.sha256(storage.read_bytes(corpus.clips_uri("talks", "one"))).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html><body>404</body></html>" * 50, RejectReason.NOT_AUDIO),
        (b"", RejectReason.NOT_AUDIO),
        (b"\xff\xfb\x90\x00" + b"\0" * 100, None),
    ],
    ids=["a web page", "empty", "one broken frame"],
)
def test_a_bad_file_is_on_record_as_rejected_and_raises_nothing(tmp_path: Path, data, reason):
    corpus = Corpus(str(tmp_path))
    summary = clip_recording(_put(corpus, "bad", data), corpus, ClipConfig(), None)
    row = corpus.read_recording("talks", "bad")
    assert summary.status == row.status == Status.REJECTED
    assert row.reason == summary.reason
    assert row.detail
    assert reason is None or row.reason == reason
    assert corpus.clipped_ids("talks") == {"bad"}
    assert corpus.clips().num_rows == 0


def test_silence_and_overlong_recordings_are_rejected_by_name(tmp_path: Path, talk):
    corpus = Corpus(str(tmp_path))
    silence = _put(corpus, "silence", _mp3(np.zeros(5 * SAMPLE_RATE_HZ, np.float32)))
    assert clip_recording(silence, corpus, ClipConfig(), None).reason == RejectReason.NO_SPEECH
    long = _put(corpus, "long", _mp3(talk))
    assert clip_recording(long, corpus, ClipConfig(max_recording_s=3), None).reason == RejectReason.TOO_LONG


def test_speech_in_channels_that_cancel_each_other_is_found(tmp_path: Path, talk):
    corpus = Corpus(str(tmp_path))
    found = []
    for name, right in (("same", talk), ("turned", -talk)):
        recording = _put(corpus, name, _wav(np.stack([talk, right], axis=1)))
        assert clip_recording(recording, corpus, ClipConfig(), None).status == Status.FETCHED
        rows = [row for row in corpus.clips().to_pylist() if row["recording_id"] == name]
        found.append([(row["start_sample"], round(row["rms_dbfs"], 1)) for row in rows])
    assert found[0] == found[1] != []


def test_what_is_not_the_recordings_fault_is_tried_again_and_no_more_than_three_times(tmp_path: Path):
    corpus = Corpus(str(tmp_path))
    media_path = corpus.media_path("talks", "odd", "wav")
    (tmp_path / media_path).mkdir(parents=True)  # an error of the machine: a folder in the file's place
    recording = Recording("odd", "talks", "files", "odd", "https://example.org/odd", media_path=media_path)
    for tries in ("1", "2"):
        summary = clip_recording(recording, corpus, ClipConfig(), None)
        assert (summary.status, summary.reason) == (Status.REJECTED, RejectReason.UNKNOWN)
        recording = corpus.read_recording("talks", "odd")
        assert (recording.status, recording.metadata["clip_tries"]) == (Status.FETCHED, tries)
        assert corpus.clipped_ids("talks") == set()
    clip_recording(recording, corpus, ClipConfig(), None)
    recording = corpus.read_recording("talks", "odd")
    assert (recording.status, recording.reason) == (Status.REJECTED, RejectReason.UNDECODABLE)
    assert "IsADirectoryError" in recording.detail
    assert corpus.clipped_ids("talks") == {"odd"}
