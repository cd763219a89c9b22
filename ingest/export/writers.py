"""Datasets written clip by clip, in the layouts that others read."""

from __future__ import annotations

import abc
import csv
import gzip
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from triforce.ingest.corpus.arrow_schema import MEDIA, WORD
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, Clip

SHARD_BYTES = 500_000_000
"""Audio in a Parquet file at most, as Hugging Face advises."""
SHARD_ROWS = 64
"""Rows of a row group: some tens of megabytes. Assumed."""
ABOUT = (
    *("text", "speaker", "language", "licence", "author", "title", "url", "source", "split", "duration_s"),
    *("snr_db", "bandwidth_hz", "loudness_lufs", "dnsmos_ovrl"),
)
"""Columns of every layout but LJSpeech's, beside the id, the audio and the words."""
SCORES = frozenset({"duration_s", "snr_db", "bandwidth_hz", "loudness_lufs", "dnsmos_ovrl"})


@dataclass(frozen=True)
class Exported:
    """A clip to export, and the split of its recording."""

    clip: Clip
    split: str | None

    def about(self) -> dict[str, Any]:
        """Return the clip's values by the columns of `ABOUT`; addresses on the disk of whoever imported it are left
        out."""
        values = {name: getattr(self.clip, name, None) for name in ABOUT} | {"split": self.split}
        if (self.clip.url or "").startswith("file:"):
            values["url"] = None
        return values | {name: round(float(values[name]), 4) for name in SCORES if values[name] is not None}

    def words(self) -> list[list[Any]] | None:
        """Return each word with its start and end in seconds, and its probability where one is known."""
        if not self.clip.words:
            return None
        return [
            [word.word, round(word.start_s, 4), round(word.end_s, 4)]
            + ([] if word.probability is None else [round(word.probability, 4)])
            for word in self.clip.words
        ]


class Writer(abc.ABC):
    """Writes one dataset. ``audio`` is flac or wav."""

    audio_folder = "audio"

    def __init__(self, folder: Path, audio: str):
        self._folder, self._audio = folder, audio

    @abc.abstractmethod
    def add(self, exported: Exported) -> str | None:
        """Write a clip; return why the layout cannot hold it, None where it does."""

    @abc.abstractmethod
    def close(self) -> None:
        """Finish the files."""

    def _write_audio(self, clip: Clip) -> str:
        """Write a clip's audio in a folder of its recording; return its path within the dataset."""
        name = f"{self.audio_folder}/{clip.recording_id}/{clip.clip_id}.{self._audio}"
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(audio_bytes(clip, self._audio))
        return name


def audio_bytes(clip: Clip, audio: str) -> bytes:
    """Return a clip's audio as it is stored, or the same samples as a WAV file."""
    if audio == "flac":
        return clip.media
    samples, rate_hz = soundfile.read(io.BytesIO(clip.media), dtype="int16")
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype="PCM_16")
    return file.getvalue()


def one_line(text: str) -> str:
    """Return a text with a space in place of each run of tabs and ends of lines."""
    pieces = text.replace("\t", "\n").splitlines()
    return " ".join(piece for piece in pieces if piece) if len(pieces) > 1 else text.rstrip("\r\n\t")


class LJSpeechWriter(Writer):
    """``wavs/<id>.wav`` and ``metadata.csv`` with id, text and text between bars: no speakers, no languages."""

    audio_folder = "wavs"

    def __init__(self, folder: Path, audio: str):
        super().__init__(folder, audio)
        (folder / self.audio_folder).mkdir()
        self._table = (folder / "metadata.csv").open("w", encoding="utf-8", newline="\n")

    def add(self, exported: Exported) -> str | None:
        clip = exported.clip
        text = one_line(clip.text or "")
        if "|" in text:
            return "a bar in the text, which LJSpeech cannot hold"
        (self._folder / self.audio_folder / f"{clip.clip_id}.{self._audio}").write_bytes(audio_bytes(clip, self._audio))
        self._table.write(f"{clip.clip_id}|{text}|{text}\n")
        return None

    def close(self) -> None:
        self._table.close()


class TableWriter(Writer):
    """Audio files and a table of them."""

    table, audio_column, options = (
        "clips.tsv",
        "path",
        {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None},
    )

    def __init__(self, folder: Path, audio: str):
        super().__init__(folder, audio)
        self._file = (folder / self.table).open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n", **self.options)
        self._rows.writerow([self.audio_column, "id", *ABOUT, "words"])

    def add(self, exported: Exported) -> str | None:
        name = self._write_audio(exported.clip)
        words = exported.words()
        cells = [exported.clip.clip_id, *exported.about().values()]
        cells.append(None if words is None else json.dumps(words, ensure_ascii=False))
        self._rows.writerow([name, *(self._cell(cell) for cell in cells)])
        return None

    def close(self) -> None:
        self._file.close()

    def _cell(self, value: Any) -> Any:
        return one_line(value) if isinstance(value, str) else value


class AudioFolderWriter(TableWriter):
    """Hugging Face's audio folder: ``metadata.csv`` whose ``file_name`` names the files."""

    table, audio_column, options = "metadata.csv", "file_name", {}

    def _cell(self, value: Any) -> Any:
        return value


class ParquetWriter(Writer):
    """Hugging Face's Parquet: ``data/train-00000-of-00001.parquet`` with the audio inside."""

    def __init__(self, folder: Path, audio: str):
        super().__init__(folder, audio)
        self._rows: list[dict[str, Any]] = []
        self._shards: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._num_bytes = 0
        (folder / "data").mkdir()

    def add(self, exported: Exported) -> str | None:
        clip = exported.clip
        data = audio_bytes(clip, self._audio)
        audio = {"bytes": data, "path": f"{clip.clip_id}.{self._audio}"}
        words = [word._asdict() for word in clip.words] if clip.words else None
        self._rows.append({"id": clip.clip_id, "audio": audio, **exported.about(), "words": words})
        self._num_bytes += len(data)
        if len(self._rows) == SHARD_ROWS:
            self._flush()
        if self._num_bytes > SHARD_BYTES:
            self._finish_shard()
        return None

    def close(self) -> None:
        self._finish_shard()
        for number, path in enumerate(self._shards):
            path.rename(path.with_name(f"train-{number:05d}-of-{len(self._shards):05d}.parquet"))

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._shards.append(self._folder / "data" / f"{len(self._shards)}.parquet")
            self._writer = pq.ParquetWriter(self._shards[-1], PARQUET_SCHEMA, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=PARQUET_SCHEMA))
        self._rows = []

    def _finish_shard(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
        self._writer, self._num_bytes = None, 0


PARQUET_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", MEDIA),
        *((name, pa.float32() if name in SCORES else pa.string()) for name in ABOUT),
        ("words", pa.list_(WORD)),
    ],
    metadata={
        "huggingface": json.dumps(
            {"info": {"features": {"audio": {"_type": "Audio", "sampling_rate": SAMPLE_RATE_HZ}}}}
        )
    },
)


class NeMoWriter(Writer):
    """NeMo's manifest: a line of JSON a clip, with ``audio_filepath`` relative to it."""

    def __init__(self, folder: Path, audio: str):
        super().__init__(folder, audio)
        self._file = (folder / "manifest.jsonl").open("w", encoding="utf-8", newline="\n")

    def add(self, exported: Exported) -> str | None:
        about = exported.about()
        row: dict[str, Any] = {"id": exported.clip.clip_id, "audio_filepath": self._write_audio(exported.clip)}
        row |= {"duration": exported.clip.duration_s, "text": about.pop("text"), "lang": about.pop("language")}
        write_json(self._file, row | about | {"words": exported.words()})
        return None

    def close(self) -> None:
        self._file.close()


class LhotseWriter(Writer):
    """Lhotse's ``recordings.jsonl.gz`` and ``supervisions.jsonl.gz``; a clip is one of each."""

    def __init__(self, folder: Path, audio: str):
        super().__init__(folder, audio)
        self._recordings, self._supervisions = (
            _gzip(folder / f"{name}.jsonl.gz") for name in ("recordings", "supervisions")
        )

    def add(self, exported: Exported) -> str | None:
        clip, about, name = exported.clip, exported.about(), self._write_audio(exported.clip)
        num_samples = clip.end_sample - clip.start_sample
        duration_s = num_samples / clip.sample_rate_hz
        source = {"type": "file", "channels": [0], "source": name}
        shared: dict[str, Any] = {"id": clip.clip_id, "sampling_rate": clip.sample_rate_hz, "num_samples": num_samples}
        write_json(self._recordings, shared | {"duration": duration_s, "sources": [source]})
        row: dict[str, Any] = {
            "id": clip.clip_id,
            "recording_id": clip.clip_id,
            "start": 0.0,
            "duration": duration_s,
            "channel": 0,
        }
        row |= {key: about.pop(key) for key in ("text", "language", "speaker")} | {"custom": _filled(about)}
        if words := exported.words():
            row["alignment"] = {"word": [_alignment(*word) for word in words]}
        write_json(self._supervisions, row)
        return None

    def close(self) -> None:
        self._recordings.close()
        self._supervisions.close()


def _alignment(word: str, start_s: float, end_s: float, score: float | None = None) -> list[Any]:
    return [word, start_s, round(end_s - start_s, 4), score]


def _gzip(path: Path) -> IO[str]:
    """A packed text file whose bytes depend on the text alone."""
    packed = gzip.GzipFile(path, "wb", mtime=0)
    return io.TextIOWrapper(packed, encoding="utf-8", newline="\n")


def write_json(file: IO[str], row: Mapping[str, Any]) -> None:
    """Write a line of JSON without the values that are None."""
    file.write(json.dumps(_filled(row), ensure_ascii=False) + "\n")


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


WRITERS: dict[str, type[Writer]] = {
    "ljspeech": LJSpeechWriter,
    "tsv": TableWriter,
    "huggingface": AudioFolderWriter,
    "parquet": ParquetWriter,
    "nemo": NeMoWriter,
    "lhotse": LhotseWriter,
}
