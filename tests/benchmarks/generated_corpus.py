"""A corpus of any size with hardly any sound in it, written as fast as a disk takes it.

A few recordings are written by the corpus's own writer; all others are copies of their files with other ids, which is
why no column that holds ids is compressed. Rows, columns, row groups and footers are those of a real corpus.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from triforce.ingest import ledger
from triforce.ingest.corpus.arrow_schema import CLIP_SCHEMA
from triforce.ingest.corpus.packs.compact import MAX_PACK_FILES
from triforce.ingest.corpus.packs.pack_file import Content, pack_name, write_pack
from triforce.ingest.corpus.packs.pack_list import FOLDER
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, Clip, Media, Recording, Status, Word, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.encode import encode_flac

CLIP_S, PAUSE_S = 8.0, 0.5
DROPPED_SHARE = 0.3
NUM_TEMPLATES = 16
MAX_LINKS = 60_000
"""Names of one file: ext4 allows 65 000."""
PLACE = "f00dfacef00dface"
"""The id that templates have, and copies have another in its place."""
MEDIA = b"no sound"
ENDINGS = ("parquet", "mp3")
VOCABULARY = [f"{a}{b}{c}" for a in ("ka", "lo", "mi", "ru", "te") for b in ("na", "so", "vi", "") for c in "aeioustr"]


def write_corpus(uri: Path, num_recordings: int, clips_per_recording: int = 225, num_sources: int = 4) -> Corpus:
    """Write recordings of 8 s clips, of which `DROPPED_SHARE` are dropped, spread over sources."""
    corpus = Corpus(str(uri))
    templates = list(_templates(uri.with_name(f"{uri.name}-templates"), clips_per_recording))
    for number in range(num_sources):
        for folder in ("recordings", "clips"):
            (uri / folder / f"source=feed-{number}").mkdir(parents=True, exist_ok=True)
        ledger.write_pending(corpus, f"feed-{number}", [])
    for number in range(num_recordings):
        add_copy(uri, templates[number % NUM_TEMPLATES], number, num_sources)
    return corpus


def write_packed_corpus(uri: Path, num_recordings: int, clips_per_recording: int = 225, num_sources: int = 4) -> Corpus:
    """Write the corpus that `write_corpus` and `triforce corpus compact` would leave, by one writing of each pack."""
    corpus = Corpus(str(uri))
    templates = list(_templates(uri.with_name(f"{uri.name}-templates"), clips_per_recording))
    for place in range(num_sources):
        source = f"feed-{place}"
        ledger.write_pending(corpus, source, [])
        ids = {make_recording_id(source, str(number)): number for number in range(place, num_recordings, num_sources)}
        write_links(uri / "recordings" / f"source={source}", [f"{recording_id}.mp3" for recording_id in ids], MEDIA)
        names = sorted(ids)
        for order, begin in enumerate(range(0, len(names), MAX_PACK_FILES)):
            some = [(name, templates[ids[name] % NUM_TEMPLATES]) for name in names[begin : begin + MAX_PACK_FILES]]
            for kind, folder in enumerate(("recordings", "clips")):
                copies = ((name, copy_of(template[kind], name, source)) for name, template in some)
                contents = (Content(f"{name}.parquet", len(data), partial(io.BytesIO, data)) for name, data in copies)
                packed = uri / folder / f"source={source}" / FOLDER
                packed.mkdir(parents=True, exist_ok=True)
                write_pack(packed / pack_name(order + 1, 0, f"{order:012x}"), contents)
    return corpus


def write_known(uri: Path, num_recordings: int, source: str = "feed-0") -> None:
    """Write the files of as many fetched recordings, as links to a few: discovery asks whether they are there."""
    ledger.write_pending(Corpus(str(uri)), source, [])
    names = [make_recording_id(source, f"https://example.org/e/{number}") for number in range(num_recordings)]
    write_links(uri / "recordings" / f"source={source}", [f"{name}.{end}" for name in names for end in ENDINGS], MEDIA)


def write_links(folder: Path, names: list[str], data: bytes) -> None:
    """Write files of the same content, as links to a few."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        if number % MAX_LINKS:
            os.link(folder / names[number - number % MAX_LINKS], folder / name)
        else:
            (folder / name).write_bytes(data)


def copy_of(template: bytes, recording_id: str, source: str) -> bytes:
    """Return a template with another recording's ids."""
    return template.replace(PLACE.encode(), recording_id.encode()).replace(b"feed-x", source.encode())


def add_copy(uri: Path, template: tuple[bytes, bytes], number: int, num_sources: int) -> str:
    """Write one more recording; return its id."""
    source = f"feed-{number % num_sources}"
    recording_id = make_recording_id(source, str(number))
    for folder, data in zip(("recordings", "clips"), template, strict=True):
        path = uri / folder / f"source={source}" / f"{recording_id}.parquet"
        path.write_bytes(copy_of(data, recording_id, source))
    (uri / "recordings" / f"source={source}" / f"{recording_id}.mp3").write_bytes(MEDIA)
    return recording_id


def _templates(folder: Path, num_clips: int) -> Iterator[tuple[bytes, bytes]]:
    """The row and the clips file of each recording that others are copies of."""
    corpus = Corpus(str(folder))
    for seed in range(NUM_TEMPLATES):
        recording = Recording(
            PLACE,
            "feed-x",
            "podcast",
            f"https://example.org/{PLACE}",
            f"https://example.org/{PLACE}.mp3",
            title=f"Episode {seed}",
            author=f"Author {seed}",
            licence="CC BY 4.0",
            duration_s=num_clips * (CLIP_S + PAUSE_S),
            media_path=f"recordings/source=feed-x/{PLACE}.mp3",
            num_bytes=len(MEDIA),
            sha256=hashlib.sha256(MEDIA).hexdigest(),
            fetched_at="2026-01-01T00:00:00+00:00",
            status=Status.FETCHED,
            metadata={"decoded_duration_s": f"{num_clips * (CLIP_S + PAUSE_S):.3f}", "codec": "mp3"},
        )
        corpus.write_recording(recording)
        corpus.write_clips(recording, _clips(recording, num_clips, seed))
        clips = Path(corpus.clips_uri("feed-x", PLACE))
        _make_legible(clips)
        row = Path(corpus.recording_uri("feed-x", PLACE))
        pq.write_table(pq.read_table(row, partitioning=None), row, compression="none")
        yield row.read_bytes(), clips.read_bytes()


def _make_legible(path: Path) -> None:
    """Write a clips file again as it is, but for the addresses, which hold ids and are not compressed here."""
    file = pq.ParquetFile(path)
    chunks = [file.metadata.row_group(0).column(number) for number in range(file.metadata.num_columns)]
    compressed = [chunk.path_in_schema for chunk in chunks if chunk.compression != "UNCOMPRESSED"]
    options = {name: "zstd" for name in compressed if name != "url"}
    tables = [file.read_row_group(index) for index in range(file.num_row_groups)]
    with pq.ParquetWriter(path, CLIP_SCHEMA, compression=options, use_dictionary=["source", "recording_id"]) as writer:
        for table in tables:
            writer.write_table(table)


def _clips(recording: Recording, num_clips: int, seed: int) -> Iterator[Clip]:
    generator = np.random.default_rng(seed)
    audio = Media(encode_flac(np.zeros(2400, np.int16)))
    length, pause = int(CLIP_S * SAMPLE_RATE_HZ), int(PAUSE_S * SAMPLE_RATE_HZ)
    for index in range(num_clips):
        words = generator.choice(VOCABULARY, 18).tolist()
        times = np.linspace(0.1, CLIP_S - 0.1, len(words) + 1).tolist()
        start = index * (length + pause)
        clip = Clip.cut(
            recording,
            start,
            start + length,
            SAMPLE_RATE_HZ,
            audio=audio,
            text=" ".join(words),
            asr_model="tiny.en",
            language="en",
            language_probability=0.98,
            words=tuple(Word(f" {word}", times[i], times[i + 1], 0.9) for i, word in enumerate(words)),
            avg_logprob=float(generator.uniform(-0.6, -0.1)),
            no_speech_prob=0.02,
            compression_ratio=1.4,
            temperature=0.0,
            chars_per_s=len(" ".join(words)) / CLIP_S,
            snr_db=float(generator.uniform(12, 40)),
            bandwidth_hz=10_000.0,
            clipped_share=0.0,
            silence_share=0.2,
            rms_dbfs=-22.0,
            loudness_lufs=-21.0,
            modulation_db=9.0,
            edge_db=-20.0,
            cut_blind=False,
        )
        if generator.random() < DROPPED_SHARE:
            clip = replace(clip, drop_reason="noisy", snr_db=5.0)
        yield clip


def write_tokens_folder(tokens: Path, clips_per_shard: int = 256) -> None:
    """Begin a tokens folder as `open_tokens` does, without a dVAE."""
    from triforce.models.text import TextTokenizer

    tokenizer = TextTokenizer.train(VOCABULARY, 300)
    tokens.mkdir(parents=True, exist_ok=True)
    (tokens / "tokenizer.json").write_text(tokenizer.to_json())
    meta: dict[str, Any] = {
        "format": 2,
        "dvae_hash": "0" * 64,
        "clips_per_shard": clips_per_shard,
        "num_codes": 8192,
        "modality": "speech",
        "compression": [4],
        "text_vocabulary_size": tokenizer.size,
    }
    (tokens / "meta.json").write_text(json.dumps(meta))


def age(folder: Path, seconds: float = 3600.0) -> None:
    """Date the files of a folder back, as if they had been written some time ago."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            stamp = os.stat(path).st_mtime - seconds
            os.utime(path, (stamp, stamp))
