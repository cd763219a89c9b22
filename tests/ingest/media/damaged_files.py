"""A corpus of damaged media files, made of one good sound: what feeds, recorders and cut-off downloads leave behind.

``CASES`` names each file with what must become of it. `main` puts every file through what a run does with it, in a
process of its own, and prints a line of JSON a file: a crash names its file.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.examine import examine
from triforce.ingest.media.decode import decode

SECONDS = 2.0
RATE_HZ = 44_100
SOUND = "sound"
REJECTED = "rejected"
"""Outcome of a file that may be refused for any named reason, and must not be taken for sound."""


@dataclass(frozen=True)
class Damaged:
    """A file, and what must become of it."""

    name: str
    make: Callable[[], bytes]
    outcome: str
    """`SOUND`, `REJECTED`, or the one reason that is right."""
    seconds: tuple[float, float] = (SECONDS - 0.1, SECONDS + 0.15)
    """Least and most seconds that are decoded of it, where it is sound."""


def waveform(rate_hz: int = RATE_HZ, seconds: float = SECONDS) -> np.ndarray:
    """The good sound, ``(N,) float32``: a voice-like tone whose loudness moves."""
    at = np.arange(round(rate_hz * seconds)) / rate_hz
    tone = sum(np.sin(2 * np.pi * 140 * k * at) / k for k in range(1, 8))
    return (0.15 * tone * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * at))).astype(np.float32)


@cache
def coded(format: str, rate_hz: int = RATE_HZ, signs: tuple[float, ...] = (1.0,), subtype: str | None = None) -> bytes:
    """The sound by libsndfile, a channel a sign."""
    file = io.BytesIO()
    channels = np.stack([sign * waveform(rate_hz) for sign in signs], axis=1)
    soundfile.write(file, channels, rate_hz, format=format, subtype=subtype)
    return file.getvalue()


@cache
def muxed(
    container: str, codec: str, layout: str = "mono", rate_hz: int = RATE_HZ, seconds: float = SECONDS,
    cover: bool = False, two: bool = False, signs: tuple[float, ...] = (),
) -> bytes:  # fmt: skip
    """The sound by FFmpeg, with a picture as a stream of video and another stream of sound, if asked for."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options={"fflags": "+bitexact"}) as out:
        if cover:
            picture = out.add_stream("mjpeg", rate=1, width=64, height=64, pix_fmt="yuvj420p")
        streams = [out.add_stream(codec, rate=rate_hz, layout=layout) for _ in range(1 + two)]
        if cover:
            out.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
            out.mux(picture.encode(None))
        for stream in streams:
            names = [channel.name for channel in stream.layout.channels]
            samples = np.stack([sign * waveform(rate_hz, seconds) for sign in signs or (1.0,) * len(names)])
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate = rate_hz
            resampler = av.AudioResampler(stream.format, layout, rate_hz, stream.codec_context.frame_size or 1024)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                out.mux(stream.encode(part))
            out.mux(stream.encode(None))
    return file.getvalue()


@cache
def films() -> bytes:
    """Pictures without sound."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=5, width=64, height=64, pix_fmt="yuv420p")
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    return file.getvalue()


def rubbish(num_bytes: int) -> bytes:
    return np.random.default_rng(7).integers(0, 256, num_bytes, dtype=np.uint8).tobytes()


def picture(form: str, side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, format=form)
    return file.getvalue()


def id3(*frames: bytes, claims: int | None = None) -> bytes:
    """An ID3v2.3 tag; it may claim another size than it has."""
    body = b"".join(frames)
    size = len(body) if claims is None else claims
    return b"ID3\x03\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + body


def id3_frame(name: bytes, body: bytes, claims: int | None = None) -> bytes:
    return name + struct.pack(">I", len(body) if claims is None else claims) + b"\0\0" + body


def cover(data: bytes) -> bytes:
    return id3_frame(b"APIC", b"\0image/png\0\x03\0" + data)


def chapter(number: int, start_ms: int, end_ms: int) -> bytes:
    return id3_frame(b"CHAP", b"c%d\0" % number + struct.pack(">4I", start_ms, end_ms, 0xFFFFFFFF, 0xFFFFFFFF))


def wav(data: bytes | None = None, **header: int) -> bytes:
    """A 16-bit WAV whose header may lie: rate, channels, bits, block, riff, size, tag."""
    samples = np.rint(waveform(16_000) * 32767).astype("<i2").tobytes() if data is None else data
    say = {"tag": 1, "channels": 1, "rate": 16_000, "block": 2, "bits": 16, "size": len(samples)} | header
    say.setdefault("riff", min(36 + say["size"], 0xFFFFFFFF))
    return (
        struct.pack("<4sI4s4sIHHIIHH", b"RIFF", say["riff"], b"WAVE", b"fmt ", 16, say["tag"], say["channels"],
                    say["rate"], say["rate"] * 2 & 0xFFFFFFFF, say["block"], say["bits"])
        + struct.pack("<4sI", b"data", say["size"]) + samples
    )  # fmt: skip


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def flac_claiming(num_samples: int) -> bytes:
    """STREAMINFO (RFC 9639, 8.2): its 36-bit count of samples ends 8 + 18 bytes into the file."""
    data = coded("FLAC")
    (packed,) = struct.unpack(">Q", data[18:26])
    return patched(data, 18, struct.pack(">Q", packed & ~0xFFFFFFFFF | num_samples))


def atom_lying(name: bytes, new: bytes, shift: int = 0) -> bytes:
    """An M4A in which the bytes from ``shift`` after the atom's name on are others."""
    data = muxed("mp4", "aac")
    return patched(data, data.index(name) + 4 + shift, new)


def holes(data: bytes, every: int, length: int) -> bytes:
    """Zeros of ``length`` bytes at each multiple of ``every``."""
    found = bytearray(data)
    for at in range(every, len(found) - length, every):
        found[at : at + length] = bytes(length)
    return bytes(found)


def empty_wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
    return file.getvalue()


HTML = b"<!doctype html><html><head><title>404 Not Found</title></head><body>" + b"<p>Not here.</p>" * 200
WARNING = b"<br />\n<b>Warning</b>: readfile(): open_basedir restriction in <b>/var/www/get.php</b> on line 12<br />\n"
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n%s\n#EXT-X-ENDLIST\n"
SOME = (0.3, SECONDS + 0.15)


def mp3() -> bytes:
    return coded("MP3")


def m4a() -> bytes:
    return muxed("mp4", "aac")


def cases() -> Iterator[Damaged]:
    """Yield the cases by their kind."""
    yield from _junk()
    yield from _cut_off()
    yield from _lying_headers()
    yield from _unusual()
    yield from _tags()
    yield from _misnamed()
    yield from _foreign()


def _junk() -> Iterator[Damaged]:
    for size in (1, 512, 5_000, 100_000):
        yield Damaged(f"mp3-behind-{size}-zeros.mp3", lambda size=size: bytes(size) + mp3(), SOUND)
    yield Damaged("mp3-behind-rubbish.mp3", lambda: rubbish(3_000) + mp3(), SOUND)
    yield Damaged("mp3-behind-a-newline.mp3", lambda: b"\r\n" + mp3(), SOUND)
    yield Damaged("mp3-behind-a-byte-order-mark.mp3", lambda: b"\xef\xbb\xbf" + id3() + mp3(), SOUND)
    yield Damaged("mp3-behind-a-php-warning.mp3", lambda: WARNING + mp3(), SOUND)
    yield Damaged("mp3-behind-a-web-page.mp3", lambda: HTML + mp3(), SOUND)
    yield Damaged("mp3-behind-http-headers.mp3", lambda: b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n" + mp3(), SOUND)
    yield Damaged("mp3-before-a-web-page.mp3", lambda: mp3() + HTML, SOUND)
    yield Damaged("mp3-before-zeros.mp3", lambda: mp3() + bytes(50_000), SOUND)
    yield Damaged("mp3-in-a-wav.wav", lambda: wav(mp3(), tag=0x55), SOUND)
    yield Damaged("aac-behind-zeros.aac", lambda: bytes(512) + muxed("adts", "aac"), SOUND)
    yield Damaged("ogg-behind-zeros.ogg", lambda: bytes(512) + coded("OGG"), SOUND)
    yield Damaged("flac-behind-id3.flac", lambda: id3() + coded("FLAC"), SOUND)
    yield Damaged("flac-behind-zeros.flac", lambda: bytes(512) + coded("FLAC"), SOUND)
    yield Damaged("wav-behind-zeros.wav", lambda: bytes(512) + wav(), REJECTED)
    yield Damaged("m4a-behind-zeros.m4a", lambda: bytes(512) + m4a(), REJECTED)
    yield Damaged("transport-stream-behind-rubbish.ts", lambda: rubbish(300) + muxed("mpegts", "aac"), SOUND)
    yield Damaged("two-mp3.mp3", lambda: mp3() + mp3(), SOUND, (2 * SECONDS - 0.1, 2 * SECONDS + 0.2))
    yield Damaged("two-ogg.ogg", lambda: coded("OGG") + coded("OGG"), SOUND, (SECONDS - 0.1, 2 * SECONDS + 0.2))


def _cut_off() -> Iterator[Damaged]:
    whole = {
        "a.mp3": mp3, "a.wav": wav, "a.flac": lambda: coded("FLAC"),
        "a.opus": lambda: muxed("ogg", "libopus", rate_hz=48_000),
        "a.webm": lambda: muxed("webm", "libopus", rate_hz=48_000), "a.aac": lambda: muxed("adts", "aac"),
        "a.ts": lambda: muxed("mpegts", "aac"), "a.aiff": lambda: coded("AIFF"),
    }  # fmt: skip
    for name, make in whole.items():
        yield Damaged(f"half-of-{name}", lambda make=make: make()[: len(make()) // 2], SOUND, SOME)
        yield Damaged(f"ten-bytes-of-{name}", lambda make=make: make()[:10], REJECTED)
    yield Damaged("half-of-a.m4a", lambda: m4a()[: len(m4a()) // 2], "undecodable")
    yield Damaged("end-of-a.mp3", lambda: mp3()[len(mp3()) // 2 :], SOUND, SOME)
    yield Damaged("end-of-a.ogg", lambda: coded("OGG")[6_000:], REJECTED)
    yield Damaged("end-of-a.m4a", lambda: m4a()[2_000:], REJECTED)
    yield Damaged("holes-in-a.mp3", lambda: holes(mp3(), 3_000, 100), SOUND, SOME)
    yield Damaged("holes-in-a.flac", lambda: holes(coded("FLAC"), 40_000, 100), SOUND, SOME)
    yield Damaged("holes-in-a.ogg", lambda: holes(coded("OGG"), 9_000, 60), SOUND, SOME)
    yield Damaged("holes-in-a.ts", lambda: holes(muxed("mpegts", "aac"), 5_000, 60), SOUND, SOME)
    yield Damaged("more-holes-than-a.m4a", lambda: m4a()[:1_500] + holes(m4a()[1_500:-1_500], 64, 60) + m4a()[-1_500:],
                  REJECTED)  # fmt: skip


def _lying_headers() -> Iterator[Damaged]:
    yield Damaged("wav-of-unknown-length.wav", lambda: wav(size=0xFFFFFFFF, riff=0xFFFFFFFF), SOUND)
    yield Damaged("wav-claiming-two-gigabytes.wav", lambda: wav(size=0x7FFFFF00), SOUND)
    yield Damaged("wav-claiming-nothing.wav", lambda: wav(size=0, riff=36), SOUND)
    yield Damaged("wav-claiming-half.wav", lambda: wav(size=32_000), SOUND, (0.9, SECONDS + 0.1))
    yield Damaged("wav-at-one-hertz.wav", lambda: wav(rate=1), REJECTED)
    yield Damaged("wav-at-no-hertz.wav", lambda: wav(rate=0), REJECTED)
    yield Damaged("wav-at-four-gigahertz.wav", lambda: wav(rate=0xFFFFFFFF), REJECTED)
    yield Damaged("wav-at-two-megahertz.wav", lambda: wav(rate=2_000_000), "bad_metadata")
    yield Damaged("wav-at-half-its-rate.wav", lambda: wav(rate=8_000), SOUND, (2 * SECONDS - 0.1, 2 * SECONDS + 0.1))
    yield Damaged("wav-of-no-channels.wav", lambda: wav(channels=0), REJECTED)
    yield Damaged("wav-of-65535-channels.wav", lambda: wav(channels=0xFFFF, block=0xFFFE), REJECTED)
    yield Damaged("wav-of-no-bits.wav", lambda: wav(bits=0), REJECTED)
    yield Damaged("wav-of-a-codec-without-name.wav", lambda: wav(tag=0x4321), "undecodable")
    yield Damaged("flac-claiming-ten-hours.flac", lambda: flac_claiming(36_000 * RATE_HZ), "bad_metadata")
    yield Damaged("flac-claiming-nothing.flac", lambda: flac_claiming(0), SOUND)
    yield Damaged("flac-claiming-half.flac", lambda: flac_claiming(RATE_HZ), SOUND, (0.9, SECONDS + 0.1))
    yield Damaged("m4a-claiming-days.m4a", lambda: atom_lying(b"mvhd", b"\x7f\xff\xff\xff", 16), SOUND)
    yield Damaged("m4a-claiming-many-samples.m4a", lambda: atom_lying(b"stsz", b"\x7f\xff\xff\xff", 8), REJECTED)
    yield Damaged("m4a-with-a-gigabyte-atom.m4a", lambda: patched(m4a(), m4a().index(b"moov") - 4, b"\x3f\xff\xff\xff"),
                  SOUND)  # fmt: skip
    yield Damaged("m4a-with-samples-elsewhere.m4a", lambda: atom_lying(b"stco", b"\x7f\xff\xff\xff", 8), REJECTED)
    yield Damaged("ogg-with-wrong-sums.ogg", lambda: patched(coded("OGG"), 22, b"\0\0\0\0"), REJECTED)
    yield Damaged("mp3-with-a-wrong-xing-count.mp3", lambda: coded("MP3").replace(b"Info", b"Xing", 1), SOUND)
    yield Damaged("silence-of-an-hour.flac", lambda: _long_silence(), "bad_metadata")


@cache
def _long_silence() -> bytes:
    """Digital silence in a few bytes: a bomb."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8_000 * 3_600, np.int16), 8_000, format="FLAC")
    return file.getvalue()


def _unusual() -> Iterator[Damaged]:
    yield Damaged("phase-inverted.wav", lambda: coded("WAV", signs=(1.0, -1.0)), SOUND)
    yield Damaged("phase-inverted.mp3", lambda: coded("MP3", signs=(1.0, -1.0)), SOUND)
    yield Damaged("phase-inverted-and-softer.flac", lambda: coded("FLAC", signs=(1.0, -0.8)), SOUND)
    yield Damaged(
        "phase-inverted-centre.mp4", lambda: muxed("mp4", "aac", "5.1", 48_000, signs=(1, 1, -1, 0, 1, 1)), SOUND
    )
    yield Damaged("one-silent-channel.wav", lambda: coded("WAV", signs=(1.0, 0.0)), SOUND)
    yield Damaged("surround.mp4", lambda: muxed("mp4", "aac", "5.1", 48_000), SOUND)
    yield Damaged("eight-channels.wav", lambda: coded("WAV", signs=(1.0,) * 8), SOUND)
    yield Damaged("telephone.wav", lambda: coded("WAV", 8_000), SOUND)
    yield Damaged("telephone-a-law.wav", lambda: coded("WAV", 8_000, subtype="ALAW"), SOUND)
    yield Damaged("192-khz.flac", lambda: coded("FLAC", 192_000), SOUND)
    yield Damaged("double.wav", lambda: coded("WAV", subtype="DOUBLE"), SOUND)
    yield Damaged("not-a-number.wav", lambda: _not_a_number(), SOUND)
    yield Damaged("far-too-loud.wav", lambda: _far_too_loud(), SOUND)
    yield Damaged("zero-samples.wav", empty_wav, "undecodable")
    yield Damaged("zero-samples.flac", lambda: _no_samples("FLAC"), REJECTED)
    yield Damaged("zero-samples.ogg", lambda: _no_samples("OGG"), REJECTED)
    yield Damaged("one-sample.wav", lambda: wav(b"\1\0"), SOUND, (0.0, 0.01))
    yield Damaged("cover-first.m4a", lambda: muxed("mp4", "aac", cover=True), SOUND)
    yield Damaged("cover-first.mka", lambda: muxed("matroska", "libopus", rate_hz=48_000, cover=True), SOUND)
    yield Damaged("two-streams-of-sound.mka", lambda: muxed("matroska", "libopus", rate_hz=48_000, two=True), SOUND)
    yield Damaged("mono-then-stereo.mp3", lambda: mp3() + coded("MP3", signs=(1.0, 1.0)), SOUND, (3.9, 4.3))
    yield Damaged("other-rates.mp3", lambda: mp3() + coded("MP3", 24_000) + coded("MP3", 8_000), SOUND, (5.8, 6.4))


def _no_samples(form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(0, np.float32), 16_000, format=form)
    return file.getvalue()


def _not_a_number() -> bytes:
    file, sound = io.BytesIO(), waveform().copy()
    sound[1_000:1_200], sound[5_000] = np.nan, np.inf
    soundfile.write(file, np.stack([sound, -sound], axis=1), RATE_HZ, format="WAV", subtype="FLOAT")
    return file.getvalue()


def _far_too_loud() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform() * 1e30, RATE_HZ, format="WAV", subtype="FLOAT")
    return file.getvalue()


def _tags() -> Iterator[Damaged]:
    yield Damaged("id3-of-two-megabytes.mp3", lambda: id3(cover(bytes(2 << 20))) + mp3(), SOUND)
    yield Damaged("id3-claiming-256-megabytes.mp3", lambda: id3(claims=(1 << 28) - 1) + mp3(), REJECTED)
    yield Damaged("id3-claiming-less.mp3", lambda: id3(id3_frame(b"TIT2", b"\0title" * 50), claims=20) + mp3(), SOUND)
    yield Damaged(
        "id3-frame-claiming-gigabytes.mp3", lambda: id3(id3_frame(b"TIT2", b"\0a", claims=1 << 30)) + mp3(), SOUND
    )
    yield Damaged("id3-three-times.mp3", lambda: id3() + id3(id3_frame(b"TIT2", b"\0a")) + id3() + mp3(), SOUND)
    yield Damaged(
        "id3-of-a-thousand-chapters.mp3", lambda: id3(*(chapter(i, i, i) for i in range(1000))) + mp3(), SOUND
    )
    yield Damaged("id3-of-chapters-backwards.mp3", lambda: id3(chapter(0, 2000, 0), chapter(1, 0, 9)) + mp3(), SOUND)
    yield Damaged("id3-in-no-encoding.mp3", lambda: id3(id3_frame(b"TIT2", b"\x09\xff\xfe\xd8\0")) + mp3(), SOUND)
    yield Damaged("id3-in-the-middle.mp3", lambda: mp3()[:8_000] + id3(bytes(900)) + mp3()[8_000:], SOUND)
    yield Damaged("picture-bomb.mp3", lambda: id3(cover(picture("PNG", 12_000))) + mp3(), SOUND)
    yield Damaged("cover-that-is-none.mp3", lambda: id3(cover(rubbish(5_000))) + mp3(), SOUND)
    yield Damaged("ape-and-id3v1.mp3", lambda: mp3() + b"APETAGEX" + bytes(24) + b"TAG" + b"\xff" * 125, SOUND)


def _misnamed() -> Iterator[Damaged]:
    for name, make in {
        "wav.mp3": wav, "flac.mp3": lambda: coded("FLAC"), "ogg.wav": lambda: coded("OGG"), "mp3.flac": mp3,
        "m4a.mp3": m4a, "mp3.m4b": mp3, "aac.opus": lambda: muxed("adts", "aac"), "mp3.txt": mp3, "wav.m3u8": wav,
        "mp3": mp3,
    }.items():  # fmt: skip
        yield Damaged(f"really-{name}", make, SOUND)


def _foreign() -> Iterator[Damaged]:
    foreign = {
        "empty.mp3": b"", "one-byte.mp3": b"\xff", "web-page.mp3": HTML, "json.mp3": b'{"error": "gone"}',
        "pdf.mp3": b"%PDF-1.7\n" + b"1 0 obj\n" * 500, "zeros.mp3": bytes(20_000), "rubbish.mp3": rubbish(20_000),
        "png.mp3": picture("PNG"), "jpeg.mp3": picture("JPEG"), "zip.mp3": b"PK\3\4" + rubbish(5_000),
        "playlist.mp3": PLAYLIST % b"other.mp3", "playlist.m3u8": PLAYLIST % b"file:///etc/passwd",
        "concatenation.mp3": b"ffconcat version 1.0\nfile other.mp3\n",
        "subtitles.mp3": b"1\n00:00:01,0 --> 00:00:02,0\nA\n",
        "program.mp3": b"MZ\x90\0" + bytes(500), "sdp.mp3": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    }  # fmt: skip
    for name, data in foreign.items():
        yield Damaged(f"foreign-{name}", lambda data=data: data, REJECTED)
    yield Damaged("pictures-alone.mp4", films, "not_audio")


CASES = {case.name: case for case in cases()}


def write(case: Damaged, folder: Path) -> Path:
    """Write the file; beside it lies a good one, which no file may lead to."""
    (folder / "other.mp3").write_bytes(mp3())
    path = folder / case.name
    path.write_bytes(case.make())
    return path


def outcome(path: Path) -> dict:
    """What the fetcher and the clipper make of a file."""
    started = time.monotonic()
    found: dict = {"name": path.name}
    try:
        examine(path, max_duration_s=36_000.0)
        samples = np.concatenate(list(decode(path)))
        found |= {
            "outcome": SOUND,
            "seconds": len(samples) / SAMPLE_RATE_HZ,
            "peak": int(np.abs(samples.astype(int)).max()),
        }
    except Rejected as error:
        found |= {"outcome": error.reason.value, "detail": error.detail}
    return found | {"wall_s": time.monotonic() - started, "peak_mb": peak_mb()}


def peak_mb() -> int:
    """The most memory that this process has had; that of `resource.getrusage` may be its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


def main(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        print(json.dumps({"begins": path.name}), flush=True)
        print(json.dumps(outcome(path)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
