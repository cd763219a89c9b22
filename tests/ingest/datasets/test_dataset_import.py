"""What is wrong with a dataset is named and counted; an import that is run again, or was killed, brings what is new."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import dataset_folders as folders
import pytest
from test_dataset_formats import bring, clips, sound_of

from triforce.flows.cli import main as cli
from triforce.ingest.corpus.records import TRANSCRIPT, Status
from triforce.ingest.corpus.retry import rejected, take_up
from triforce.ingest.corpus.stats import list_recordings, stats
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.takedown import remove
from triforce.ingest.corpus.verify import verify
from triforce.ingest.datasets.import_dataset import Planner, failure, import_dataset, licensed, summary_table
from triforce.ingest.datasets.utterance import DatasetConfig, Utterance


def write_table(root: Path, names: list[str], text: str = "a text that is long enough") -> None:
    """A TSV of sounds ``<number>.flac``; those that are not there are written."""
    for name in names:
        if not (root / name).exists():
            folders.write_sound(root / name, int(name.split(".")[0]))
    rows = [f"{name}\t{text}\n" for name in names]
    (root / "all.tsv").write_text("path\ttext\n" + "".join(rows))


def clip_bytes(corpus: Corpus) -> dict[str, bytes]:
    return {Path(uri).name: Path(uri).read_bytes() for uri in corpus.clip_files()}


def test_each_fault_is_named_and_the_rest_comes_in(tmp_path, corpus):
    root = tmp_path / "set"
    folders.write_sound(root / "good.wav", 1)
    folders.write_sound(root / "brief.wav", 2, 0.5)
    folders.write_sound(root / "long.wav", 3, 25.0)
    folders.write_sound(root / "overlong.wav", 4, 31.0)
    (root / "torn.mp3").write_bytes(b"ID3" + bytes(200))
    (root / "note.wav").write_text("no sound")
    long = "words and words that take a while to say and so on until the end of it all, and then again from the start "
    rows = [
        {"audio_filepath": "good.wav", "text": "a text that is long enough"},
        {"audio_filepath": "good.wav", "text": "the same file once more, under the same name"},
        {"audio_filepath": "brief.wav", "text": "short"},
        {"audio_filepath": "long.wav", "text": long * 2},
        {"audio_filepath": "overlong.wav", "text": long * 2},
        {"audio_filepath": "lost.wav", "text": "a text"},
        {"audio_filepath": "torn.mp3", "text": "a text"},
        {"audio_filepath": "note.wav", "text": "a text"},
        {"audio_filepath": "good.wav", "offset": 1.0, "duration": 2.4, "text": ""},
        {"audio_filepath": "good.wav", "offset": 99.0, "duration": 3.0, "text": "behind the end"},
        {"audio_filepath": "good.wav", "offset": 2.0, "duration": 3.0, "text": "over the end"},
        {"audio_filepath": "good.wav", "offset": -1, "duration": 3.0, "text": "before the start"},
        {"audio_filepath": "good.wav", "offset": "soon", "text": "no number"},
        {"text": "no audio"},
    ]
    lines = [json.dumps(row) for row in rows] + ["{broken", "[]"]
    (root / "manifest.json").write_bytes("\n".join(lines).encode() + b'\n{"audio_filepath": "\xff.wav"}\n')
    counts = bring(corpus, root, "nemo", licence="CC0 1.0", max_utterance_s=30.0)
    assert counts.clips == {None: 1, "too_short": 1, "too_long": 1, "no_text": 1}
    assert counts.rejected == {
        "duplicate_id": 1, "too_long": 1, "not_found": 1, "undecodable": 1, "not_audio": 1, "bad_metadata": 8
    }  # fmt: skip
    rows_of = {row.reason: row for row in list_recordings(corpus, status=Status.REJECTED)}
    assert set(rows_of) == set(counts.rejected)
    assert rows_of["too_long"].metadata["utterance overlong.wav"] == "over 30 s (max_utterance_s)"
    bad = {key: value for key, value in rows_of["bad_metadata"].metadata.items() if key.startswith("utterance ")}
    assert bad["utterance good.wav#t=2.0"] == "1.50 s of sound, 3.00 s are stated"
    assert "where the audio has ended" in bad["utterance good.wav#t=99.0"]
    assert "start_s is -1.0" in bad["utterance good.wav#t=-1"]
    assert "no JSON" in bad["utterance manifest.json:15"]
    table = summary_table(counts).splitlines()
    assert table[1].split() == ["in", "17"]
    assert "rejected: bad_metadata" in summary_table(counts)
    assert "rejected, the limit is 50%" in failure(counts, DatasetConfig(source="data"))
    assert stats(corpus)["total"].reasons == dict.fromkeys(counts.rejected, 1)  # a row a reason
    again = bring(corpus, root, "nemo", licence="CC0 1.0", max_utterance_s=30.0)
    assert (again.known, again.num_in) == (17, 17)


def test_a_bad_row_of_a_table_is_named_by_its_line(tmp_path, corpus):
    write_table(tmp_path / "set", ["1.flac", "2.flac"])
    with (tmp_path / "set" / "all.tsv").open("ab") as file:
        file.write(b"1.flac\ta\tb\n2.flac\tgr\xfc\xdfe\n\tno audio\n")
    counts = bring(corpus, tmp_path / "set", "tsv", licence="CC0 1.0")
    assert (counts.clips, counts.rejected) == ({None: 2}, {"bad_metadata": 3})
    [row] = rejected(corpus)
    assert row.metadata["utterance all.tsv:4"] == "line 4 of all.tsv: 3 cells, the header has 2"
    assert row.metadata["utterance all.tsv:5"] == "line 5 of all.tsv: it is not UTF-8"
    assert row.metadata["utterance all.tsv:6"] == "line 6 of all.tsv: no audio"


def test_a_dataset_that_grew_gives_only_what_is_new(tmp_path, corpus):
    root, settings = tmp_path / "set", {"licence": "CC0 1.0", "utterances_per_recording": 2}
    write_table(root, ["1.flac", "2.flac", "5.flac", "6.flac"])
    assert bring(corpus, root, "tsv", **settings).clips[None] == 4
    before = clip_bytes(corpus)
    write_table(root, [f"{number}.flac" for number in range(8)])
    counts = bring(corpus, root, "tsv", **settings)
    assert (counts.known, counts.clips[None]) == (4, 4)
    after = clip_bytes(corpus)
    assert {name: after[name] for name in before} == before
    assert sorted(clips(corpus)) == [f"{number}.flac" for number in range(8)]
    assert len(corpus.clips()) == 8
    assert bring(corpus, root, "tsv", **settings).known == 8


def test_what_was_taken_down_stays_out_of_a_dataset_that_grew(tmp_path, corpus):
    root, settings = tmp_path / "set", {"licence": "CC0 1.0", "utterances_per_recording": 2}
    write_table(root, ["1.flac", "2.flac", "3.flac"])
    bring(corpus, root, "tsv", **settings)
    [row] = [row for row in corpus.recordings() if row.source_id == "1.flac"]
    remove(corpus, [row])
    write_table(root, ["0.flac", "1.flac", "2.flac", "3.flac"])
    assert bring(corpus, root, "tsv", **settings).known == 3
    assert sorted(clips(corpus)) == ["0.flac", "3.flac"]
    remove(corpus, [corpus.read_recording("data", row.recording_id)], forget=True)
    bring(corpus, root, "tsv", **settings)
    assert sorted(clips(corpus)) == ["0.flac", "1.flac", "2.flac", "3.flac"]


def test_a_retry_takes_rejected_utterances_up_again(tmp_path, corpus):
    root = tmp_path / "set"
    write_table(root, ["1.flac", "2.flac", "3.flac"])
    (root / "2.flac").unlink()
    assert bring(corpus, root, "tsv", licence="CC0 1.0").rejected == {"not_found": 1}
    folders.write_sound(root / "2.flac", 2)
    assert bring(corpus, root, "tsv", licence="CC0 1.0").known == 3
    assert take_up(corpus, list(rejected(corpus, reason="not_found"))) == 1
    assert bring(corpus, root, "tsv", licence="CC0 1.0").clips == {None: 1}
    assert (sound_of(clips(corpus)["2.flac"]) == folders.samples(2)).all()
    assert not list(rejected(corpus))


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1")])
def test_clips_that_were_lost_are_imported_again(tmp_path, corpus, damage):
    write_table(tmp_path / "set", ["1.flac", "2.flac"])
    bring(corpus, tmp_path / "set", "tsv", licence="CC0 1.0", utterances_per_recording=1)
    before = clip_bytes(corpus)
    damage(Path(corpus.clip_files()[0]))
    assert len(verify(corpus)) == 1
    verify(corpus, repair=True)
    assert bring(corpus, tmp_path / "set", "tsv", licence="CC0 1.0", utterances_per_recording=1).known == 1
    assert clip_bytes(corpus) == before


def test_more_faults_of_a_part_are_added_to_its_row(tmp_path, corpus):
    root = tmp_path / "set"
    write_table(root, ["1.flac"])
    (root / "1.flac").unlink()
    (root / "all.tsv").write_text("path\ttext\nlost-1.flac\ta\n")
    bring(corpus, root, "tsv", licence="CC0 1.0")
    (root / "all.tsv").write_text("path\ttext\nlost-1.flac\ta\nlost-2.flac\ta\n")
    bring(corpus, root, "tsv", licence="CC0 1.0")
    [row] = rejected(corpus)
    assert {key for key in row.metadata if key.startswith("utterance ")} == {
        "utterance lost-1.flac",
        "utterance lost-2.flac",
    }
    assert bring(corpus, root, "tsv", licence="CC0 1.0").known == 2


def test_the_licence_must_be_known(tmp_path, corpus):
    write_table(tmp_path / "set", ["1.flac", "2.flac"])
    with pytest.raises(ValueError, match=r"states no licence.*give the one that it is under, as in --licence"):
        import_dataset(corpus, tmp_path / "set", DatasetConfig(source="data"))
    assert corpus.sources() == []
    (tmp_path / "set" / "all.tsv").write_text(
        "path\ttext\tlicense\n1.flac\ta text that is long enough\tCC BY 4.0\n2.flac\ta text that is long enough\t\n"
    )
    counts = bring(corpus, tmp_path / "set", "tsv")
    assert (counts.clips, counts.rejected) == ({None: 1}, {"bad_metadata": 1})
    assert clips(corpus)["1.flac"].licence == "CC BY 4.0"


def test_utterances_stream(tmp_path):
    """Parts are made as they are asked for: of an endless dataset the first ones come at once."""
    config = DatasetConfig(source="data", licence="CC0 1.0", utterances_per_recording=3)
    read = itertools.count()
    endless = (Utterance(utterance_id=str(number), audio="a" * number, text="a") for number in read)
    parts = Planner(set(), set(), config).parts(licensed(endless, config, tmp_path))
    first, second = next(parts), next(parts)
    assert [each.utterance_id for each in second.utterances] == ["3", "4", "5"]
    assert (first.name, next(read)) == ("0", 7)


def test_many_parts_of_one_file_are_a_recording_up_to_a_limit():
    config = DatasetConfig(source="data", licence="CC0 1.0", utterances_per_recording=3)
    items = [Utterance(utterance_id=str(n), audio="one file", start_s=float(n), text="a") for n in range(300)]
    parts = list(Planner(set(), set(), config).parts(items))
    assert [len(part.utterances) for part in parts] == [250, 50]


def test_two_processes_write_what_one_does(tmp_path):
    write_table(tmp_path / "set", [f"{number}.flac" for number in range(6)])
    found = []
    for workers in (1, 2):
        corpus = Corpus(str(tmp_path / f"corpus-{workers}"))
        bring(corpus, tmp_path / "set", "tsv", licence="CC0 1.0", utterances_per_recording=2, workers=workers)
        found.append(clip_bytes(corpus))
    assert len(found[0]) == 3
    assert found[0] == found[1]


def test_a_killed_import_goes_on(tmp_path):
    """Killed as soon as a clip file is there, five times: what is there in the end is what an undisturbed import
    writes."""
    root, target, other = tmp_path / "set", Corpus(str(tmp_path / "killed")), Corpus(str(tmp_path / "other"))
    write_table(root, [f"{number}.flac" for number in range(14)])
    (root / "6.flac").write_text("no sound")
    settings = {"licence": "CC0 1.0", "utterances_per_recording": 2}
    arguments = ["corpus", "import", str(root), "--corpus", target.uri, "--source", "data"]
    arguments += ["--set", "licence=CC0 1.0", "utterances_per_recording=2", "workers=1"]
    for _ in range(5):
        before = len(clip_bytes(target))
        process = subprocess.Popen([sys.executable, "-m", "triforce.flows.cli.main", *arguments])
        while len(clip_bytes(target)) == before and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    bring(target, root, "tsv", **settings)
    bring(other, root, "tsv", **settings)
    assert clip_bytes(target) == clip_bytes(other)
    assert [(row.recording_id, row.status) for row in target.recordings()] == [
        (row.recording_id, row.status) for row in other.recordings()
    ]
    assert len(target.clips()) == 13


def test_only_utterances_without_a_text_are_transcribed(tmp_path, corpus):
    root = tmp_path / "set"
    write_table(root, ["1.flac", "2.flac"])
    (root / "all.tsv").write_text("path\ttext\n1.flac\tExactly  THIS, and no other text\n2.flac\t\n")
    bring(corpus, root, "tsv", licence="CC0 1.0", transcribe={"language_model": None})
    found = clips(corpus)
    assert (found["1.flac"].text, found["1.flac"].asr_model) == ("Exactly  THIS, and no other text", TRANSCRIPT)
    assert found["2.flac"].asr_model == "whisper-tiny.en"
    assert found["2.flac"].compression_ratio is not None


def test_the_command_says_what_it_found_and_what_became_of_it(tmp_path, capsys):
    folders.ljspeech(tmp_path / "LJSpeech-1.1")
    (tmp_path / "LJSpeech-1.1" / "wavs" / "LJ002-0001.wav").unlink()
    uri = str(tmp_path / "corpus")
    arguments = ["corpus", "import", str(tmp_path / "LJSpeech-1.1"), "--corpus", uri, "--set", "workers=1"]
    assert cli.run(lambda: cli.app(args=arguments, standalone_mode=False)) == 0
    shown = capsys.readouterr().out
    assert "LJSpeech: format ljspeech, source ljspeech-1-1, licence public domain" in shown
    assert [line.split() for line in shown.splitlines()[1:5]] == [
        ["utterances", "hours"],
        ["in", "3"],
        ["kept", "2", "0.00"],
        ["rejected:", "not_found", "1"],
    ]
    assert "not_found: LJ002-0001: " in shown
    assert not verify(Corpus(uri))


def test_an_import_of_which_most_is_rejected_has_failed(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "all.tsv").write_text("path\ttext\nlost.flac\ta\n")
    arguments = [
        "corpus",
        "import",
        str(tmp_path / "set"),
        "--corpus",
        str(tmp_path / "corpus"),
        "--licence",
        "CC0 1.0",
    ]
    assert cli.run(lambda: cli.app(args=[*arguments, "--set", "workers=1"], standalone_mode=False)) == 1
    assert "100% of 1 utterances rejected, the limit is 50%" in capsys.readouterr().err
