"""Cutting holds a stretch of the recording, never the whole of it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from benchmarks.long_mp3 import repeated_mp3

from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.decode import is_plain_mp3

RATE_HZ = 24_000
PIECE_S = 60
SHORT_MIN, LONG_MIN = 5, 45
CUT = """
import resource, sys
from triforce.ingest.clips.clip_recording import ClipConfig, clip_recording
from triforce.ingest.corpus.records import Recording
from triforce.ingest.corpus.store import Corpus

corpus = Corpus(sys.argv[1])
for name in ("short", "long"):
    media_path = corpus.media_path("bench", name, "mp3")
    recording = Recording(name, "bench", "files", name, "file:" + name, media_path=media_path)
    summary = clip_recording(recording, corpus, ClipConfig(), None)
    print(summary.num_clips, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _piece() -> bytes:
    """Bursts of voice-like harmonics with pauses, as an MP3."""
    time_s = np.arange(PIECE_S * RATE_HZ) / RATE_HZ
    phase = 2 * np.pi * 140 * time_s + 8 * np.sin(2 * np.pi * 0.7 * time_s)
    voice = sum(np.sin(number * phase) / number for number in range(1, 24))
    bursts = (time_s % 5 < 4) * (0.55 - 0.45 * np.cos(2 * np.pi * 4 * time_s))
    file = io.BytesIO()
    soundfile.write(file, 0.08 * voice * bursts, RATE_HZ, format="MP3")
    return file.getvalue()


@pytest.mark.parametrize("plain", [True, False])
def test_a_recording_nine_times_as_long_takes_no_more_memory(tmp_path: Path, plain: bool):
    """The 40 minutes between them are 115 MB as samples of 16 bits. By libsndfile where the file is plain, by FFmpeg
    where a tag stands in its middle.
    """
    piece = _piece()
    for name, minutes in (("short", SHORT_MIN), ("long", LONG_MIN)):
        path = tmp_path / Corpus(str(tmp_path)).media_path("bench", name, "mp3")
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = list(repeated_mp3(piece, minutes * 60 // PIECE_S))
        path.write_bytes(b"".join(parts if plain else [*parts[:2], b"TAG", *parts[2:]]))
        assert is_plain_mp3(path) == plain
    done = subprocess.run([sys.executable, "-c", CUT, str(tmp_path)], capture_output=True, text=True, check=True)
    (short_clips, short_kb), (long_clips, long_kb) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert short_clips >= SHORT_MIN * 60 / 20
    assert long_clips >= 8 * short_clips
    assert (long_kb - short_kb) / 1024 < 30
