"""The tokenize stage on Ray Data: planned shards go through actors that hold the dVAE, each shard committed by its
rename.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass

import ray
import torch

from triforce.ingest import storage
from triforce.ingest.corpus import Corpus
from triforce.models.mel import MelConfig
from triforce.models.release import require_dvae
from triforce.tokenize.cluster import connect
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.encode import encode_shard
from triforce.tokenize.plan import PlannedShard, extend_plan, load_tokenizer, open_tokens, shards_of
from triforce.tokenize.shards import list_shards, shard_name, stale_mark, write_shard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenizeSummary:
    num_shards: int
    num_new_shards: int
    num_clips: int
    num_codes: int
    num_failed: int
    hours: float
    wall_s: float


class ShardWriter:
    """A Ray Data actor: loads the dVAE once, then turns planned shards into tar files."""

    def __init__(self, config: TokenizeConfig) -> None:
        if config.device == "cpu":
            torch.set_num_threads(max(1, int(config.cpus_per_worker)))
        self.config = config
        self.device = torch.device(config.device)
        stage = require_dvae(config.release, self.device)
        self.dvae = stage.model
        self.mel_config = MelConfig.model_validate(stage.card["mel"])
        self.tokenizer = load_tokenizer(config.tokens)
        self.corpus = Corpus(config.corpus)

    def __call__(self, row: dict) -> dict:
        shard = PlannedShard(int(row["index"]), [tuple(clip) for clip in json.loads(row["clips"])])
        started = time.monotonic()
        samples, failed = encode_shard(
            self.corpus, shard, self.dvae, self.mel_config, self.tokenizer, self.config.batch_frames, self.device
        )
        stats = {
            "shard": shard_name(shard.index),
            "num_clips": len(samples),
            "num_codes": int(sum(sample.codes.size for sample in samples)),
            "num_text": int(sum(sample.text.size for sample in samples)),
            "duration_s": round(float(sum(sample.metadata["duration_s"] for sample in samples)), 3),
            "num_gone": len(shard.clips) - len(samples) - len(failed),
            "failed": failed,
        }
        uri = storage.join(self.config.tokens, shard_name(shard.index))
        storage.write_bytes(uri.removesuffix(".tar") + ".json", json.dumps(stats, indent=1, sort_keys=True).encode())
        write_shard(uri, samples)  # the commit
        storage.remove(stale_mark(uri))
        return {"index": shard.index, "num_clips": len(samples), "wall_s": time.monotonic() - started}


def tokenize_corpus(config: TokenizeConfig) -> TokenizeSummary:
    """Bring the shards up to date with the corpus. Ray is started here unless the caller or the cluster has done so."""
    started = time.monotonic()
    stage = require_dvae(config.release)
    storage.remove_stale_temporaries(config.tokens)
    open_tokens(config, stage.hash, stage.model.config.num_codes)
    shards = shards_of(extend_plan(config))
    done = {uri.rsplit("/", 1)[-1] for uri in list_shards(config.tokens) if not storage.exists(stale_mark(uri))}
    missing = [shard for shard in shards if shard_name(shard.index) not in done]
    log.info("tokenize: %d shards planned, %d to do", len(shards), len(missing))
    if missing:
        _run(config, missing)
    summary = _write_index(config, stage.hash, shards, len(missing), time.monotonic() - started)
    total = summary.num_clips + summary.num_failed
    if summary.num_failed > config.max_failed_share * total:
        raise ValueError(
            f"{summary.num_failed} of {total} clips failed, over max_failed_share {config.max_failed_share}; "
            f"the shard-*.json files in {config.tokens} name them and why"
        )
    return summary


def _run(config: TokenizeConfig, missing: list[PlannedShard]) -> None:
    connect()
    ray.data.DataContext.get_current().enable_progress_bars = False  # one line a finished shard says more
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    items = [{"index": shard.index, "clips": json.dumps(shard.clips)} for shard in missing]
    num_workers = min(config.num_workers, len(items))
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        ShardWriter,
        fn_constructor_args=(config,),
        compute=ray.data.ActorPoolStrategy(size=num_workers),
        num_cpus=config.cpus_per_worker,
        num_gpus=1 if config.device == "cuda" else None,
    )
    for finished, row in enumerate(dataset.iter_rows(), 1):
        progress = f"{finished} of {len(items)}"
        log.info("tokenize: shard %d (%d clips, %.1f s), %s", row["index"], row["num_clips"], row["wall_s"], progress)


def _write_index(
    config: TokenizeConfig, dvae_hash: str, shards: list[PlannedShard], num_new: int, wall_s: float
) -> TokenizeSummary:
    """``index.json``: counts per shard and in total, with the dVAE that the codes belong to."""
    stats = [
        json.loads(storage.read_bytes(storage.join(config.tokens, shard_name(s.index).replace(".tar", ".json"))))
        for s in shards
    ]
    totals = {key: sum(shard[key] for shard in stats) for key in ("num_clips", "num_codes", "num_text", "duration_s")}
    totals["num_failed"] = sum(len(shard["failed"]) for shard in stats)
    index = {
        "format": 1,
        "dvae_hash": dvae_hash,
        "totals": totals,
        "shards": [shard | {"failed": len(shard["failed"])} for shard in stats],
    }
    storage.write_bytes(storage.join(config.tokens, "index.json"), json.dumps(index, indent=1, sort_keys=True).encode())
    return TokenizeSummary(
        num_shards=len(shards),
        num_new_shards=num_new,
        num_clips=totals["num_clips"],
        num_codes=totals["num_codes"],
        num_failed=totals["num_failed"],
        hours=totals["duration_s"] / 3600,
        wall_s=wall_s,
    )
