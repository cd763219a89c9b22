"""Datasets as they are laid out come into a corpus with their texts, speakers, times and sound."""

from __future__ import annotations

import io
from pathlib import Path

import dataset_folders as folders
import numpy as np
import pytest
import soundfile

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, TRANSCRIPT, Clip, Recording, Status, Word
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.verify import verify
from triforce.ingest.datasets.detect import open_dataset
from triforce.ingest.datasets.import_dataset import import_dataset
from triforce.ingest.datasets.import_part import Counts
from triforce.ingest.datasets.utterance import DatasetConfig


def bring(corpus: Corpus, root: Path, form: str, **settings) -> Counts:
    """Import a dataset that is to be found as of this format, in this process."""
    config = DatasetConfig(**{"source": "data", "workers": 1} | settings)
    found = []
    counts = import_dataset(corpus, root, config, on_found=lambda dataset: found.append(dataset.format))
    assert found == [form]
    assert not verify(corpus)
    return counts


def clips(corpus: Corpus) -> dict[str, Clip]:
    """The clips by the ids that their dataset has for them, in order."""
    return {row["title"]: Clip.from_row(row) for row in corpus.dataset().to_table().to_pylist()}


def recordings(corpus: Corpus) -> dict[str, Recording]:
    return {row.title or "": row for row in corpus.recordings() if row.status == Status.FETCHED}


def sound_of(clip: Clip) -> np.ndarray:
    found, rate_hz = soundfile.read(io.BytesIO(clip.media), dtype="int16")
    assert rate_hz == SAMPLE_RATE_HZ
    return found


def test_ljspeech(tmp_path, corpus):
    texts = folders.ljspeech(tmp_path / "LJSpeech-1.1")
    counts = bring(corpus, tmp_path / "LJSpeech-1.1", "ljspeech", language="en", speaker="linda")
    assert (counts.num_in, counts.clips, counts.rejected.total()) == (3, {None: 3}, 0)
    found = clips(corpus)
    assert {name: clip.text for name, clip in found.items()} == texts
    assert np.array_equal(sound_of(found["LJ001-0002"]), folders.samples(1))
    clip = found["LJ001-0002"]
    assert (clip.asr_model, clip.licence, clip.language) == (TRANSCRIPT, "public domain", "en")
    assert (clip.speaker, clip.words, clip.start_sample) == ("linda", None, round(3.5 * SAMPLE_RATE_HZ))
    assert None not in (clip.snr_db, clip.bandwidth_hz, clip.loudness_lufs, clip.edge_db, clip.chars_per_s)


def test_ljspeech_by_its_original_text(tmp_path, corpus):
    folders.ljspeech(tmp_path / "lj")
    bring(corpus, tmp_path / "lj", "ljspeech", text="original")
    assert clips(corpus)["LJ001-0002"].text == "Mr. Jones paid $5 to them all."


def test_librispeech(tmp_path, corpus):
    texts = folders.librispeech(tmp_path)
    bring(corpus, tmp_path / "LibriSpeech", "librispeech")
    found, rows = clips(corpus), recordings(corpus)
    assert {name: clip.text for name, clip in found.items()} == texts
    assert set(rows) == {"dev-clean/84/121123", "dev-clean/84/121550", "train-clean-100/19/198"}
    chapter, clip = rows["train-clean-100/19/198"], found["19-198-0001"]
    assert (chapter.author, chapter.metadata["split"], chapter.licence) == (
        "Kara Shallenberg",
        "train-clean-100",
        "CC BY 4.0",
    )
    assert (clip.speaker, clip.author, clip.language) == ("19", "Kara Shallenberg", "en")
    assert np.array_equal(sound_of(clip), folders.samples(21))


def test_a_subset_of_librispeech_has_the_licence_of_the_release(tmp_path):
    folders.librispeech(tmp_path)
    config = DatasetConfig(source="data")
    assert open_dataset(tmp_path / "LibriSpeech" / "dev-clean", config).licence == "CC BY 4.0"


@pytest.mark.parametrize("text", ["normalized", "original"])
def test_libritts(tmp_path, corpus, text):
    texts = folders.libritts(tmp_path)
    bring(corpus, tmp_path / "LibriTTS", "libritts", licence="CC BY 4.0", text=text)
    found = clips(corpus)
    assert {name: clip.text for name, clip in found.items()} == {
        name: both[text == "original"] for name, both in texts.items()
    }
    assert {clip.speaker for clip in found.values()} == {"84"}
    assert np.array_equal(sound_of(found["84_121123_000001_000000"]), folders.samples(1))


def test_common_voice(tmp_path, corpus):
    texts = folders.common_voice(tmp_path)
    counts = bring(corpus, tmp_path, "common-voice", licence="CC0 1.0")
    assert (counts.num_in, counts.clips[None]) == (4, 4)  # what is validated repeats the splits
    found = clips(corpus)
    assert {name: clip.text for name, clip in found.items()} == texts
    assert {row.metadata["split"]: row.language for row in recordings(corpus).values()} == dict.fromkeys(
        ("train", "dev", "validated"), "sv"
    )
    assert [found[name].speaker[:1] for name in sorted(found)] == ["0", "1", "0", "1"]
    original = folders.samples(2).astype(np.float64)  # MP3 keeps the wave, up to its own error
    heard = sound_of(found["common_voice_sv-SE_3.mp3"]).astype(np.float64)
    assert abs(len(heard) - len(original)) <= 1
    assert np.corrcoef(heard[: len(original)], original[: len(heard)])[0, 1] > 0.99


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.jsonl"])
def test_an_audio_folder(tmp_path, corpus, table):
    texts = folders.audio_folder(tmp_path / "lines", table)
    bring(corpus, tmp_path / "lines", "huggingface")
    found = clips(corpus)
    assert {name: clip.text for name, clip in found.items()} == texts
    assert {row.metadata["split"] for row in recordings(corpus).values()} == {"train", "test"}
    clip = found["test/data/test-one.wav"]
    assert (clip.speaker, clip.licence) == ("1", "cc-by-4.0")
    assert np.array_equal(sound_of(clip), folders.samples(1))


def test_parquet_with_the_audio_inside(tmp_path, corpus):
    texts = folders.parquet(tmp_path / "set")
    bring(corpus, tmp_path / "set", "huggingface", licence="CC BY 4.0")
    found = clips(corpus)
    assert {name: clip.text for name, clip in found.items()} == texts
    assert [clip.licence for clip in found.values()] == ["CC BY 4.0", "CC0 1.0", "CC0 1.0"]
    assert [clip.speaker for clip in found.values()] == ["7", "8", "9"]
    for seed, clip in enumerate(found.values()):
        assert np.array_equal(sound_of(clip), folders.samples(seed))
    assert {row.metadata["split"] for row in corpus.recordings()} == {"validation"}


def test_nemo(tmp_path, corpus):
    folders.nemo(tmp_path / "set")
    bring(corpus, tmp_path / "set", "nemo", licence="CC0 1.0")
    found = clips(corpus)
    whole, before, after = (found[f"audio/{name}"] for name in ("one.wav", "talk.wav#t=2.0", "talk.wav#t=6.5"))
    talk, base = folders.samples(2, 12.0), round(folders.LENGTH_S * SAMPLE_RATE_HZ)
    assert np.array_equal(sound_of(whole), folders.samples(1))
    assert np.array_equal(sound_of(before), talk[48_000:168_000])
    assert np.array_equal(sound_of(after), talk[156_000:258_000])
    assert (before.start_sample, after.start_sample) == (base + 48_000, base + 156_000)  # places in the files, in a row
    assert before.words == (Word("and", pytest.approx(0.1), 0.5), Word("on", pytest.approx(0.6), 1.0))
    assert (after.text, after.speaker, after.language) == ("the later part comes first", "ann", "en")
    assert after.url == (tmp_path / "set" / "audio" / "talk.wav").as_uri() + "#t=6.500,10.750"


def test_lhotse_supervisions_with_words_and_channels(tmp_path, corpus):
    root = tmp_path / "set"
    left, right = folders.samples(1, 10.0), folders.samples(2, 10.0)
    (root / "audio").mkdir(parents=True)
    soundfile.write(root / "audio" / "call.wav", np.stack([left, right], axis=1), SAMPLE_RATE_HZ, subtype="PCM_16")
    folders.pack_lines(root / "recordings.jsonl.gz", [folders.lhotse_recording("call", 10.0, (0, 1))])
    words = {"word": [["the", 3.25, 0.25, 0.9], {"symbol": "text", "start": 3.5, "duration": 0.5}]}
    supervisions = [
        folders.lhotse_supervision("s1", "call", 3.0, 4.0, alignment=words),
        folders.lhotse_supervision("s2", "call", 3.0, 4.0, channel=1, speaker="bob"),
        folders.lhotse_supervision("s3", "lost", 0.0, 4.0),
    ]
    folders.pack_lines(root / "supervisions.jsonl.gz", supervisions)
    counts = bring(corpus, root, "lhotse", licence="CC0 1.0")
    assert counts.rejected == {"not_found": 1}
    found = clips(corpus)
    assert np.array_equal(sound_of(found["s1"]), left[72_000:168_000])
    assert np.array_equal(sound_of(found["s2"]), right[72_000:168_000])
    assert found["s1"].words == (Word("the", 0.25, 0.5, pytest.approx(0.9)), Word("text", 0.5, 1.0))
    assert (found["s2"].speaker, found["s2"].language, found["s2"].text) == ("bob", "en", "the text of s2 it is")


def test_lhotse_cuts(tmp_path, corpus):
    root = tmp_path / "set"
    talk = folders.write_sound(root / "audio" / "talk.wav", 3, 12.0)
    inner = folders.lhotse_supervision("s1", "talk", 0.5, 4.0, alignment={"word": [["the", 1.0, 0.5, None]]})
    cut = {"id": "c", "start": 2.0, "duration": 9.0, "channel": 0, "type": "MonoCut", "supervisions": [inner]}
    mixed = {"id": "m", "tracks": [], "type": "MixedCut"}
    folders.pack_lines(root / "cuts.jsonl.gz", [cut | {"recording": folders.lhotse_recording("talk", 12.0)}, mixed])
    counts = bring(corpus, root / "cuts.jsonl.gz", "lhotse", licence="CC0 1.0")
    [clip] = clips(corpus).values()
    assert np.array_equal(sound_of(clip), talk[60_000:156_000])
    assert clip.words == (Word("the", 0.5, 1.0),)
    assert counts.rejected == {"bad_metadata": 1}
    assert "MixedCut is not read here" in counts.examples["bad_metadata"]


def test_a_table_with_columns_of_other_names(tmp_path, corpus):
    root = tmp_path / "set"
    folders.write_sound(root / "sounds" / "a.wav", 1)
    (root / "list.csv").write_text('recording,what,who\nsounds/a.wav,"It was, so they say, ""late"".",ann\n')
    config = DatasetConfig(source="data", licence="CC0 1.0")
    with pytest.raises(ValueError, match=r"no column of audio.*columns\.audio=NAME, of 'recording', 'what', 'who'"):
        import_dataset(corpus, root, config)
    columns = {"audio": "recording", "text": "what", "speaker": "who"}
    bring(corpus, root, "tsv", licence="CC0 1.0", columns=columns)
    [clip] = clips(corpus).values()
    assert (clip.text, clip.speaker) == ('It was, so they say, "late".', "ann")


def test_a_table_without_a_header(tmp_path, corpus):
    folders.write_sound(tmp_path / "set" / "a.wav", 1)
    (tmp_path / "set" / "list.tsv").write_text('a.wav\the said "so" to them all\n')
    bring(corpus, tmp_path / "set" / "list.tsv", "tsv", licence="CC0 1.0", names=("audio", "text"))
    assert clips(corpus)["a.wav"].text == 'he said "so" to them all'


def test_a_folder_that_is_no_dataset_says_what_it_holds(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.wav").write_bytes(b"b")
    with pytest.raises(ValueError, match=r"no dataset is found, there are: 1 \.\w+, 1 \.\w+\. Looked for ljspeech: "):
        open_dataset(tmp_path, DatasetConfig(source="data"))
    with pytest.raises(ValueError, match="Looked for nemo: "):
        open_dataset(tmp_path, DatasetConfig(source="data"), "nemo")
    with pytest.raises(ValueError, match="use auto or one of ljspeech"):
        open_dataset(tmp_path, DatasetConfig(source="data"), "mp3")


def test_tar_files_of_nemo_are_refused(tmp_path):
    (tmp_path / "tarred_audio_manifest.json").write_text('{"audio_filepath": "a.wav", "text": "a", "shard_id": 0}\n')
    with pytest.raises(ValueError, match="unpack them first"):
        open_dataset(tmp_path, DatasetConfig(source="data"))
