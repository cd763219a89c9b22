"""Every format, odd rates and layouts, and files that are damaged in the ways that podcasts are."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.media.decode import decode
from triforce.ingest.media.downmix import Downmix
from triforce.ingest.media.mp3 import read_plain_mp3

LENGTH_S = 3.0
TONE_HZ = 440.0


def _tone(rate_hz: int, seconds: float = LENGTH_S) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * TONE_HZ * np.arange(round(rate_hz * seconds)) / rate_hz)).astype(np.float32)


def _encode(path: Path, codec: str, rate_hz: int, layout: str, **options: str) -> Path:
    """The tone in every channel of ``layout`` but the bass."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout, options=options)
        channels = [channel.name for channel in stream.layout.channels]
        samples = np.stack([_tone(rate_hz) * (name != "LFE") for name in channels])
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(stream.format, layout, rate_hz, stream.codec_context.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def _mp3(rate_hz: int, channels: int = 1, seconds: float = LENGTH_S) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.stack([_tone(rate_hz, seconds)] * channels, axis=1), rate_hz, format="MP3")
    return file.getvalue()


def _read(path: Path, data: bytes | None = None) -> np.ndarray:
    if data is not None:
        path.write_bytes(data)
    return np.concatenate(list(decode(path)))


def _assert_is_tone(samples: np.ndarray, seconds: float = LENGTH_S) -> None:
    assert samples.dtype == np.int16
    assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(seconds, abs=0.12)
    middle = samples[len(samples) // 4 : len(samples) // 4 + SAMPLE_RATE_HZ].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) == pytest.approx(TONE_HZ, abs=2)
    assert np.sqrt(np.mean(middle**2)) / 32768 == pytest.approx(0.4 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "layout"),
    [
        ("a.mp3", "libmp3lame", 44_100, "stereo"),
        ("a.mp3", "libmp3lame", 11_025, "mono"),
        ("a.m4a", "aac", 44_100, "stereo"),
        ("a.m4b", "aac", 22_050, "mono"),
        ("a.mp4", "aac", 48_000, "5.1"),
        ("a.aac", "aac", 32_000, "mono"),
        ("a.opus", "libopus", 48_000, "mono"),
        ("a.webm", "libopus", 48_000, "stereo"),
        ("a.flac", "flac", 96_000, "stereo"),
        ("a.wav", "pcm_s16le", 8_000, "mono"),
        ("a.wav", "pcm_u8", 11_025, "mono"),
        ("a.wav", "pcm_s24le", 37_800, "stereo"),
        ("a.wav", "pcm_f64le", 48_000, "5.1"),
        ("a.mkv", "ac3", 48_000, "5.1"),
    ],
)
def test_every_format_gives_the_tone_that_was_put_in(tmp_path: Path, name, codec, rate_hz, layout):
    container_format = {"a.m4b": "a.m4a"}.get(name, name)
    path = _encode(tmp_path / container_format, codec, rate_hz, layout)
    _assert_is_tone(_read(path.rename(tmp_path / name)))


def test_an_mp3_whose_frames_differ_in_bit_rate_gives_all_of_it(tmp_path: Path):
    """Noise and a tone take turns, so that the encoder spends more and less on them."""
    noise = np.random.default_rng(0).normal(0, 0.2, 44_100).astype(np.float32)
    waveform = np.concatenate([_tone(44_100), noise, _tone(44_100)])
    path = tmp_path / "a.mp3"
    soundfile.write(path, waveform, 44_100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    with av.open(str(path)) as container:
        sizes = {packet.size for packet in container.demux(audio=0) if packet.size}
    assert len(sizes) > 3, "of one bit rate, frames differ by one byte at most"
    samples = _read(path)
    assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(7.0, abs=0.12)
    _assert_is_tone(samples[: 3 * SAMPLE_RATE_HZ])
    _assert_is_tone(samples[-3 * SAMPLE_RATE_HZ :])


def test_vorbis_gives_the_tone_that_was_put_in(tmp_path: Path):
    soundfile.write(tmp_path / "a.ogg", _tone(44_100), 44_100, subtype="VORBIS")
    _assert_is_tone(_read(tmp_path / "a.ogg"))


def test_the_tone_beside_pictures_is_found(tmp_path: Path):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=5, width=64, height=64, pix_fmt="yuv420p")
        audio = container.add_stream("aac", rate=44_100, layout="mono")
        for _ in range(15):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        resampler = av.AudioResampler("fltp", "mono", 44_100, audio.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(_tone(44_100)[None], format="fltp", layout="mono")
        frame.sample_rate = 44_100
        for part in resampler.resample(frame):
            container.mux(audio.encode(part))
        container.mux([*video.encode(None), *audio.encode(None)])
    _assert_is_tone(_read(path))


@pytest.mark.parametrize("channels", [1, 2])
def test_the_quick_and_the_thorough_decoder_agree(tmp_path: Path, channels):
    quick, thorough = tmp_path / "a.mp3", tmp_path / "a.bin"
    quick.write_bytes(_mp3(44_100, channels))
    thorough.write_bytes(quick.read_bytes())
    assert read_plain_mp3(quick) is not None
    a, b = _read(quick), _read(thorough)
    assert len(a) == len(b)
    assert np.max(np.abs(a.astype(int) - b)) <= 2


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (_mp3(44_100) + _mp3(44_100, 2), 2 * LENGTH_S),
        (_mp3(44_100) + _mp3(24_000), 2 * LENGTH_S),
        (_mp3(44_100) + b"ID3\x03\0\0\0\0\x0f\x10" + b"\0" * 2_000 + _mp3(44_100), 2 * LENGTH_S),
        (b"ID3\x03\0\0\0\0\x4e\x20" + b"\0" * 10_016 + _mp3(44_100) + b"TAG" + b"x" * 125, LENGTH_S),
        (b"\x12\x34" * 3_000 + _mp3(44_100), LENGTH_S),
        (_mp3(44_100)[:-4_000], None),
        (_mp3(44_100)[:8_000] + b"\0\x55" * 3_000 + _mp3(44_100)[8_000:], LENGTH_S),
    ],
    ids=[
        "mono, then stereo",
        "another rate",
        "tag in the middle",
        "tags",
        "rubbish in front",
        "cut off",
        "rubbish inside",
    ],
)
def test_spliced_and_damaged_mp3_files_lose_nothing_that_is_there(tmp_path: Path, data, seconds):
    samples = _read(tmp_path / "a.mp3", data)
    if seconds is not None:
        assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(seconds, abs=0.2)
    else:
        assert 1.0 < len(samples) / SAMPLE_RATE_HZ < LENGTH_S
    _assert_is_tone(samples, len(samples) / SAMPLE_RATE_HZ)


def test_a_wav_header_that_lies_about_the_length_is_not_believed(tmp_path: Path):
    _encode(tmp_path / "a.wav", "pcm_s16le", 16_000, "mono")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    samples = _read(tmp_path / "a.wav", bytes(data))
    assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(LENGTH_S, abs=0.01)


@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a.ogg", "a.m4a"])
def test_what_is_no_audio_is_named_so(tmp_path: Path, name):
    rubbish = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    for data in (b"", b"<!doctype html><title>Not here</title>" * 100, rubbish):
        with pytest.raises(Rejected) as caught:
            _read(tmp_path / name, data)
        assert caught.value.reason in (RejectReason.NOT_AUDIO, RejectReason.UNDECODABLE)


def test_pictures_without_sound_are_not_audio(tmp_path: Path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5, width=64, height=64, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(Rejected) as caught:
        list(decode(path))
    assert caught.value.reason == RejectReason.NOT_AUDIO


def test_a_file_that_is_not_there_is_no_verdict_on_the_recording(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        list(decode(tmp_path / "gone.mp3"))


def test_channels_are_turned_over_in_the_middle_without_a_click(tmp_path: Path):
    """Of ten seconds, the right channel is the left one, then its opposite."""
    left = _tone(48_000, 10.0)
    right = np.concatenate([left[:240_000], -left[240_000:]])
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 48_000)
    samples = _read(tmp_path / "a.wav").astype(int)
    _assert_is_tone(samples.astype(np.int16), 10.0)
    steepest = 0.4 * 32768 * 2 * np.pi * TONE_HZ / SAMPLE_RATE_HZ
    assert np.abs(np.diff(samples)).max() < 1.2 * steepest
    assert min(np.abs(samples[at : at + 4_800]).max() for at in range(0, len(samples) - 4_800, 2_400)) > 0.38 * 32768


def test_an_offset_turns_no_channel_over(tmp_path: Path):
    tone = _tone(48_000)
    soundfile.write(tmp_path / "a.wav", np.stack([0.5 * tone + 0.4, 0.5 * tone - 0.4], axis=1), 48_000)
    samples = _read(tmp_path / "a.wav")
    assert np.abs(samples).max() > 0.19 * 32768


def test_channels_without_correlation_are_averaged(tmp_path: Path):
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 3 * SAMPLE_RATE_HZ)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise.T, SAMPLE_RATE_HZ, subtype="FLOAT")
    np.testing.assert_allclose(_read(tmp_path / "a.wav"), noise.mean(0) * 32768, atol=1)


@pytest.mark.parametrize("turned", range(6))
def test_no_channel_of_six_cancels_the_others(turned):
    names = ("FL", "FR", "FC", "LFE", "BL", "BR")
    tone = _tone(48_000)
    samples = np.stack([tone] * 6)
    straight = Downmix(names).mix(samples)
    samples[turned] *= -1
    np.testing.assert_allclose(np.abs(Downmix(names).mix(samples)), np.abs(straight), atol=1e-6)
