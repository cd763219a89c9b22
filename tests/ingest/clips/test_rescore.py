"""Voices and DNSMOS over a corpus, with the real models: two voices, one clip that holds both, one that is noisy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soxr

from triforce.ingest import storage
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.make_clip import sound_clip
from triforce.ingest.clips.refilter import refilter
from triforce.ingest.clips.rescore import rescore
from triforce.ingest.clips.speakers import SpeakerConfig, change_similarity, cluster, conditioning
from triforce.ingest.corpus.records import DATASET, SAMPLE_RATE_HZ, Clip, DropReason, Recording, make_clip_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.verify import verify
from triforce.ingest.media.samples import to_int16

SENTENCES = (
    "The ship left the harbour before the sun had risen over the hills.",
    "She wrote a short letter to her brother and folded it twice.",
    "In the morning, the market was already full of people.",
    "He counted the coins again, slowly, and put them into the drawer.",
    "Nobody knew how long the journey would take.",
    "Wait a moment, please, she said, and closed the door behind her.",
)
NOISY = 1
HIGHER = 1.3
"""As of a smaller person: pitch and formants by this factor."""


@pytest.fixture(scope="module")
def waveforms(spoken) -> list[np.ndarray]:
    """Four clips of one voice, three of another, one of both; the second clip is noisy."""
    low = [spoken(sentence) for sentence in SENTENCES]
    high = [soxr.resample(spoken(sentence), SAMPLE_RATE_HZ, SAMPLE_RATE_HZ / HIGHER) for sentence in SENTENCES]
    pairs = [np.concatenate(pair) for pair in ((high[0], high[1]), (high[2], high[3]), (high[4], high[5]))]
    noise = np.random.default_rng(0).normal(0, 0.05, len(low[NOISY]))
    return [low[0], low[NOISY] + noise, low[2], low[3], *pairs, np.concatenate([low[4], low[5], high[4], high[5]])]


@pytest.fixture
def talk(tmp_path: Path, waveforms) -> Corpus:
    corpus = Corpus(str(tmp_path))
    media_path = corpus.media_path("talks", "aa", "wav")
    storage.write_bytes(storage.join(corpus.uri, media_path), b"RIFF")
    recording = Recording(
        "aa", "talks", "files", "aa", "https://example.org/aa", media_path=media_path, author="Joe", num_bytes=4
    )
    corpus.write_recording(recording)
    clips, at = [], 0
    for waveform in waveforms:
        clips.append(sound_clip(recording, at, to_int16(waveform)))
        at += len(waveform)
    corpus.write_clips(recording, clips)
    return corpus


def test_voices_are_told_apart_and_a_clip_of_two_is_refused(talk):
    pytest.importorskip("resemblyzer", reason="pip install --no-deps Resemblyzer==0.1.4")
    (result,) = rescore(talk, voices=SpeakerConfig())
    clips = talk.clips().to_pylist()
    clear = [clip for at, clip in enumerate(clips[:7]) if at != NOISY]  # noise hides a voice
    assert [clip["speaker"] for clip in clear] == ["Joe"] * 3 + ["aa#1"] * 3
    assert result.num_speakers == len({clip["speaker"] for clip in clips})
    for clip in clear:
        same = {other["clip_id"] for other in clips if other["speaker"] == clip["speaker"]} - {clip["clip_id"]}
        assert clip["conditioning"]
        assert set(clip["conditioning"]) <= same
        assert np.linalg.norm(clip["voice"]) == pytest.approx(1, abs=1e-3)

    config = FilterConfig(min_s=0)
    assert [row["clip_id"] for row in refilter(talk, config).to_pylist()] == [clips[7]["clip_id"]]
    assert talk.clips(["drop_reason"])["drop_reason"][7].as_py() == DropReason.MANY_SPEAKERS
    assert [fault for fault in verify(talk, deep=False) if "clip" in fault.kind] == []
    assert rescore(talk, voices=SpeakerConfig()) == []
    rescore(talk, voices=SpeakerConfig(), again=True)
    dropped = clips[7]["clip_id"]
    assert all(dropped not in clip["conditioning"] for clip in talk.clips().to_pylist())


def test_speakers_that_a_dataset_names_are_kept(talk):
    pytest.importorskip("resemblyzer", reason="pip install --no-deps Resemblyzer==0.1.4")
    [recording] = talk.recordings()
    named = [Clip.from_row(row) for row in talk.dataset().to_table().to_pylist()][:6]
    named = [replace(clip, speaker="ann" if at % 2 else "bob") for at, clip in enumerate(named)]
    talk.write_recording(replace(recording, source_kind=DATASET))
    talk.write_clips(recording, named)
    (result,) = rescore(talk, voices=SpeakerConfig())
    clips = talk.clips().to_pylist()
    assert result.num_speakers == 2
    assert [clip["speaker"] for clip in clips] == ["bob", "ann"] * 3
    assert set(clips[0]["conditioning"]) == {clips[2]["clip_id"], clips[4]["clip_id"]}


def test_dnsmos_hears_the_noise_and_keeps_the_audio(talk):
    pytest.importorskip("speechmos", reason="pip install 'triforce[quality]'")
    audio = talk.clips(["audio"])["audio"].to_pylist()
    rescore(talk, dnsmos=True)
    scores = talk.clips(["dnsmos_ovrl", "dnsmos_bak"]).to_pylist()
    assert talk.clips(["audio"])["audio"].to_pylist() == audio
    assert all(1 <= score["dnsmos_ovrl"] <= 5 for score in scores)
    assert (
        scores[NOISY]["dnsmos_bak"] < min(score["dnsmos_bak"] for at, score in enumerate(scores) if at != NOISY) - 0.5
    )
    limit = (
        scores[NOISY]["dnsmos_ovrl"] + min(score["dnsmos_ovrl"] for at, score in enumerate(scores) if at != NOISY)
    ) / 2
    changes = refilter(talk, FilterConfig(min_s=0, min_dnsmos=limit)).to_pylist()
    assert [(row["clip_id"], row["after"]) for row in changes] == [
        (make_clip_id("aa", _start(talk, NOISY)), "low_dnsmos")
    ]


def _start(corpus: Corpus, row: int) -> int:
    return corpus.clips(["start_sample"])["start_sample"][row].as_py()


def test_a_file_of_an_older_version_is_read_with_nulls_and_judged(talk):
    uri = talk.clips_uri("talks", "aa")
    table = pq.read_table(uri, partitioning=None)
    old = table.select(
        [name for name in table.schema.names if not name.startswith(("voice", "conditioning", "dnsmos"))]
    )
    pq.write_table(old, uri)
    assert talk.clips(["dnsmos_ovrl"])["dnsmos_ovrl"].null_count == len(old)
    assert refilter(talk, FilterConfig(min_s=3.4)).num_rows > 0


def test_a_change_of_voice_is_found_where_it_is():
    a, b = np.eye(4)[0], np.eye(4)[1]
    assert change_similarity(np.stack([a] * 4 + [b] * 4)) == pytest.approx(0, abs=1e-6)
    assert change_similarity(np.stack([a] * 8)) == pytest.approx(1)
    assert change_similarity(np.stack([a] * 3)) is None


def test_clusters_are_numbered_by_size_and_conditioning_never_names_itself():
    generator = np.random.default_rng(0)
    voices = np.eye(8)[[1, 0, 0, 1, 0, 2]] + generator.normal(0, 0.05, (6, 8))
    voices = (voices / np.linalg.norm(voices, axis=1, keepdims=True)).astype(np.float32)
    speakers = cluster(voices, SpeakerConfig())
    assert speakers.tolist() == [1, 0, 0, 1, 0, 2]
    best = conditioning(voices, speakers, np.asarray([True, True, True, False, True, True]), 3)
    assert best[0] == []
    assert best[3] == [0]
    assert best[5] == []
    assert {len(best[index]) for index in (1, 2, 4)} == {2}
    assert all(index not in clips for index, clips in enumerate(best))
    assert cluster(voices[:1], SpeakerConfig()).tolist() == [0]
