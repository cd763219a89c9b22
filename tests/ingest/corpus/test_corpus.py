"""The corpus contract: written whole, read back by our own code, by pyarrow and by Hugging Face datasets."""

import io
from dataclasses import fields, replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from corpora import add_recording

from triforce.ingest import storage
from triforce.ingest.corpus.arrow_schema import CLIP_SCHEMA, RECORDING_SCHEMA
from triforce.ingest.corpus.records import (
    Clip,
    Media,
    Recording,
    RejectReason,
    Status,
    Word,
    check_source_name,
    make_clip_id,
    make_recording_id,
)
from triforce.ingest.corpus.store import ROW_GROUP_CLIPS, Corpus


@pytest.fixture(params=["local", "memory"])
def corpus(request, tmp_path) -> Corpus:
    """On a disk, and on fsspec's object store in memory, which knows no rename."""
    return Corpus(str(tmp_path / "corpus") if request.param == "local" else f"memory://{tmp_path.name}/corpus")


def test_a_recording_round_trips(corpus):
    recording = Recording(
        make_recording_id("feed", "guid-1"),
        "feed",
        "podcast",
        "guid-1",
        "https://example.org/1.mp3",
        title="Ärger & <b>Co</b>",
        licence="CC BY 4.0",
        duration_s=12.5,
        tool_versions={"triforce": "0.1.0", "av": "1"},
        metadata={"season": "2"},
    )
    corpus.write_recording(recording)
    assert corpus.read_recording("feed", recording.recording_id) == recording
    assert corpus.recording_ids("feed") == {recording.recording_id}
    assert corpus.sources() == ["feed"]
    changed = replace(recording, status=Status.REJECTED, reason=RejectReason.NETWORK)
    corpus.write_recording(changed)
    assert list(corpus.recordings()) == [changed]
    assert not changed.is_settled
    assert replace(changed, reason=RejectReason.NOT_FOUND).is_settled


def test_clips_are_read_back_in_order_and_by_column(corpus):
    kept = add_recording(corpus, "feed", "a", ROW_GROUP_CLIPS + 3, drop=2)
    table = corpus.clips()
    assert table.num_rows == ROW_GROUP_CLIPS + 3
    assert "audio" not in table.column_names
    assert table["start_sample"].to_pylist() == sorted(table["start_sample"].to_pylist())
    assert corpus.clips(["clip_id"], kept_only=True)["clip_id"].to_pylist() == kept
    row = corpus.dataset().to_table(columns=["audio", "duration_s"]).to_pylist()[0]
    waveform, rate_hz = soundfile.read(io.BytesIO(row["audio"]["bytes"]))
    assert rate_hz == 24_000
    assert len(waveform) / rate_hz == pytest.approx(row["duration_s"], abs=1e-4)


def test_pyarrow_and_datasets_open_it_as_it_is(tmp_path):
    corpus = Corpus(str(tmp_path / "corpus"))
    add_recording(corpus, "feed", "a", 5)
    [file] = corpus.clip_files()
    assert pq.read_schema(file).equals(CLIP_SCHEMA)
    loaded = datasets.load_dataset(
        "parquet", data_files=corpus.clip_files(), split="train", cache_dir=str(tmp_path / "hf")
    )
    assert isinstance(loaded.features["audio"], datasets.Audio)
    assert loaded.features["audio"].sampling_rate == 24_000
    raw = loaded.cast_column("audio", datasets.Audio(decode=False))[0]  # decoding would need torchcodec
    waveform, _ = soundfile.read(io.BytesIO(raw["audio"]["bytes"]), dtype="int16")
    assert waveform.size == raw["end_sample"] - raw["start_sample"]
    assert np.abs(waveform).max() > 100


def test_every_column_has_a_field_and_every_field_a_column():
    assert [field.name for field in fields(Clip)] == CLIP_SCHEMA.names
    assert [field.name for field in fields(Recording)] == RECORDING_SCHEMA.names
    recording = Recording("aa", "feed", "podcast", "a", "https://example.org")
    required = {field.name for field in CLIP_SCHEMA if not field.nullable}
    assert required == {name for name, value in Clip.cut(recording, 0, 1, 24_000).to_row().items() if value is not None}


def test_a_clip_of_every_column_comes_back_from_its_file(corpus):
    recording = Recording("aa", "feed", "podcast", "a", "https://example.org", title="A talk", author="Ann")
    numbers = {field.name: 0.5 for field in CLIP_SCHEMA if field.type == pa.float32()}
    texts = {field.name: field.name for field in CLIP_SCHEMA if field.nullable and field.type == pa.string()}
    full = replace(
        Clip.cut(recording, 12, 36, 24_000),
        **numbers,
        **texts,
        cut_blind=False,
        words=(Word(" a", 0.0, 0.25, 0.5), Word(" b", 0.25, 0.5, 1.0)),
        voice=(0.5, -0.5),
        conditioning=("aa-1", "aa-2"),
        **{name: Media(name.encode(), f"{name}.bin") for name in ("audio", "image", "video")},
    )
    bare = Clip.cut(recording, 36, 60, 24_000, words=(), author="Bob")
    assert corpus.write_clips(recording, [full, bare]) == 2
    rows = corpus.dataset().to_table().to_pylist()
    assert [Clip.from_row(row).to_row() for row in rows] == rows
    first, second = map(Clip.from_row, rows)
    assert first == full
    assert second == replace(bare, duration_s=second.duration_s, title="A talk", url="https://example.org")
    assert Clip.from_row(rows[0] | {"of_a_later_version": 1}) == full


def test_a_recording_of_unknown_columns_is_refused():
    recording = Recording("aa", "feed", "podcast", "a", "https://example.org", metadata={"b": "1", "a": "2"})
    assert recording.to_row()["metadata"] == [("a", "2"), ("b", "1")]
    assert Recording.from_row(recording.to_row()) == recording
    with pytest.raises(TypeError, match="of_a_later_version"):
        Recording.from_row(recording.to_row() | {"of_a_later_version": 1})


def test_a_clip_without_its_medium_is_named():
    recording = Recording("aa", "feed", "podcast", "a", "https://example.org")
    with pytest.raises(ValueError, match="clip aa-0000000000 has no bytes of video"):
        _ = Clip.cut(recording, 0, 1, 1, modality="video", audio=Media(b"x")).media
    assert Clip.cut(recording, 0, 1, 1, modality="music", audio=Media(b"x")).media == b"x"


def test_a_failed_write_leaves_nothing(corpus):
    recording = Recording(make_recording_id("feed", "a"), "feed", "podcast", "a", "https://example.org")

    def rows():
        yield Clip.cut(recording, 0, 1, 24_000)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        corpus.write_clips(recording, rows())
    assert corpus.clip_files() == []
    assert storage.list_files(storage.join(corpus.uri, "clips", "source=feed")) == []


def test_names_from_outside_are_checked(corpus):
    for name in ("", "../up", "A", "a" * 41, "with space", "-a"):
        with pytest.raises(ValueError, match="source name"):
            check_source_name(name)
    assert check_source_name("my-feed-2") == "my-feed-2"
    for extension in ("", "../x", "MP3", "parquet", "toolong"):
        with pytest.raises(ValueError, match="media extension"):
            corpus.media_path("feed", "0" * 16, extension)


def test_ids_are_stable():
    assert make_recording_id("feed", "guid") == "b2d7559b50274e4e"  # a corpus on disk depends on it
    assert make_recording_id("feed", "guid") != make_recording_id("feed2", "guid")
    assert make_clip_id("ab", 12) == "ab-0000000012"
