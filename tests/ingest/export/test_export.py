"""Kept clips go out in each format and come back with the same texts, speakers, times and sound."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from corpora import WORDS, sweep
from huggingface_hub import DatasetCard

from triforce.flows.cli import main as cli
from triforce.ingest.clips.make_clip import sound_clip
from triforce.ingest.clips.scores import score_audio
from triforce.ingest.corpus.records import TRANSCRIPT, Clip, Recording, Word, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.takedown import remove
from triforce.ingest.corpus.verify import verify
from triforce.ingest.datasets.import_dataset import import_dataset
from triforce.ingest.datasets.utterance import DatasetConfig
from triforce.ingest.export.config import ExportConfig
from triforce.ingest.export.export import export_dataset
from triforce.ingest.media.decode import decode
from triforce.ingest.media.samples import to_int16

FORMATS = ("ljspeech", "tsv", "huggingface", "parquet", "nemo", "lhotse")
TEXTS = (
    'He said, "One, two',
    "Ünder the bridge; 3 o'clock",
    "  spaces at both ends  ",
    '"Quoted, as a whole"',
    "=1+1, said she",
)
TOLERANCE_S = 1e-4
"""Error of a word's times: the tables hold four decimals."""


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    """Two sources: of one every other clip is dropped, the other is in German and in another licence."""
    corpus = Corpus(str(tmp_path / "corpus"))
    for number, (source, licence, language, split) in enumerate(
        (("lectures", "CC BY 4.0", "en", "train"), ("novels", "CC0 1.0", "de", "test"))
    ):
        recording = Recording(
            recording_id=make_recording_id(source, "a"),
            source=source,
            source_kind="file",
            source_id="a",
            url="file:///home/ann/a.wav" if number else "https://example.org/a.mp3",
            title=f"Of {source}",
            author="Ann | <b>Author</b>",
            licence=licence,
            metadata={"split": split},
        )
        corpus.write_recording(recording)
        corpus.write_clips(recording, list(clips_of(recording, language, seed=10 * number)))
    return corpus


def clips_of(recording: Recording, language: str, seed: int):
    start = 0
    for number, text in enumerate(TEXTS):
        samples = to_int16(sweep(3.0 + number / 4, seed + number))
        words = tuple(Word(f" {word}", 0.5 * i, 0.5 * i + 0.25, 0.5) for i, word in enumerate(WORDS[: number + 1]))
        about = {"language": language, "speaker": f"{recording.source}-{number % 2}", "asr_model": TRANSCRIPT}
        drop = "noisy" if number % 2 and language == "en" else None
        about |= score_audio(samples) | {"words": words if number else None, "drop_reason": drop}
        yield sound_clip(recording, start, samples, text=text, **about)
        start += len(samples)


def config(form: str, **settings) -> ExportConfig:
    return ExportConfig(format=form, contact="corpus@example.org", **settings)


def kept(corpus: Corpus) -> dict[str, Clip]:
    rows = corpus.dataset().to_table().to_pylist()
    return {row["clip_id"]: Clip.from_row(row) for row in rows if row["drop_reason"] is None}


def bring_back(root: Path, target: Corpus, form: str) -> list[Clip]:
    """Import an export, and return its clips."""
    found = []
    settings = {"source": "back", "workers": 1, "licence": "CC0 1.0"}
    counts = import_dataset(
        target, root, DatasetConfig(**settings), on_found=lambda dataset: found.append(dataset.format)
    )
    assert found == [{"parquet": "huggingface"}.get(form, form)]
    assert not counts.rejected
    assert not verify(target)
    return [Clip.from_row(row) for row in target.dataset().to_table().to_pylist()]


def decoded(data: bytes, path: Path) -> np.ndarray:
    path.write_bytes(data)
    return np.concatenate(list(decode(path)))


@pytest.mark.parametrize("audio", ["flac", "wav"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_comes_back(tmp_path, corpus, form, audio):
    summary = export_dataset(corpus, tmp_path / "out", config(form, audio=audio))
    before = kept(corpus)
    assert (summary.num_clips, summary.left_out) == (len(before), {"noisy": 2})
    after = bring_back(tmp_path / "out", target := Corpus(str(tmp_path / "back")), form)
    assert len(after) == len(before) == 8
    by_sound = {decoded(clip.media, tmp_path / "x.flac").tobytes(): clip for clip in after}
    for clip in before.values():
        back = by_sound[decoded(clip.media, tmp_path / "x.flac").tobytes()]  # every sample is as it was
        assert back.text == clip.text
        assert back.snr_db == clip.snr_db
        if form == "ljspeech":  # holds nothing else
            continue
        assert (back.speaker, back.language, back.licence) == (clip.speaker, clip.language, clip.licence)
        assert (back.author, back.title) == (clip.author, clip.title)
        assert [word.word for word in back.words or ()] == [word.word for word in clip.words or ()]
        for one, other in zip(back.words or (), clip.words or (), strict=True):
            assert one[1:] == pytest.approx(other[1:], abs=TOLERANCE_S)
    splits = {row.metadata.get("split") for row in target.recordings()}
    assert splits == ({None} if form == "ljspeech" else {"train", "test"})


def test_hugging_face_reads_the_folder(tmp_path, corpus):
    """Its audio feature itself needs torchcodec for a folder, so that the column of names is read as it stands."""
    export_dataset(corpus, tmp_path / "out", config("huggingface"))
    builder = datasets.load_dataset_builder(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert builder.info.builder_name == "audiofolder"
    names = (tmp_path / "out" / "metadata.csv").read_text("utf-8").splitlines()[0].split(",")
    features = datasets.Features({name: datasets.Value("string") for name in names})
    rows = datasets.load_dataset(
        str(tmp_path / "out"), split="train", features=features, cache_dir=str(tmp_path / "cache")
    )
    before = kept(corpus)
    assert {row["id"]: row["text"] for row in rows} == {name: clip.text for name, clip in before.items()}
    for row in rows:
        assert (tmp_path / "out" / row["file_name"]).read_bytes() == before[row["id"]].media


def test_hugging_face_opens_the_parquet_files(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr("triforce.ingest.export.writers.SHARD_BYTES", 100_000)
    monkeypatch.setattr("triforce.ingest.export.writers.SHARD_ROWS", 2)
    export_dataset(corpus, tmp_path / "out", config("parquet"))
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert len(names) > 2
    assert names[0] == f"train-00000-of-{len(names):05d}.parquet"
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(rows.features["audio"], datasets.Audio)
    rows, before = rows.cast_column("audio", datasets.Audio(decode=False)), kept(corpus)
    assert {row["id"]: row["audio"]["bytes"] for row in rows} == {name: clip.media for name, clip in before.items()}
    assert {row["id"]: row["text"] for row in rows} == {name: clip.text for name, clip in before.items()}


def test_the_card(tmp_path, corpus):
    export_dataset(corpus, tmp_path / "out", config("parquet", name="Two sources"))
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    header = yaml.safe_load(text.split("---")[1])
    assert header == {
        "pretty_name": "Two sources",
        "license": "other",
        "language": ["de", "en"],
        "task_categories": ["automatic-speech-recognition", "text-to-speech"],
        "size_categories": ["n<1K"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    }
    hours = {
        source: sum(c.duration_s for c in kept(corpus).values() if c.source == source) / 3600
        for source in ("lectures", "novels")
    }
    assert f"| CC BY 4.0 | {hours['lectures']:.2f} |" in text
    assert f"| CC0 1.0 | {hours['novels']:.2f} |" in text
    assert f"| lectures | {hours['lectures']:.2f} | CC BY 4.0 | Ann \\| \\<b\\>Author\\</b\\> |" in text
    snr = np.quantile([clip.snr_db for clip in kept(corpus).values()], 0.5)
    assert f"{snr:.2f}" in next(line for line in text.splitlines() if line.startswith("| snr"))
    assert "writes to corpus@example.org and names the clips" in text
    assert "by 3 named speakers" in text
    card = DatasetCard.load(tmp_path / "out" / "README.md").data  # as the hub reads the header
    assert (card.license, card.language, card.pretty_name) == ("other", ["de", "en"], "Two sources")


def test_one_licence_is_the_datasets(tmp_path, corpus):
    export_dataset(corpus, tmp_path / "out", config("tsv", sources=("lectures",)))
    assert "license: cc-by-4.0\n" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_only_what_is_asked_for(tmp_path, corpus):
    snr = sorted(clip.snr_db for clip in kept(corpus).values() if clip.language == "de")[2]
    chosen = {"languages": ("de",), "speakers": ("novels-0", "lectures-0"), "min_scores": {"snr_db": snr}}
    summary = export_dataset(corpus, tmp_path / "out", config("nemo", **chosen))
    rows = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text("utf-8").splitlines()]
    wanted = {
        name
        for name, clip in kept(corpus).items()
        if clip.language == "de" and clip.speaker == "novels-0" and clip.snr_db >= snr
    }
    assert {row["id"] for row in rows} == wanted
    assert summary.left_out["another language"] == 3
    assert summary.left_out["another speaker"] == 2
    assert {row["source"] for row in rows} == {"novels"}
    assert all("url" not in row for row in rows)  # a path on the disk of whoever imported it
    with pytest.raises(ValueError, match="no clip is left to export"):
        export_dataset(corpus, tmp_path / "none", config("nemo", min_scores={"dnsmos_ovrl": 1.0}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "out"]


def test_what_was_taken_down_is_not_exported(tmp_path, corpus):
    remove(corpus, [row for row in corpus.recordings() if row.source == "novels"])
    summary = export_dataset(corpus, tmp_path / "out", config("lhotse"))
    assert set(summary.by_source) == {"lectures"}
    assert "novels" not in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_a_takedown_on_the_way_ends_the_export(tmp_path, corpus):
    rows = list(corpus.recordings())

    def take_down() -> None:
        if rows:
            remove(corpus, [rows.pop(0)])

    with pytest.raises(RuntimeError, match="taken down meanwhile"):
        export_dataset(corpus, tmp_path / "out", config("tsv"), on_clip=take_down)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_what_ljspeech_cannot_hold_is_counted(tmp_path, corpus):
    [row, _] = corpus.recordings()
    clips = [Clip.from_row(each) for each in corpus.dataset(row.source).to_table().to_pylist()]
    texts = ("a | b", "two\nlines\tof it", None)
    changed = [
        Clip(**vars(clip) | {"text": text, "drop_reason": None}) for clip, text in zip(clips, texts, strict=False)
    ]
    corpus.write_clips(row, changed)
    summary = export_dataset(corpus, tmp_path / "out", config("ljspeech", sources=(row.source,)))
    assert summary.left_out == {"a bar in the text, which LJSpeech cannot hold": 1, "no text": 1}
    assert (tmp_path / "out" / "metadata.csv").read_text().split("|")[1:] == ["two lines of it", "two lines of it\n"]


def test_a_folder_with_anything_in_it_is_refused(tmp_path, corpus, capsys):
    (tmp_path / "out").mkdir()
    arguments = ["corpus", "export", corpus.uri, str(tmp_path / "out"), "--format", "tsv", "--contact", "a@example.org"]

    def run(*more: str) -> tuple[int, str]:
        code = cli.run(lambda: cli.app(args=[*arguments, *more], standalone_mode=False))
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    code, shown = run("--min-score", "snr_db=1", "--source", "novels", "--language", "de")
    assert (code, shown.split()[:5]) == (0, ["clips", "hours", "exported", "5", "0.00"])
    code, shown = run()
    assert (code, "name a folder that is empty or new" in shown) == (2, True)
    assert "'loudness' is no score; use one of: snr_db" in run("--min-score", "loudness=1")[1]
    assert "give an e-mail address or a web address" in run("--contact", "me")[1]
