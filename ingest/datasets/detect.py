"""Which format a dataset has, by what lies in its folder, and what it says of its licence."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import yaml

from triforce.ingest.datasets import huggingface, libri, manifests, tables
from triforce.ingest.datasets.utterance import Dataset, DatasetConfig
from triforce.ingest.json_lines import ENDINGS, first_object

MAX_LOOKED_AT = 20_000
"""Files of a folder that are looked at for what tells its format. Assumed."""
LICENCE_FILES = ("README.md", "LICENSE.TXT", "LICENSE.txt", "LICENSE", "LICENCE", "README.TXT", "README.txt", "README")
LICENCES = (
    (r"CC0|creativecommons\.org/publicdomain/zero", "CC0 1.0"),
    (r"public domain|creativecommons\.org/publicdomain/mark", "public domain"),
    (r"(?:CC[ -]BY[ -]|licenses/by/|Attribution )(\d\.\d)", "CC BY {}"),
    (r"(?:CC[ -]BY-SA[ -]|licenses/by-sa/|Attribution-ShareAlike )(\d\.\d)", "CC BY-SA {}"),
    (r"(?:CC[ -]BY-NC[ -]|licenses/by-nc/|Attribution-NonCommercial )(\d\.\d)", "CC BY-NC {}"),
    (r"(?:CC[ -]BY-NC-SA[ -]|licenses/by-nc-sa/|Attribution-NonCommercial-ShareAlike )(\d\.\d)", "CC BY-NC-SA {}"),
    (r"(?:CC[ -]BY-NC-ND[ -]|licenses/by-nc-nd/|Attribution-NonCommercial-NoDerivatives )(\d\.\d)", "CC BY-NC-ND {}"),
)
"""How the licences that datasets come under are written, and what each is called here."""


def open_dataset(path: Path, config: DatasetConfig, form: str = "auto") -> Dataset:
    """Return the dataset at ``path``, a folder or a file, of the format ``form``, or of the one that is found there.

    Raises ValueError, with what was found, where it is no dataset of that format or of any.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    path = path.absolute()
    if form == "auto":
        found = next((dataset for read in _FORMATS.values() if (dataset := read(path, config))), None)
    elif form not in _FORMATS:
        raise ValueError(f"format {form!r}: use auto or one of {', '.join(_FORMATS)}")
    else:
        found = _FORMATS[form](path, config)
    if found is None:
        there = ", ".join(f"{number} {ending}" for ending, number in _endings(path).items()) or "nothing"
        looked_for = "; ".join(f"{name}: {LOOKED_FOR[name]}" for name in (LOOKED_FOR if form == "auto" else [form]))
        raise ValueError(f"{path}: no dataset is found, there are: {there}. Looked for {looked_for}")
    return found


LOOKED_FOR = {
    "ljspeech": "metadata.csv with bars between its cells",
    "common-voice": "validated.tsv with client_id, path and sentence, and clips/",
    "librispeech": "*.trans.txt in folders of readers and chapters",
    "libritts": "*.normalized.txt or *.original.txt beside the audio",
    "huggingface": "metadata.csv or metadata.jsonl with file_name, or *.parquet with audio in them",
    "lhotse": "*.jsonl.gz of cuts, or of recordings and of supervisions",
    "nemo": "*.jsonl or *.json with audio_filepath in each line",
    "tsv": "one .tsv or .csv with a header that names audio and text",
}
"""What tells each format, in the order of asking."""


def _ljspeech(path: Path, config: DatasetConfig) -> Dataset | None:
    table = path / "metadata.csv" if path.is_dir() else path
    if table.name != "metadata.csv" or not table.is_file():
        return None
    rows = [row for _, row, _ in islice(tables.cells(table, "|", quoted=False), 3)]
    if not rows or any(row is None or not 2 <= len(row) <= 3 or "file_name" in row[0] for row in rows):
        return None
    return _dataset("ljspeech", table, "LJSpeech", functools.partial(tables.read_ljspeech, table, config))


def _common_voice(path: Path, config: DatasetConfig) -> Dataset | None:
    if path.is_file():
        if path.suffix != ".tsv" or not _is_common_voice(path, config):
            return None
        return _dataset(
            "common-voice", path, f"Common Voice, {path.name}", functools.partial(tables.read_table, path, config)
        )
    found = [
        folder
        for folder in (path, *sorted(path.glob("*/")), *sorted(path.glob("*/*/")))
        if (folder / "validated.tsv").is_file() and _is_common_voice(folder / "validated.tsv", config)
    ]
    if len(found) > 1:
        raise ValueError(f"{path}: {len(found)} languages ({', '.join(f.name for f in found)}); import them one by one")
    if not found:
        return None
    return _dataset(
        "common-voice",
        found[0],
        f"Common Voice, {found[0].name}",
        functools.partial(tables.read_common_voice, found[0], config),
    )


def _is_common_voice(table: Path, config: DatasetConfig) -> bool:
    try:
        return set(tables.header(table, config)) >= tables.COMMON_VOICE_COLUMNS
    except ValueError:
        return False


def _librispeech(path: Path, config: DatasetConfig) -> Dataset | None:
    if not any(name.endswith(libri.TRANSCRIPTS) for _, name in _walk(path)):
        return None
    return _dataset("librispeech", path, "LibriSpeech", functools.partial(libri.read_librispeech, path, config))


def _libritts(path: Path, config: DatasetConfig) -> Dataset | None:
    if not any(name.endswith(tuple(libri.TEXTS.values())) for _, name in _walk(path)):
        return None
    return _dataset("libritts", path, "LibriTTS", functools.partial(libri.read_libritts, path, config))


def _huggingface(path: Path, config: DatasetConfig) -> Dataset | None:
    names = [path] if path.is_file() else [Path(folder) / name for folder, name in _walk(path, None) if _is_table(name)]
    root, files = path.parent if path.is_file() else path, sorted(filter(_is_table, names), key=str)
    found = [file for file in files if file.name in huggingface.METADATA and _names_files(file, config)]
    if found:
        read = functools.partial(huggingface.read_audio_folder, root, found, config)
        return _dataset("huggingface", path, f"Hugging Face audio folder, {len(found)} tables", read)
    found = [file for file in files if file.name not in huggingface.METADATA]
    if not any(huggingface.has_audio(file, config) for file in found):
        return None
    read = functools.partial(huggingface.read_parquet, root, found, config)
    return _dataset("huggingface", path, f"Hugging Face Parquet, {len(found)} files", read)


def _is_table(file: str | Path) -> bool:
    name = os.path.basename(file)
    return name in huggingface.METADATA or name.endswith(".parquet")


def _names_files(table: Path, config: DatasetConfig) -> bool:
    name = config.columns.get("audio", "file_name")
    if table.suffix == ".csv":
        try:
            return name in tables.header(table, config.model_copy(update={"names": (), "delimiter": None}))
        except ValueError:
            return False
    return table.suffix == ".parquet" or name in first_object(table)


def _lhotse(path: Path, config: DatasetConfig) -> Dataset | None:
    kinds: dict[str, list[Path]] = {"cuts": [], "supervisions": [], "recordings": []}
    for file, first in _json_files(path):
        kind = (
            "cuts" if "supervisions" in first or "tracks" in first
            else "supervisions" if {"recording_id", "start", "duration"} <= first.keys()
            else "recordings" if {"sources", "sampling_rate"} <= first.keys()
            else ""
        )  # fmt: skip
        if kind:
            kinds[kind].append(file)
    if path.is_file() and kinds["supervisions"]:
        kinds["recordings"] = [
            file for file, row in _json_files(path.parent) if {"sources", "sampling_rate"} <= row.keys()
        ]
    if not kinds["cuts"] and not (kinds["supervisions"] and kinds["recordings"]):
        return None
    if kinds["cuts"] and kinds["supervisions"]:  # the cuts hold them
        kinds |= {"supervisions": [], "recordings": []}
    words = ", ".join(f"{len(files)} files of {kind}" for kind, files in kinds.items() if files)
    return _dataset(
        "lhotse", path, f"Lhotse, {words}", functools.partial(manifests.read_lhotse, **kinds, config=config)
    )


def _nemo(path: Path, config: DatasetConfig) -> Dataset | None:
    found = [(file, first) for file, first in _json_files(path) if "audio_filepath" in first]
    if not found:
        return None
    if tarred := [file for file, first in found if "shard_id" in first]:
        raise ValueError(f"{tarred[0]}: a manifest of audio in tar files, which is not read; unpack them first")
    return _dataset(
        "nemo",
        path,
        f"NeMo, {len(found)} manifests",
        functools.partial(manifests.read_nemo, [f for f, _ in found], config),
    )


def _tsv(path: Path, config: DatasetConfig) -> Dataset | None:
    found = [path] if path.suffix in (".tsv", ".csv") else []
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in (".tsv", ".csv"))
        if len(found) > 1:
            raise ValueError(
                f"{path}: {len(found)} tables ({', '.join(f.name for f in found[:5])}); name the one to import"
            )
    if not found:
        return None
    names = tables.header(found[0], config)
    tables.Columns(names, config.columns, str(found[0]))
    return _dataset(
        "tsv",
        found[0],
        f"a table of {len(names)} columns, {found[0].name}",
        functools.partial(tables.read_table, found[0], config),
    )


_FORMATS = {
    "ljspeech": _ljspeech,
    "common-voice": _common_voice,
    "librispeech": _librispeech,
    "libritts": _libritts,
    "huggingface": _huggingface,
    "lhotse": _lhotse,
    "nemo": _nemo,
    "tsv": _tsv,
}


def _dataset(form: str, path: Path, found: str, items: functools.partial) -> Dataset:
    folders = [path] if path.is_dir() else [path.parent]
    if form in ("librispeech", "libritts"):  # a subset lies in the folder of the release
        folders.append(path.parent)
    return Dataset(form, found, items, next(filter(None, map(stated_licence, folders)), None))


def _walk(path: Path, limit: int | None = MAX_LOOKED_AT) -> Iterator[tuple[str, str]]:
    """The folder and name of each file below ``path``, so many at most; what begins with a dot is left out."""
    return islice(_files(path), limit)


def _files(path: Path) -> Iterator[tuple[str, str]]:
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from ((folder, name) for name in names if not name.startswith("."))


def _endings(path: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in [path.name] if path.is_file() else [name for _, name in _walk(path)]:
        ending = Path(name).suffix or "files without an ending"
        counts[ending] = counts.get(ending, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1])[:6])


def _json_files(path: Path) -> list[tuple[Path, dict]]:
    """The files of JSON lines at ``path`` or right below it, each with its first object."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return [(file, first_object(file)) for file in files if file.name.endswith(ENDINGS) and file.is_file()]


def stated_licence(folder: Path) -> str | None:
    """Return the licence that a dataset's card or its LICENSE states; None where none does, or one names several."""
    for file in (folder / name for name in LICENCE_FILES):
        if file.is_file() and (found := _licence_in(file.read_text(encoding="utf-8", errors="replace")[:100_000])):
            return found
    return None


def _licence_in(text: str) -> str | None:
    if card := re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL):
        try:
            stated = (yaml.safe_load(card[1]) or {}).get("license")
        except (yaml.YAMLError, AttributeError):
            stated = None
        stated = stated[0] if isinstance(stated, list) and len(stated) == 1 else stated
        return stated if isinstance(stated, str) and stated not in ("other", "unknown") else None
    found = set()
    for pattern, name in LICENCES:
        for match in re.finditer(pattern, text):
            found.add(name.format(*match.groups()))
    return found.pop() if len(found) == 1 else None
