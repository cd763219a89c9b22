"""What a file really is, whatever it claims."""

from __future__ import annotations

import io
import struct

import av
import numpy as np
import pytest
import soundfile
from sync_loop import sync_source

from triforce.ingest.config import AudiobookSource
from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.examine import examine
from triforce.ingest.media.decode import decode


def put(tmp_path, data: bytes):
    path = tmp_path / "media"
    path.write_bytes(data)
    return path


def reason(path, **options) -> RejectReason:
    with pytest.raises(Rejected) as caught:
        examine(path, **{"max_duration_s": 3600.0} | options)
    return caught.value.reason


@pytest.mark.parametrize(("format", "extension"), [("FLAC", "flac"), ("WAV", "wav"), ("OGG", "ogg"), ("MP3", "mp3")])
def test_kinds_are_told_by_their_bytes(tmp_path, sound, format, extension):
    found = examine(put(tmp_path, sound(1, 1.0, format)), max_duration_s=10)
    assert found.extension == extension
    assert found.duration_s == pytest.approx(1.0, abs=0.1)
    assert (found.sample_rate_hz, found.num_channels) == (16_000, 1)


@pytest.mark.parametrize(
    "head",
    [b"", b"<!doctype html>", b"%PDF-1.7", b'{"a": 1}', b"\x00" * 64, b"MZ\x90", b"#!/bin/sh", b"#EXTM3U\n/a.mp3\n"],
)
def test_what_is_no_audio_is_told_too(tmp_path, head):
    assert reason(put(tmp_path, head)) == RejectReason.NOT_AUDIO


def test_what_a_player_plays_is_read(tmp_path, sound):
    found = examine(put(tmp_path, bytes(512) + sound(1, 1.0, "MP3")), max_duration_s=10)
    assert (found.extension, found.codec) == ("mp3", "mp3float")
    assert found.duration_s == pytest.approx(1.0, abs=0.15)


def test_the_hash_is_of_the_stream_that_clips_are_cut_from(tmp_path):
    """Of a mono and a stereo stream, in either order, both take the stereo one."""
    hashes = set()
    for layouts in (("mono", "stereo"), ("stereo", "mono")):
        with av.open(str(tmp_path / "a.mka"), "w") as output:
            streams = [output.add_stream("pcm_s16le", rate=16_000, layout=layout) for layout in layouts]
            for stream, layout in zip(streams, layouts, strict=True):
                samples = np.full((1, 16_000 * (1 + (layout == "stereo"))), 1_000 * len(layout), np.int16)
                frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
                frame.sample_rate = 16_000
                output.mux(stream.encode(frame))
        found = examine(tmp_path / "a.mka", max_duration_s=10)
        assert found.num_channels == 2
        hashes.add(found.pcm_sha256)
        assert np.median(np.concatenate(list(decode(tmp_path / "a.mka")))) == 6_000
    assert len(hashes) == 1


def test_the_hash_is_of_the_sound_alone(tmp_path, sound):
    """Tags and containers do not change it; one sample does."""
    samples, rate = soundfile.read(io.BytesIO(sound(3, format="FLAC")), dtype="int16")

    def hash_of(samples: np.ndarray, format: str) -> str:
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format=format, subtype="PCM_16")
        return examine(put(tmp_path, file.getvalue()), max_duration_s=10).pcm_sha256

    tagged = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)
    mp3 = sound(3, format="MP3")
    one = examine(put(tmp_path, mp3), max_duration_s=10).pcm_sha256
    assert examine(put(tmp_path, tagged + mp3), max_duration_s=10).pcm_sha256 == one
    assert hash_of(samples, "FLAC") == hash_of(samples, "WAV")
    other = samples.copy()
    other[5000] += 1
    assert hash_of(samples, "FLAC") != hash_of(other, "FLAC")


def test_bombs_and_ruins_are_named(tmp_path, sound):
    assert reason(put(tmp_path, b"")) == RejectReason.NOT_AUDIO
    assert reason(put(tmp_path, b"ID3" + bytes(5000))) == RejectReason.UNDECODABLE
    assert reason(put(tmp_path, sound(1, 5.0)), max_duration_s=2) == RejectReason.TOO_LONG
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(8000 * 3600, np.int16), 8000, format="FLAC")
    assert len(silence.getvalue()) < 100 * 3600
    assert reason(put(tmp_path, silence.getvalue()), max_duration_s=1e6) == RejectReason.BAD_METADATA


def test_ten_hours_claimed_in_ten_kilobytes(tmp_path, sound):
    data = bytearray(sound(1, 0.3, "FLAC"))
    # STREAMINFO (RFC 9639, 8.2): its 36-bit count of samples ends 8 + 18 bytes into the file.
    claimed = 16_000 * 36_000
    (packed,) = struct.unpack(">Q", data[18:26])
    data[18:26] = struct.pack(">Q", packed & ~0xFFFFFFFFF | claimed)
    assert len(data) < 15_000
    assert reason(put(tmp_path, bytes(data)), max_duration_s=1e6) == RejectReason.BAD_METADATA


def test_a_video_without_sound_is_no_audio(tmp_path):
    with av.open(str(tmp_path / "v.mp4"), "w") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        output.mux(stream.encode(None))
    assert reason(tmp_path / "v.mp4") == RejectReason.NOT_AUDIO


def test_a_file_behind_junk_is_fetched(tmp_path, corpus, settings, sound):
    (tmp_path / "files").mkdir()
    (tmp_path / "files/talk.mp3").write_bytes(bytes(512) + sound(1, 1.0, "MP3"))
    source = AudiobookSource(name="own", library="folder", path=str(tmp_path / "files"))
    assert sync_source(source, settings, corpus).fetched == 1
    (row,) = corpus.recordings()
    assert (row.media_path.rsplit(".", 1)[-1], row.metadata["codec"]) == ("mp3", "mp3float")
