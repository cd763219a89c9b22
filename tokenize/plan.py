"""Which clip goes into which shard: decided once, before any work, and only ever added to.

Layout below a tokens URI: ``meta.json`` (dVAE, settings) and ``tokenizer.json``, written once;
``plan/part-000000.parquet`` for each run that
met new clips; ``shard-000000.json`` and then ``shard-000000.tar`` for each shard; ``index.json`` over all of them.
A shard is there or it is not; there is no other state, so a run that was killed anywhere continues by being run again.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.corpus import Corpus
from triforce.models.text import TextTokenizer, clean_text
from triforce.tokenize.config import TokenizeConfig

PLAN_SCHEMA = pa.schema(
    [("shard", pa.int32()), ("clip_id", pa.string()), ("recording_id", pa.string()), ("source", pa.string())]
)
FORMAT = 1


class PlannedShard(NamedTuple):
    index: int
    clips: list[tuple[str, str, str]]
    """``(clip_id, recording_id, source)``, in the shard's order."""


def open_tokens(config: TokenizeConfig, dvae_hash: str, num_codes: int) -> dict:
    """``meta.json`` of the tokens folder, made on the first run; a folder that another dVAE or other settings began is
    refused.
    """
    meta_uri = storage.join(config.tokens, "meta.json")
    wanted = {
        "format": FORMAT,
        "dvae_hash": dvae_hash,
        "clips_per_shard": config.clips_per_shard,
        "num_codes": num_codes,
    }
    if storage.exists(meta_uri):
        meta = json.loads(storage.read_bytes(meta_uri))
        for key, value in wanted.items():
            if meta.get(key) != value:
                raise ValueError(
                    f"{config.tokens}: begun with {key} {meta.get(key)}, this run has {value}; shards of both "
                    f"would not belong together. "
                    "Use another tokens folder, or remove this one"
                )
        return meta
    texts = Corpus(config.corpus).clips(["text"], kept_only=True)["text"].to_pylist()
    if not texts:
        raise ValueError(f"{config.corpus}: no clip to keep; run `triforce ingest`, or loosen the filters")
    tokenizer = TextTokenizer.train((clean_text(text or "") for text in texts), config.text_vocabulary_size)
    storage.write_bytes(storage.join(config.tokens, "tokenizer.json"), tokenizer.to_json().encode())
    meta = wanted | {"text_vocabulary_size": tokenizer.size}
    storage.write_bytes(meta_uri, json.dumps(meta, indent=1, sort_keys=True).encode())
    return meta


def load_tokenizer(tokens: str) -> TextTokenizer:
    return TextTokenizer(storage.read_bytes(storage.join(tokens, "tokenizer.json")).decode())


def read_plan(tokens: str) -> pa.Table:
    """Every planned clip, in the order of shards."""
    folder = storage.join(tokens, "plan")
    tables = []
    for name in storage.list_files(folder, ".parquet"):
        fs, path = storage.resolve(storage.join(folder, name))
        with fs.open(path, "rb") as file:
            tables.append(pq.read_table(file, schema=PLAN_SCHEMA, partitioning=None))
    return pa.concat_tables(tables) if tables else PLAN_SCHEMA.empty_table()


def extend_plan(config: TokenizeConfig) -> pa.Table:
    """Plan the kept clips that are in no shard yet, in the order of source, recording and time; the whole plan."""
    plan = read_plan(config.tokens)
    columns = ["clip_id", "recording_id", "source"]
    kept = (
        Corpus(config.corpus)
        .clips(columns, kept_only=True)
        .sort_by([("source", "ascending"), ("clip_id", "ascending")])
    )
    known = set(plan["clip_id"].to_pylist())
    new = kept.filter(pa.array([clip_id not in known for clip_id in kept["clip_id"].to_pylist()], pa.bool_()))
    if not new.num_rows:
        return plan
    first = (max(plan["shard"].to_pylist()) + 1) if plan.num_rows else 0
    shards = pa.array([first + i // config.clips_per_shard for i in range(new.num_rows)], pa.int32())
    part = new.add_column(0, "shard", shards).cast(PLAN_SCHEMA)
    folder = storage.join(config.tokens, "plan")
    name = f"part-{len(storage.list_files(folder, '.parquet')):06d}.parquet"
    with storage.atomic_file(storage.join(folder, name)) as path:
        pq.write_table(part, path)
    return pa.concat_tables([plan, part])


def shards_of(plan: pa.Table) -> list[PlannedShard]:
    shards: dict[int, list[tuple[str, str, str]]] = {}
    for row in plan.to_pylist():
        shards.setdefault(row["shard"], []).append((row["clip_id"], row["recording_id"], row["source"]))
    return [PlannedShard(index, clips) for index, clips in sorted(shards.items())]
