"""A hundred and more damaged files: each ends as sound, or as a named rejection that says what to do next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import damaged_files
import pytest
from damaged_files import CASES, REJECTED, SOUND

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.media.ffmpeg_errors import ERRORS, UNSORTED, verdict_on

MAX_WALL_S = 10.0
"""Most seconds for a file; the slowest takes a tenth of it on a busy core."""
MAX_PEAK_MB = 600
"""Most memory of the process that reads them all; it takes 200 MB before the first."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, dict]:
    """What became of each file, all of them in one process of its own."""
    folder = tmp_path_factory.mktemp("damaged")
    for case in CASES.values():
        damaged_files.write(case, folder)
    code = [sys.executable, damaged_files.__file__, str(folder)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"died of {rows[-1:]}: {done.stderr[-2000:]}"
    return {row["name"]: row for row in rows if "name" in row}


def test_there_are_more_than_a_hundred_of_them():
    assert len(CASES) > 100


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_is_sound_or_is_refused_with_advice(outcomes, name):
    case, found = CASES[name], outcomes[name]
    if case.outcome == SOUND:
        assert found["outcome"] == SOUND, found
        assert case.seconds[0] <= found["seconds"] <= case.seconds[1], found
        assert found["peak"] > 3_000 or case.seconds[1] < 0.1, "it was there, and is silent"
    else:
        assert found["outcome"] != SOUND, found
        assert case.outcome in (REJECTED, found["outcome"]), found
        assert not RejectReason(found["outcome"]).transient, "the file is broken, and stays so"
        assert "; " in found["detail"], f"{found['detail']!r} says what is wrong, and not what to do"
    assert found["wall_s"] < MAX_WALL_S
    assert found["peak_mb"] < MAX_PEAK_MB


def test_every_class_of_error_has_its_row():
    classes = {
        found for found in vars(av.error).values() if isinstance(found, type) and issubclass(found, av.FFmpegError)
    }
    assert classes - set(ERRORS) == {av.FFmpegError}


def test_an_error_without_a_row_is_transient():
    class NewError(av.FFmpegError):
        pass

    assert verdict_on(NewError(1, "new")) == UNSORTED
    assert UNSORTED.reason.transient
    assert not verdict_on(av.error.InvalidDataError(1, "broken")).reason.transient


def test_the_same_files_are_made_every_time():
    for name in ("two-mp3.mp3", "foreign-rubbish.mp3", "cover-first.m4a"):
        assert CASES[name].make() == CASES[name].make()


def test_paths_beside_the_file_are_left_alone(tmp_path: Path):
    """A playlist that names a sound beside it has no sound of its own."""
    path = damaged_files.write(CASES["foreign-playlist.m3u8"], tmp_path)
    path.write_bytes(damaged_files.PLAYLIST % str(tmp_path / "other.mp3").encode())
    assert damaged_files.outcome(path)["outcome"] == RejectReason.NOT_AUDIO
