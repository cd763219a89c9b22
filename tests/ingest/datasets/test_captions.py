"""Pictures with captions: every table reads the same, every bad row is counted, and pictures get the size asked for."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from triforce.flows.cli.main import app
from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.local_files import ImportConfig, import_folder
from triforce.ingest.media.pixels import decode_png
from triforce.train.data.order import is_validation

CAPTIONS = {"a.png": "a red square", "sub/b.png": 'green, "so to say"', "c.png": "Blau, ganz – blau"}
COLOURS = {"a.png": (200, 0, 0), "sub/b.png": (0, 200, 0), "c.png": (0, 0, 200)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), colour).save(path)
    return tmp_path / "pictures"


def write_csv(path: Path, names: tuple[str, str], rows: list[tuple[str, str]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([names, *rows])
    return path


def imported(folder: Path, tmp_path: Path, **settings) -> tuple[dict[str, int], dict[str, list[str]]]:
    corpus = Corpus(str(tmp_path / "corpus"))
    counts = import_folder(corpus, folder, ImportConfig(modality="image", source="album", **settings))
    texts: dict[str, list[str]] = {}
    for row in corpus.clips(["title", "text", "clip_id"]).sort_by("clip_id").to_pylist():
        texts.setdefault(row["title"], []).append(row["text"])
    return counts, texts


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "imagefolder", "beside"])
def test_every_way_to_write_captions_down(kind: str, folder: Path, tmp_path: Path) -> None:
    settings = {}
    if kind in ("csv", "tsv"):
        rows = [(name, text if kind == "csv" else text.replace('"', "'")) for name, text in CAPTIONS.items()]
        delimiter = "," if kind == "csv" else "\t"
        settings["captions"] = str(write_csv(tmp_path / f"t.{kind}", ("image", "caption"), rows, delimiter))
    elif kind == "jsonl":
        lines = [json.dumps({"Datei": name, "Text": text}) for name, text in CAPTIONS.items()]
        (tmp_path / "t.jsonl").write_text("\n".join(lines))
        settings = {"captions": str(tmp_path / "t.jsonl"), "columns": {"file": "Datei", "text": "Text"}}
    elif kind == "imagefolder":
        write_csv(folder / "metadata.csv", ("file_name", "text"), [(n, t) for n, t in CAPTIONS.items() if "/" not in n])
        (folder / "sub/metadata.jsonl").write_text(json.dumps({"file_name": "b.png", "text": CAPTIONS["sub/b.png"]}))
    else:
        for name, text in CAPTIONS.items():
            (folder / name).with_suffix(".txt").write_text(f"{text}\n", encoding="utf-8")
    counts, texts = imported(folder, tmp_path, **settings)
    expected = {name: [text.replace('"', "'") if kind == "tsv" else text] for name, text in CAPTIONS.items()}
    assert texts == expected
    assert (counts["new"], counts["clips"], counts.get("unused_rows", 0)) == (3, 3, 0)


def test_the_same_folder_as_hugging_face_reads_it(folder: Path, tmp_path: Path) -> None:
    write_csv(folder / "metadata.csv", ("file_name", "text"), list(CAPTIONS.items()))
    _, texts = imported(folder, tmp_path)
    theirs = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert sorted(theirs["text"]) == sorted(text for each in texts.values() for text in each)


def test_bad_rows_are_counted_and_end_nothing(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"file": "a.png", "text": "good"},
        {"file": "missing.png", "text": "no such file"},
        {"file": "../outside.png", "text": "outside"},
        {"file": "c.png", "text": "  "},
        {"file": 7, "text": "no name"},
        {"other": 1},
    ]
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    lines = [*map(json.dumps, rows), "{broken", '"no object"', json.dumps({"file": "sub/b.png", "text": "last"})]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    counts, texts = imported(folder, tmp_path, captions=str(tmp_path / "t.jsonl"))
    assert texts == {"a.png": ["good"], "sub/b.png": ["last"], "c.png": [None]}
    assert (counts["unused_rows"], counts["without_text"], counts["new"]) == (7, 1, 3)


def test_several_captions_are_clips_on_one_side_of_the_split(folder: Path, tmp_path: Path) -> None:
    rows = [(name, f"{text} {number}") for name, text in CAPTIONS.items() for number in range(5)]
    rows.append(rows[0])  # again the same: once is enough
    table = write_csv(tmp_path / "t.csv", ("file", "caption"), rows)
    counts, texts = imported(folder, tmp_path, captions=str(table))
    assert counts["clips"] == 15
    assert texts == {name: [f"{text} {number}" for number in range(5)] for name, text in CAPTIONS.items()}
    clips = Corpus(str(tmp_path / "corpus")).clips(["clip_id", "recording_id"]).to_pylist()
    for share in (0.05, 0.1, 0.37, 0.5):
        sides = {(clip["recording_id"], is_validation(clip["clip_id"], share)) for clip in clips}
        assert len(sides) == 3, f"share {share}"


def test_pictures_are_cropped_or_padded_on_white(folder: Path, tmp_path: Path) -> None:
    image = np.zeros((8, 16, 4), np.uint8)
    image[:, 4:12] = (250, 0, 0, 255)  # the middle is red, what lies beside it transparent black
    Image.fromarray(image).save(folder / "d.png")
    for fit, corner in (("crop", (250, 0, 0)), ("pad", (255, 255, 255))):
        settings = ImportConfig(modality="image", source="album", side=8, fit=fit)
        corpus = Corpus(str(tmp_path / fit))
        import_folder(corpus, folder, settings)
        rows = corpus.dataset().to_table(columns=["title", "image"]).to_pylist()
        made = {row["title"]: decode_png(row["image"]["bytes"]) for row in rows}
        assert {pixels.shape for pixels in made.values()} == {(8, 8, 3)}
        assert np.abs(made["d.png"][0, 0].astype(int) - corner).max() < 12
        assert np.abs(made["d.png"][4, 4].astype(int) - (250, 0, 0)).max() < 12
    imported(folder, tmp_path)
    whole = Corpus(str(tmp_path / "corpus")).dataset().to_table(columns=["title", "image"]).to_pylist()
    pixels = next(decode_png(row["image"]["bytes"]) for row in whole if row["title"] == "d.png")
    assert (pixels[:, :4] == 255).all()  # white where nothing is
    assert (pixels[:, 4:12] == (250, 0, 0)).all()


def test_modes_and_turned_photographs(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    deep.save(tmp_path / "deep.png")
    assert (decode_png(tmp_path / "deep.png") == 128).all()
    turned = Image.new("RGB", (6, 4), "red")
    exif = turned.getexif()
    exif[0x0112] = 6  # orientation: turn by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert decode_png(tmp_path / "turned.jpg").shape == (6, 4, 3)
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([9, 9, 9, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.gif", transparency=0)
    assert decode_png(tmp_path / "p.gif")[0].tolist() == [[255, 255, 255], [0, 0, 255]]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_damaged_files_are_pictures_or_refused(kind: str) -> None:
    generator = np.random.default_rng(0)
    whole = io.BytesIO()
    image = Image.fromarray(generator.integers(0, 256, (24, 24, 3), np.uint8))
    image.save(whole, format=kind, exif=Image.Exif().tobytes())
    assert decode_png(whole.getvalue()).shape == (24, 24, 3)
    refused = []
    for _ in range(60):
        data = bytearray(whole.getvalue())
        for place in generator.integers(0, min(len(data), 400), generator.integers(1, 12)):
            data[place] = generator.integers(0, 256)
        try:
            assert decode_png(bytes(data[: generator.integers(1, len(data) + 1)])).ndim == 3
        except Rejected as error:
            refused.append(error.reason)
    assert set(refused) == {RejectReason.UNDECODABLE}
    assert len(refused) > 20


def test_a_bad_text_beside_rejects_one_picture(folder: Path, tmp_path: Path) -> None:
    (folder / "a.txt").write_bytes("größer".encode("latin-1"))
    counts, texts = imported(folder, tmp_path)
    assert (counts["new"], counts["rejected"]) == (2, 1)
    assert "a.png" not in texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--captions", "{0}/nothing.csv"], "no such table of captions"),
        (["--captions", "{0}/a.png"], ".csv, .tsv or .jsonl"),
        (["--captions", "{0}/odd.csv"], "no column of text, as 'text'; name it by --set columns.text=NAME, of 'file'"),
        (["--set", "columns.words=x", "--captions", "{0}/odd.csv"], "use columns.file and columns.text"),
        (["--set", "side=4"], "side"),
    ],
)
def test_errors_name_the_fix(arguments: list[str], message: str, folder: Path, tmp_path: Path) -> None:
    (folder / "odd.csv").write_text("file,Worte\na.png,x\n")
    given = [argument.format(folder) for argument in arguments]
    command = ["corpus", "import", str(folder), "--modality", "image", "--corpus", str(tmp_path / "corpus"), *given]
    found = CliRunner().invoke(app, command)
    assert found.exit_code != 0
    assert message in f"{found.output} {found.exception}"
    assert not (tmp_path / "corpus").exists()


def test_the_command_says_what_came_of_it(folder: Path, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", ("file", "caption"), [("a.png", "one"), ("zzz.png", "two")])
    command = ["corpus", "import", str(folder), "--modality", "image", "--corpus", str(tmp_path / "corpus")]
    found = CliRunner().invoke(app, [*command, "--captions", str(table), "--set", "side=16"])
    assert found.exit_code == 0, found.output
    assert "new 3, known 0, rejected 0, clips 3, without text 2, unused rows 1" in found.output
    again = CliRunner().invoke(app, [*command, "--captions", str(table), "--set", "side=16"])
    assert "new 0, known 3" in again.output
    speech = CliRunner().invoke(app, ["corpus", "import", str(folder), "--corpus", str(tmp_path), "--captions", "x"])
    assert "add --modality image" in f"{speech.output} {speech.exception}"
