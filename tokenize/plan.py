"""The plan: which clip goes into which shard. It is decided before any work, and only ever added to.

Layout below a tokens URI: ``meta.json`` (dVAE, settings) and ``tokenizer.json``, written once;
``plan/part-000000.parquet`` for each run that found new clips; ``shard-000000.json`` and then ``shard-000000.tar`` for
each shard; ``index.json`` over all of them. A shard exists or it does not; there is no other state, so a run that was
killed at any moment continues by being run again.

The plan says in which shard a clip belongs; the corpus says whether it is kept. A shard is up to date when it was made
of the very clips and texts that both name now. So clips that were taken out or filtered out leave their shard on the
next run, and only their shards are made again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.corpus.store import Corpus
from triforce.models.dvae import DVAE
from triforce.models.reading.front_end import front_end_kind, make_front_end
from triforce.models.release_files import TrainedNetwork, load_tokenizer_of
from triforce.models.text import clean_text
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.shards import load_tokenizer
from triforce.tokenize.token_sample import METADATA, WORDS

PLAN_SCHEMA = pa.schema(
    [("shard", pa.int32()), ("clip_id", pa.string()), ("recording_id", pa.string()), ("source", pa.string())]
)
ADDED = {"text": "bpe", "normalised": False}
"""Settings that came later, with what folders that do not name them have."""
FORMAT = 2
"""Version of the layout."""


@dataclass(frozen=True)
class PlannedShard:
    """A shard's number and the clips that belong into it."""

    index: int
    clips: list[tuple[str, str, str]]
    """Kept clips as ``(clip_id, recording_id, source)``, in the shard's order."""
    inputs_sha256: str
    """SHA-256 over the clips' ids and metadata, from which the shard is made."""


def open_tokens(config: TokenizeConfig, dvae: TrainedNetwork[DVAE]) -> dict:
    """Return ``meta.json`` of the tokens folder, which the first run writes.

    Raises ValueError for a folder that was begun with another dVAE or other settings, and where no clip is kept.
    """
    meta_uri = storage.join(config.tokens, "meta.json")
    given = None if config.init_from is None else load_tokenizer_of(config.init_from)
    text, normalised = (config.text, config.normalised) if given is None else front_end_kind(given)
    wanted = {
        "format": FORMAT,
        "dvae_hash": dvae.codes_hash,
        "clips_per_shard": config.clips_per_shard,
        "num_codes": dvae.model.config.num_codes,
        "text": text,
        "normalised": normalised,
    }
    if storage.exists(meta_uri):
        meta = read_meta(config.tokens)
        for key, value in wanted.items():
            begun = meta.get(key, ADDED.get(key))
            if begun != value:
                raise ValueError(
                    f"{config.tokens}: begun with {key} {begun}, this run has {value}; shards of both would not belong "
                    "together. Use another tokens folder, or remove this one"
                )
        if given is not None and given.to_json() != load_tokenizer(config.tokens).to_json():
            raise ValueError(
                f"{config.tokens}: begun with another text front end than init_from {config.init_from} has; use "
                "another tokens folder"
            )
        return meta
    modality = modality_of(dvae.card)
    texts = kept_clips(Corpus(config.corpus), modality)["text"].to_pylist()
    if not texts:
        raise ValueError(f"{config.corpus}: no {modality} clip to keep; run `triforce ingest`, or loosen the filters")
    cleaned = (clean_text(text or "") for text in texts)
    size = config.text_vocabulary_size
    tokenizer = given or make_front_end(config.text, cleaned, size, normalised=config.normalised)
    storage.write_bytes(storage.join(config.tokens, "tokenizer.json"), tokenizer.to_json().encode())
    meta = {key: value for key, value in wanted.items() if key not in ADDED or value != ADDED[key]} | {
        "modality": modality,
        "compression": list(dvae.model.config.compression),
        "text_vocabulary_size": tokenizer.size,
    }
    storage.write_bytes(meta_uri, json.dumps(meta, indent=1, sort_keys=True).encode())
    return meta


def read_meta(tokens: str) -> dict:
    """Return ``meta.json``; raises FileNotFoundError where no run began this folder."""
    uri = storage.join(tokens, "meta.json")
    if not storage.exists(uri):
        raise FileNotFoundError(f"{tokens}: no meta.json here; give a folder that `triforce tokenize` wrote")
    return json.loads(storage.read_bytes(uri))


def read_plan(tokens: str) -> pa.Table:
    """Return every planned clip, in the order of shards."""
    folder = storage.join(tokens, "plan")
    tables = []
    for name in storage.list_files(folder, ".parquet"):
        fs, path = storage.resolve(storage.join(folder, name))
        with fs.open(path, "rb") as file:
            tables.append(pq.read_table(file, schema=PLAN_SCHEMA, partitioning=None))
    return pa.concat_tables(tables) if tables else PLAN_SCHEMA.empty_table()


def modality_of(card: dict) -> str:
    """Return the medium that a dVAE is for, by its card."""
    return card.get("modality") or "speech"


def kept_clips(corpus: Corpus, modality: str, *, words: bool = False) -> pa.Table:
    """Return the kept clips of a medium without their bytes, sorted by source, recording and time; with their words
    where these decide what a shard holds.
    """
    table = corpus.clips(["clip_id", *METADATA, *([WORDS] if words else [])], kept_only=True)
    named = table["modality"].fill_null("speech")
    table = table.set_column(table.schema.get_field_index("modality"), "modality", named)
    table = table.filter(pc.equal(named, modality))
    return table.sort_by([("source", "ascending"), ("clip_id", "ascending")])


def extend_plan(config: TokenizeConfig) -> list[PlannedShard]:
    """Plan the kept clips that are in no shard yet, and return all shards that have clips; call `open_tokens` first."""
    meta = read_meta(config.tokens)
    plan, kept = read_plan(config.tokens), kept_clips(Corpus(config.corpus), meta["modality"], words="text" in meta)
    known = set(plan["clip_id"].to_pylist())
    new = kept.filter(pa.array([clip_id not in known for clip_id in kept["clip_id"].to_pylist()], pa.bool_()))
    if new.num_rows:
        first = (max(plan["shard"].to_pylist()) + 1) if plan.num_rows else 0
        shards = pa.array([first + i // config.clips_per_shard for i in range(new.num_rows)], pa.int32())
        part = new.select(PLAN_SCHEMA.names[1:]).add_column(0, "shard", shards).cast(PLAN_SCHEMA)
        folder = storage.join(config.tokens, "plan")
        name = f"part-{len(storage.list_files(folder, '.parquet')):06d}.parquet"
        with storage.atomic_file(storage.join(folder, name)) as path:
            pq.write_table(part, path)
        plan = pa.concat_tables([plan, part])
    return shards_of(plan, kept)


def shards_of(plan: pa.Table, kept: pa.Table) -> list[PlannedShard]:
    """Return the shards that a plan makes of the kept clips, without those that have lost all of theirs."""
    rows = {row["clip_id"]: row for row in kept.to_pylist()}
    members: dict[int, list[dict]] = {}
    for shard, clip_id in zip(plan["shard"].to_pylist(), plan["clip_id"].to_pylist(), strict=True):
        if clip_id in rows:
            members.setdefault(shard, []).append(rows[clip_id])
    return [
        PlannedShard(
            index,
            [(row["clip_id"], row["recording_id"], row["source"]) for row in found],
            hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest(),
        )
        for index, found in sorted(members.items())
    ]
