"""A corpus whose files are in packs is the same corpus: for every reader, while it is packed, and after any kill."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corpora import add_recording
from typer.testing import CliRunner

from triforce.flows.browse.catalogue import open_catalogue
from triforce.flows.cli.corpus import app
from triforce.ingest import storage
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.refilter import refilter
from triforce.ingest.corpus.clip_index import kept_digest
from triforce.ingest.corpus.packs import compact as compaction
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.packs.compact import compact, unpack
from triforce.ingest.corpus.packs.pack_file import next_order
from triforce.ingest.corpus.packs.pack_list import packs_of
from triforce.ingest.corpus.records import DATASET, Recording, RejectReason, Status, make_recording_id
from triforce.ingest.corpus.retry import take_up
from triforce.ingest.corpus.rewrite import replace_columns
from triforce.ingest.corpus.stats import list_recordings, stats
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.takedown import remove
from triforce.ingest.corpus.verify import FaultKind, verify
from triforce.train.data.clips import ClipStore
from triforce.train.data.order import Part

TITLE = "the title of number {}, which says who spoke"
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["triforce.ingest.corpus.packs.compact", "triforce.ingest.corpus.takedown", "triforce.ingest.clips.refilter"]
)


def fill(corpus: Corpus, first: int = 0, stop: int = 4, source: str = "talk") -> list[Recording]:
    """Write recordings with clips, and as many rejected for good; date them back, as new files are left alone."""
    rows = []
    for number in range(first, stop):
        name = make_recording_id(source, str(number))
        add_recording(corpus, source, str(number), 3, drop=1, seed=number)
        row = replace(corpus.read_recording(source, name), title=TITLE.format(number))
        corpus.write_recording(row)
        refused = make_recording_id(source, f"{number}, refused")
        reason = {"status": Status.REJECTED, "reason": RejectReason.NOT_AUDIO.value}
        corpus.write_recording(
            replace(row, recording_id=refused, source_id=f"{number}, refused", title="refused", **reason)
        )
        rows.append(row)
    age(corpus)
    return rows


def age(corpus: Corpus) -> None:
    for path in Path(corpus.uri).rglob("*.parquet"):
        stamp = path.stat().st_mtime - 60
        os.utime(path, (stamp, stamp))


def contents(corpus: Corpus) -> dict[str, str]:
    """The hash of each file, read as every reader does."""
    found = {}
    for source in corpus.sources():
        uris = [corpus.recording_uri(source, name) for name in sorted(corpus.recording_ids(source))]
        for uri in [*uris, *corpus.clip_files(source)]:
            with overlay.open_file(uri) as file:
                found[uri.removeprefix(corpus.uri)] = hashlib.sha256(file.read()).hexdigest()
    return found


def files(corpus: Corpus) -> Counter[str]:
    """Files of the corpus by ending."""
    folders = [Path(corpus.uri) / name for name in ("recordings", "clips")]
    paths = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return Counter(path.suffix for path in paths if not path.name.startswith(storage.TEMPORARY_PREFIX))


def seen(corpus: Corpus) -> dict:
    """What the readers of a corpus make of it."""
    store = ClipStore(corpus, 24_000, Part(0.0), 1 << 30)
    sounds = [store.waveform(group, row) for group, size in enumerate(store.group_sizes) for row in range(size)]
    catalogue = open_catalogue(corpus)
    return {
        "stats": stats(corpus)["total"].as_dict(),
        "rows": list(list_recordings(corpus)),
        "same rows": list(corpus.recordings()),
        "kept": kept_digest(corpus),
        "clips": corpus.dataset().to_table().to_pylist(),
        "training": hashlib.sha256(np.concatenate(sounds).tobytes()).hexdigest() if sounds else None,
        "page": [catalogue.clip_id(row) for row in range(catalogue.num_clips)],
        "faults": [fault for fault in verify(corpus, deep=True) if fault.kind != FaultKind.MISSING_MEDIA],
    }


def test_every_reader_sees_the_same_in_packs_and_after(corpus):
    fill(corpus)
    before, shown, single = contents(corpus), seen(corpus), files(corpus)
    assert single == {".parquet": 12}
    done = compact(corpus)
    assert [(item.num_files, item.num_packs) for item in done] == [(8, 1), (4, 1)]
    assert files(corpus) == {".zip": 2}
    assert contents(corpus) == before
    assert seen(corpus) == shown
    [pack] = Path(corpus.uri).glob("clips/*/packed/*.zip")
    with zipfile.ZipFile(pack) as opened:
        assert opened.testzip() is None
        assert len(opened.namelist()) == 4
    assert [item.num_files for item in compact(corpus)] == [0, 0]
    unpack(corpus)
    assert files(corpus) == single
    assert contents(corpus) == before
    assert seen(corpus) == shown


def test_the_command_says_what_it_did(corpus):
    fill(corpus, stop=2)
    done = CliRunner().invoke(app, ["compact", corpus.uri])
    assert done.exit_code == 0
    assert "recordings/source=talk: 4 files packed" in done.output
    assert "clips/source=talk: 2 files packed" in done.output
    done = CliRunner().invoke(app, ["compact", corpus.uri, "--undo"])
    assert "clips/source=talk: 2 files taken out" in done.output
    assert files(corpus) == {".parquet": 6}


def test_what_was_remembered_of_a_file_holds_for_it_in_a_pack(corpus, monkeypatch):
    fill(corpus)
    shown = kept_digest(corpus), stats(corpus), open_catalogue(corpus).num_clips
    opened: list[str] = []
    original = overlay.open_file
    monkeypatch.setattr(overlay, "open_file", lambda uri, **options: opened.append(uri) or original(uri, **options))
    compact(corpus)
    assert (kept_digest(corpus), stats(corpus), open_catalogue(corpus).num_clips) == shown
    assert opened == []
    unpack(corpus)
    age(corpus)
    assert (kept_digest(corpus), stats(corpus)) == shown[:2]
    assert len(opened) == 12


def test_what_is_not_settled_stays_by_itself(corpus):
    [row, *_] = fill(corpus, stop=2)
    uncut = replace(row, recording_id="0" * 16)
    failed = replace(row, recording_id="1" * 16, status=Status.REJECTED, reason=RejectReason.NETWORK.value)
    corpus.write_recording(uncut)
    corpus.write_recording(failed)
    age(corpus)
    compact(corpus)
    names = {path.stem for path in Path(corpus.uri).glob("recordings/*/*.parquet")}
    assert names == {"0" * 16, "1" * 16}
    fill(corpus, 2, 3)
    young = replace(row, recording_id="2" * 16, status=Status.DUPLICATE)
    corpus.write_recording(young)
    compact(corpus)
    assert len(corpus.recording_ids("talk")) == 9
    assert {path.stem for path in Path(corpus.uri).glob("recordings/*/*.parquet")} == names | {"2" * 16}


def test_an_ingest_goes_on_beside(corpus, monkeypatch):
    fill(corpus)
    monkeypatch.setattr(compaction, "MAX_PACK_FILES", 2)
    added = []

    def add(_: str) -> None:
        added.append(add_recording(corpus, "talk", f"new {len(added)}", 1))

    compact(corpus, on_pack=add)
    assert len(added) == 6
    assert len(corpus.clipped_ids("talk")) == 10
    assert len(kept := [clip for clips in added for clip in clips]) == 6
    assert set(kept) <= set(corpus.clips(["clip_id"], kept_only=True)["clip_id"].to_pylist())


def test_what_is_written_again_goes_before_its_pack_and_into_the_next(corpus):
    fill(corpus)
    compact(corpus)
    changed = refilter(corpus, FilterConfig(min_s=2.0))
    assert changed.num_rows
    assert files(corpus)[".parquet"] == len(set(changed["recording_id"].to_pylist()))
    before, shown = contents(corpus), seen(corpus)
    age(corpus)
    compact(corpus)
    assert contents(corpus) == before
    assert seen(corpus) == shown
    for uri in corpus.clip_files():
        replace_columns(uri, {"text": ["other"] * 3})
    age(corpus)
    compact(corpus)
    assert len(list(Path(corpus.uri).glob("clips/*/packed/*.zip"))) == 1, "packs that hold nothing that counts are gone"
    assert set(corpus.clips(["text"])["text"].to_pylist()) == {"other"}


def test_small_packs_are_joined(corpus, monkeypatch):
    monkeypatch.setattr(compaction, "MAX_SMALL_PACKS", 3)
    for number in range(3):
        fill(corpus, number, number + 1)
        before = contents(corpus)
        compact(corpus)
        assert contents(corpus) == before
        assert files(corpus)[".zip"] == (2 * (number + 1) if number < 2 else 2)


def traces(corpus: Corpus, *words: str) -> list[Path]:
    """Files that hold one of the words, in rows as they are or in Parquet's."""
    found = [path for path in Path(corpus.uri).rglob("*") if path.is_file()]
    return [path for path in found if any(word.encode() in path.read_bytes() for word in words)]


@pytest.mark.parametrize("forget", [False, True])
def test_a_takedown_takes_it_out_of_the_packs_at_once(corpus, forget):
    [gone, *others] = fill(corpus)
    compact(corpus)
    [clips] = [uri for uri in corpus.clip_files() if gone.recording_id in uri]
    replace_columns(clips, {"text": ["other"] * 3})  # by itself now, and in the pack as it was
    corpus.write_recording(replace(gone, detail="changed"))
    before = {name: sha for name, sha in contents(corpus).items() if gone.recording_id not in name}
    stats(corpus)
    open_catalogue(corpus)
    assert traces(corpus, gone.title)
    removal = remove(corpus, [gone], forget=forget)
    assert removal.num_clips == 3
    assert traces(corpus, gone.title) == []
    names = [Path(path).name for path in Path(corpus.uri).rglob("*.zip")]
    assert len(names) == 2
    assert all("-0001-" in name for name in names)
    assert not any(gone.recording_id in uri for uri in corpus.clip_files())
    after = contents(corpus)
    assert {name: sha for name, sha in after.items() if gone.recording_id not in name} == before
    rows = [row for row in corpus.recordings() if row.recording_id == gone.recording_id]
    assert rows == [] if forget else [row.detail for row in rows] == ["removed"]
    assert {row.title for row in others} <= {row.title for row in list_recordings(corpus)}
    take_up(corpus, [others[0]])
    assert not overlay.exists(corpus.clips_uri("talk", others[0].recording_id))


def dying(action, number: int, uri: str) -> None:
    """Do ``action``, but be killed before the ``number``-th step that changes a file's name or removes it."""
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in ("os.rename", "os.remove", "os.link") and str(arguments[0]).startswith(uri):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    action(Corpus(uri))


def do_compact(corpus: Corpus) -> None:
    compaction.MAX_PACK_FILES = 3
    compaction.MAX_SMALL_PACKS = 2
    compact(corpus)


def do_unpack(corpus: Corpus) -> None:
    unpack(corpus)


def do_remove(corpus: Corpus) -> None:
    remove(corpus, [row for row in list_recordings(corpus) if row.title == TITLE.format(0)])


def killed_at(action, number: int, corpus: Corpus) -> bool:
    """Whether it was killed before it had ended."""
    process = FORKS.Process(target=dying, args=(action, number, corpus.uri))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.parametrize("action", [do_compact, do_unpack])
def test_killed_anywhere_nothing_is_lost_and_nothing_twice(corpus, action):
    fill(corpus, stop=3)
    if action is do_unpack:
        compact(corpus)
    before, shown = contents(corpus), seen(corpus)
    kills = 0
    for number in [1, 2, 4, 7, 3, 5]:
        kills += killed_at(action, number, corpus)
        assert contents(corpus) == before
    assert kills >= 4
    assert not killed_at(action, 1000, corpus)
    assert contents(corpus) == before
    assert seen(corpus) == shown
    assert files(corpus)[".parquet"] == (0 if action is do_compact else 9)


def test_a_killed_takedown_is_old_or_new_and_is_finished_by_the_next(corpus, tmp_path):
    [gone, *_] = fill(corpus, stop=3)
    compact(corpus)
    open_catalogue(corpus)
    before = {name: sha for name, sha in contents(corpus).items() if gone.recording_id not in name}
    for number in (1, 2, 3, 5, 7, 9, 11, 13):
        copy = Corpus(shutil.copytree(corpus.uri, str(tmp_path / f"copy-{number}")))
        assert killed_at(do_remove, number, copy)
        after = contents(copy)
        assert {name: sha for name, sha in after.items() if gone.recording_id not in name} == before
        row = copy.read_recording("talk", gone.recording_id)
        assert (row.title, row.detail) in ((gone.title, None), (None, "removed"))
        if row.detail == "removed":
            assert not overlay.exists(copy.clips_uri("talk", gone.recording_id)), "clips go before the row"
            assert traces(copy, gone.title) == [], "what is remembered goes before the row"
        assert not killed_at(do_remove, 1000, copy)
        after = contents(copy)
        assert {name: sha for name, sha in after.items() if gone.recording_id not in name} == before
        assert copy.read_recording("talk", gone.recording_id).detail == "removed"
        assert traces(copy, gone.title) == []


def test_readers_never_miss_a_file_while_it_is_packed(corpus):
    fill(corpus)
    before, ended = contents(corpus), threading.Event()
    faults: list[object] = []

    def read() -> None:
        while not ended.is_set():
            try:
                if (found := contents(corpus)) != before:
                    faults.append(before.keys() ^ found.keys())
            except Exception as error:
                faults.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    until_s = time.monotonic() + 3
    while time.monotonic() < until_s:
        compact(corpus)
        unpack(corpus)
        age(corpus)
    ended.set()
    for reader in readers:
        reader.join()
    assert faults == []


def without_media(corpus: Corpus) -> None:
    """Make the recordings ones of a dataset, of which nothing but the clips is stored."""
    for row in corpus.recordings():
        corpus.write_recording(replace(row, source_kind=DATASET))
    age(corpus)


def test_a_broken_pack_is_found_and_what_is_whole_in_it_stays(corpus):
    fill(corpus)
    without_media(corpus)
    compact(corpus)
    before = contents(corpus)
    [pack] = Path(corpus.uri).glob("clips/*/packed/*.zip")
    pack.write_bytes(pack.read_bytes()[:-100])
    forget_packs(corpus)
    assert [fault.kind for fault in verify(corpus)] == [FaultKind.UNREADABLE_PACK]
    with pytest.raises(ValueError, match=r"packed/.*corpus verify --repair"):
        stats(corpus)
    verify(corpus, repair=True)
    assert not pack.exists()
    assert contents(corpus) == before
    assert verify(corpus, deep=False) == []


def test_of_a_pack_cut_off_in_the_middle_only_what_is_lost_goes(corpus):
    fill(corpus)
    without_media(corpus)
    compact(corpus)
    before = contents(corpus)
    [pack] = Path(corpus.uri).glob("clips/*/packed/*.zip")
    pack.write_bytes(pack.read_bytes()[: pack.stat().st_size // 2])
    forget_packs(corpus)
    verify(corpus, repair=True)
    assert 1 <= len(corpus.clip_files()) < 4
    assert contents(corpus).items() <= before.items()
    assert verify(corpus) == []
    assert {row.recording_id for row in list_recordings(corpus, status=Status.FETCHED)} == corpus.clipped_ids("talk")


def test_a_replaced_pack_that_breaks_brings_nothing_back(corpus):
    [gone, *_] = fill(corpus)
    compact(corpus)
    [old] = Path(corpus.uri).glob("clips/*/packed/*.zip")
    data = old.read_bytes()
    remove(corpus, [gone])
    old.write_bytes(data[:-100])
    verify(corpus, deep=False, repair=True)
    assert not old.exists()
    assert not overlay.exists(corpus.clips_uri("talk", gone.recording_id))


def rot(corpus: Corpus, kind: str, position: int) -> str:
    """Change a bit of the pack of a kind; return the name of the file that it is in."""
    [pack] = Path(corpus.uri).glob(f"{kind}/*/packed/*.zip")
    data = bytearray(pack.read_bytes())
    data[position] ^= 1
    pack.write_bytes(data)
    with zipfile.ZipFile(pack) as opened:
        return next(one.filename for one in reversed(opened.infolist()) if one.header_offset < position)


def test_what_rots_in_a_pack_is_found_and_keeps_nothing_else_from_a_takedown(corpus, caplog):
    rows = fill(corpus)
    compact(corpus)
    before = contents(corpus)
    bad = rot(corpus, "clips", 200)
    [gone, *_] = [row for row in rows if f"{row.recording_id}.parquet" != bad]
    assert [
        (fault.kind, Path(fault.path).name) for fault in verify(corpus) if fault.kind != FaultKind.MISSING_MEDIA
    ] == [(FaultKind.UNREADABLE_CLIPS, bad)]
    remove(corpus, [gone])
    assert f"{bad} has another checksum than its pack says" in caplog.text
    assert [path.name for path in Path(corpus.uri).glob("clips/*/*.parquet")] == [bad], "by itself, as it is"
    whole = {name: sha for name, sha in before.items() if gone.recording_id not in name and Path(name).name != bad}
    assert whole.items() <= contents(corpus).items()
    assert not overlay.exists(corpus.clips_uri("talk", gone.recording_id))


def test_several_rotten_files_are_repaired_and_taken_out(corpus, tmp_path):
    fill(corpus)
    without_media(corpus)
    compact(corpus)
    before, size = contents(corpus), next(Path(corpus.uri).glob("clips/*/packed/*.zip")).stat().st_size
    bad = {rot(corpus, "clips", 200), rot(corpus, "clips", size // 2)}
    assert len(bad) == 2
    copy = Corpus(shutil.copytree(corpus.uri, str(tmp_path / "copy")))
    unpack(copy)
    assert len(copy.clip_files()) == 4
    verify(corpus, repair=True)
    assert {Path(uri).name for uri in corpus.clip_files()}.isdisjoint(bad)
    assert len(corpus.clip_files()) == 2
    clips = {name: sha for name, sha in contents(corpus).items() if name.startswith("/clips")}
    assert clips.items() <= before.items()


def test_packs_of_two_who_both_believe_to_hold_the_lock_both_count(corpus, monkeypatch):
    """As after a machine slept: the second lists the packs before the first one's is there."""
    fill(corpus)
    before = contents(corpus)
    monkeypatch.setattr(compaction, "MAX_PACK_FILES", 2)
    monkeypatch.setattr(compaction, "next_order", lambda names: next_order([]))
    compact(corpus)
    assert files(corpus) == {".zip": 6}
    assert contents(corpus) == before


def forget_packs(corpus: Corpus) -> None:
    """Lose what is remembered of packs, as after a change that no process saw."""
    for path in Path(corpus.uri).glob("state/*/*-packs/*"):
        path.unlink()
    packs_of.cache_clear()


def test_an_object_store_is_asked_for_pages_and_not_for_files(bucket, monkeypatch):
    import s3fs

    corpus = Corpus(f"{bucket}/packs")
    for number in range(12):
        add_recording(corpus, "talk", str(number), 1, seed=number)
    before = {uri.rpartition("/")[2]: storage.read_bytes(uri) for uri in corpus.clip_files()}
    asked: Counter[str] = Counter()
    original = s3fs.S3FileSystem._call_s3

    async def counted(self, method, *arguments, **options):
        asked[method] += 1
        return await original(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    compact(corpus)
    assert asked["get_object"] < 4 * 24
    objects = [name for name in storage.resolve(bucket)[0].find(f"{corpus.uri}") if "/state/" not in name]
    assert len(objects) == 2
    for uri in corpus.clip_files():
        with overlay.open_file(uri) as file:
            assert file.read() == before[uri.rpartition("/")[2]]
    rows = {row.recording_id for row in corpus.recordings()}
    assert len(rows) == 12
    assert corpus.clips(["clip_id"]).num_rows == 12
    gone = next(iter(corpus.recordings()))
    remove(corpus, [gone])
    assert len(corpus.clip_files()) == 11
    unpack(corpus)
    assert len(corpus.clip_files()) == 11
    assert stats(corpus)["total"].num_clips == 11
