"""Licences, languages, splits and words, as datasets write them."""

from __future__ import annotations

import gzip

import pytest

from triforce.ingest.corpus.records import RejectReason, Word
from triforce.ingest.datasets.columns import Columns, as_words
from triforce.ingest.datasets.detect import stated_licence
from triforce.ingest.datasets.huggingface import read_audio_folder, split_of
from triforce.ingest.datasets.utterance import DatasetConfig, Faulty, Utterance, language_code
from triforce.ingest.json_lines import read_lines


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("LICENSE.TXT", "Creative Commons Attribution 4.0 International Public License", "CC BY 4.0"),
        ("README", "Published under https://creativecommons.org/licenses/by-nc-sa/3.0/.", "CC BY-NC-SA 3.0"),
        ("README.md", "---\nlicense: cc-by-sa-4.0\nlanguage:\n- en\n---\nCC BY 4.0", "cc-by-sa-4.0"),
        ("README.md", "---\nlicense: other\n---\nCC BY 4.0", None),
        ("README.md", "---\nlicense:\n- mit\n---\n", "mit"),
        ("README.md", "---\n- a list\n---\n", None),
        ("LICENSE", "CC BY 4.0 for the texts, CC0 for the sound", None),
        ("LICENSE", "All rights reserved", None),
    ],
)
def test_a_licence_is_what_one_file_states_alone(tmp_path, name, text, licence):
    (tmp_path / name).write_text(text)
    assert stated_licence(tmp_path) == licence


@pytest.mark.parametrize(
    ("stated", "code"),
    [
        ("en", "en"),
        ("sv-SE", "sv"),
        ("EN_us", "en"),
        ("German", "de"),
        ("Klingon", "Klingon"),
        (" ", None),
        (None, None),
    ],
)
def test_languages(stated, code):
    assert language_code(stated) == code


def test_splits(tmp_path):
    names = {
        "train-00000-of-00002.parquet": "train",
        "clean.100-00000-of-00002-0a1b.parquet": "clean.100",
        "test.parquet": "test",
        "0000.parquet": None,
    }
    assert {name: split_of(tmp_path / name) for name in names} == names
    assert split_of(tmp_path / "dev.clean" / "0000.parquet") == "dev.clean"


def test_words_are_read_as_pairs_and_as_objects():
    word = Word("a", 0.5, 1.0)
    assert as_words('[["a", 0.5, 1.0]]') == (word,)
    assert as_words([{"word": "a", "start": 0.5, "end": 1}]) == (word,)
    assert as_words([{"word": "a", "start_s": 0.5, "end_s": 1, "probability": 0.25}]) == (
        word._replace(probability=0.25),
    )
    assert as_words([]) is None


@pytest.mark.parametrize("value", ["{", '{"a": 1}', '[["a", 1]]', '[{"word": "a"}]', '[["a", "x", "y"]]'])
def test_words_of_no_known_form_are_a_faulty_row(value):
    row = {"audio": "a.wav", "text": "a", "words": value}
    item = Columns(row, {}, "table").item(row, "/a.wav", "a.wav")
    assert isinstance(item, Faulty)
    assert item.reason is RejectReason.BAD_METADATA


@pytest.mark.parametrize(("start", "duration"), [("-1", "1"), ("0", "nan"), ("inf", "1"), ("x", "1")])
def test_times_that_are_none_are_a_faulty_row(start, duration):
    row = {"audio": "a.wav", "text": "a", "start": start, "duration": duration}
    assert isinstance(Columns(row, {}, "table").item(row, "/a.wav", "a.wav"), Faulty)


def test_halves_of_surrogate_pairs_are_replaced():
    assert Utterance(utterance_id="a\ud800", audio="a", text="b\udc00c").text == "b?c"


@pytest.mark.parametrize("name", ["../secret.wav", "/etc/secret.wav", "a/../../secret.wav"])
def test_an_audio_folder_names_no_file_outside_of_it(tmp_path, name):
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n{name},a\n")
    [item] = read_audio_folder(tmp_path, [tmp_path / "metadata.csv"], DatasetConfig(source="data"))
    assert isinstance(item, Faulty)
    assert "outside of the folder" in item.detail


def test_an_archive_that_breaks_off_gives_what_came_before(tmp_path):
    whole = gzip.compress(b"".join(b'{"n": %d}\n' % number for number in range(20_000)))
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    *lines, last = read_lines(tmp_path / "cut.jsonl.gz")
    assert len(lines) > 1000
    assert [row["n"] for _, row, _ in lines] == list(range(len(lines)))
    assert "the archive breaks off" in last[2]


def test_columns_that_are_asked_for_must_be_there():
    with pytest.raises(ValueError, match=r"no column of text, 'what'.*--set columns\.text=NAME, of 'path', 'text'"):
        Columns(["path", "text"], {"text": "what"}, "table")
    with pytest.raises(ValueError, match=r"columns\.spoken: use one of audio, text"):
        Columns(["path", "text"], {"spoken": "text"}, "table")
