"""Manifests of JSON lines: NeMo's, and Lhotse's recordings, supervisions and cuts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from triforce.ingest.corpus.records import RejectReason, Word
from triforce.ingest.datasets.columns import Columns, find_audio
from triforce.ingest.datasets.utterance import DatasetConfig, Faulty, Item, Utterance, language_code
from triforce.ingest.json_lines import name_without_endings, read_lines

HARMLESS = frozenset({"Resample"})
"""Transforms of a Lhotse recording that leave times as they are."""


def read_nemo(paths: Sequence[Path], config: DatasetConfig) -> Iterator[Item]:
    """Yield the lines of NeMo's manifests: ``audio_filepath``, ``text``, ``duration``, and ``offset`` where an
    utterance is a part of a file."""
    for path in paths:
        split = re.sub(r"_?manifest_?", "", name_without_endings(path)) or None
        for number, row, fault in read_lines(path):
            where, group = f"{path.name}:{number}", path.name
            if row is None or not isinstance(row.get("audio_filepath"), str) or not row["audio_filepath"]:
                detail = f"line {number} of {path.name}: {fault or 'no audio_filepath'}"
                yield Faulty(where, RejectReason.BAD_METADATA, detail, group)
                continue
            audio, offset = row["audio_filepath"], row.get("offset")
            name = audio if offset is None else f"{audio}#t={offset}"
            columns = Columns(row.keys(), config.columns, where, needed=())
            yield columns.item(row, find_audio(path.parent, audio), name, group=group, split=split)


def read_lhotse(
    cuts: Sequence[Path], supervisions: Sequence[Path], recordings: Sequence[Path], config: DatasetConfig
) -> Iterator[Item]:
    """Yield the supervisions of cuts, and those of supervision sets, whose recordings stand in sets of their own.

    Recordings are held in memory, as supervisions may come in any order.
    """
    for path in cuts:
        for number, cut, fault in read_lines(path):
            yield from _guarded(path, number, cut, fault, _cut_items)
    known: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in recordings:
        for number, row, fault in read_lines(path):
            if row is None or "id" not in row:
                yield Faulty(
                    f"{path.name}:{number}",
                    RejectReason.BAD_METADATA,
                    f"line {number} of {path.name}: {fault or 'no id'}",
                )
            else:
                known[str(row["id"])] = (path, row)

    def of_supervision(path: Path, row: Mapping[str, Any]) -> Iterator[Item]:
        name = str(row["recording_id"])
        if name not in known:
            yield Faulty(
                str(row["id"]), RejectReason.NOT_FOUND, f"recording {name!r} is in no recording set", path.name
            )
            return
        place, recording = known[name]
        yield _supervision_item(place, recording, row, 0.0, path.name)

    for path in supervisions:
        for number, row, fault in read_lines(path):
            yield from _guarded(path, number, row, fault, of_supervision)


def _guarded(path: Path, number: int, row: dict[str, Any] | None, fault: str, read: Any) -> Iterator[Item]:
    """What ``read`` makes of a line, or a faulty item where it is not as Lhotse writes it."""
    where, detail = f"{path.name}:{number}", f"line {number} of {path.name}"
    if row is None:
        yield Faulty(where, RejectReason.BAD_METADATA, f"{detail}: {fault}", path.name)
        return
    try:
        yield from read(path, row)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        words = f"{detail}: {type(error).__name__}: {error}"
        yield Faulty(str(row.get("id", where)), RejectReason.BAD_METADATA, words, path.name)


def _cut_items(path: Path, cut: Mapping[str, Any]) -> Iterator[Item]:
    if "tracks" in cut or not isinstance(cut.get("recording"), dict):
        kind = cut.get("type", "a cut without a recording")
        raise ValueError(f"{kind} is not read here; cuts of one recording are")
    for supervision in cut.get("supervisions") or ():
        yield _supervision_item(path, cut["recording"], supervision, float(cut.get("start", 0.0)), path.name)


def _supervision_item(
    path: Path, recording: Mapping[str, Any], row: Mapping[str, Any], cut_start_s: float, group: str
) -> Item:
    """A supervision, whose times count from ``cut_start_s`` of the recording on."""
    transforms = {each.get("name") for each in recording.get("transforms") or ()}
    if transforms - HARMLESS:
        raise ValueError(f"a recording with transforms {sorted(map(str, transforms))}; save it as it sounds")
    channel, audio = _source(path, recording, row.get("channel", 0))
    custom = row.get("custom") or {}
    shared = {name: custom.get(name) for name in ("licence", "title", "author", "url", "split")}
    return Utterance(
        utterance_id=str(row["id"]),
        audio=audio,
        text=row.get("text"),
        start_s=cut_start_s + float(row["start"]),
        duration_s=float(row["duration"]),
        channel=channel,
        group=group,
        speaker=row.get("speaker"),
        language=language_code(row.get("language")),
        words=_aligned_words(row),
        **shared
        | {"split": shared["split"] or re.sub(r"_?(cuts|supervisions)_?", "", name_without_endings(path)) or None},
    )


def _source(path: Path, recording: Mapping[str, Any], wanted: Any) -> tuple[int | None, str]:
    """The channel within a file, None for all of it, and the file's path."""
    several = list(wanted) if isinstance(wanted, list) else [wanted]
    sources = [each for each in recording["sources"] if set(several) <= set(each["channels"])]
    if not sources:
        raise ValueError(f"channel {wanted} is in no source of recording {recording['id']!r}")
    source = sources[0]
    if source["type"] != "file":
        raise ValueError(f"audio of type {source['type']!r} is not read here; files are")
    is_all = len(several) == len(source["channels"])
    if not is_all and len(several) > 1:
        raise ValueError(f"channels {wanted} of {source['channels']}: one is read, or all of them")
    found = find_audio(path.parent, source["source"])
    if not Path(found).is_file() and Path(source["source"]).is_file():  # Lhotse's own paths begin where it was run
        found = str(Path(source["source"]).absolute())
    return (None if is_all else source["channels"].index(several[0])), found


def _aligned_words(row: Mapping[str, Any]) -> tuple[Word, ...] | None:
    """The words of an alignment, whose times count as the supervision's do, as `Word`, whose count from its start."""
    found = []
    for item in (row.get("alignment") or {}).get("word") or ():
        if isinstance(item, Mapping):
            item = [item["symbol"], item["start"], item["duration"], item.get("score")]
        symbol, start, duration, *rest = item
        begin_s = float(start) - float(row["start"])
        score = float(rest[0]) if rest and rest[0] is not None else None
        found.append(Word(str(symbol), begin_s, begin_s + float(duration), score))
    return tuple(found) or None
