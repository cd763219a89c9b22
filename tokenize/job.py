"""The tokenize job on Ray Data: readers feed actors that hold the dVAE, writers commit shard by shard.

The unit of work is the planned shard, not the clip. Ray Data blocks of clips would have no fixed bounds: what ends up
in a shard would depend on workers, retries and timing. With the shard as the row, a retried or repeated task can only
write the same bytes to the same name, so exactly-once needs no bookkeeping besides the files themselves.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from triforce.ingest import storage
from triforce.ingest.corpus.shard_names import STALE_ENDING, shard_name, stale_mark
from triforce.ingest.corpus.store import Corpus
from triforce.models.dvae import DVAE
from triforce.models.release_files import TrainedNetwork, load_card, require_dvae
from triforce.tokenize.actors import EncodeActor, ReadActor, WriteActor, planned_row
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.plan import PlannedShard, extend_plan, modality_of, open_tokens, read_meta
from triforce.tokenize.planning.inputs import Checked, InputHasher
from triforce.tokenize.planning.plan_files import MemberReader
from triforce.tokenize.ray_session import connect
from triforce.tokenize.shards import list_shards, load_tokenizer, read_stats, stats_uri

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenizeSummary:
    """Counts of all shards, and of this run."""

    num_shards: int
    num_new_shards: int
    """Shards that this run made."""
    num_clips: int
    num_codes: int
    num_failed: int
    """Clips that could not be read."""
    num_refined: int
    """Clips whose words have refined times."""
    hours: float
    """Hours of media in all shards."""
    wall_s: float
    """Time that this run took, s."""


def tokenize_corpus(config: TokenizeConfig) -> TokenizeSummary:
    """Bring the shards up to date with the corpus; starts Ray unless the caller or the cluster has done so.

    Raises ValueError where more clips fail than ``max_failed_share``, or another dVAE made the shards.
    """
    started = time.monotonic()
    dvae = require_dvae(config.release)
    storage.remove_stale_temporaries(config.tokens)
    open_tokens(config, dvae)
    shards = extend_plan(config)
    _remove_unplanned(config.tokens, shards)
    checked = Checked(config.tokens)
    missing = _missing(config, shards, checked)
    log.info("tokenize: %d shards planned, %d to do", len(shards), len(missing))
    if missing:
        stamps = {shard.index: shard.stamp for shard in missing}
        connect()
        for finished, row in enumerate(run_pipeline(config, missing), 1):
            checked.add(row["index"], stamps[row["index"]], row["inputs_sha256"])
            log.info(
                "tokenize: shard %d (%d clips, %.1f s), %d of %d",
                *(row["index"], row["num_clips"], row["encode_s"], finished, len(missing)),
            )
        checked.save()
    summary = write_index(config, dvae, len(missing), time.monotonic() - started)
    total = summary.num_clips + summary.num_failed
    if summary.num_failed > config.max_failed_share * total:
        raise ValueError(
            f"{summary.num_failed} of {total} clips failed, over max_failed_share {config.max_failed_share}; "
            f"the shard-*.json files in {config.tokens} name them and why"
        )
    return summary


def run_pipeline(config: TokenizeConfig, shards: list[PlannedShard]) -> Iterator[dict[str, Any]]:
    """Make these shards, in any order; yield a row for each as it is committed."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the log has a line for each finished shard
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    num_workers = min(config.num_workers, len(shards))
    reading = (
        config.corpus,
        load_card(config.release, "dvae"),
        load_tokenizer(config.tokens).to_json(),
        config.refine_times,
    )
    num_readers = min(num_workers * config.readers_per_worker, len(shards))
    _require_room(config, num_readers)
    dataset = (
        ray.data.from_items([planned_row(shard) for shard in shards], override_num_blocks=len(shards))
        .map(
            ReadActor,
            fn_constructor_args=reading,
            compute=ActorPoolStrategy(size=num_readers),
            num_cpus=config.cpus_per_reader,
        )
        .map(
            EncodeActor,
            fn_constructor_args=(config,),
            compute=ActorPoolStrategy(size=num_workers),
            num_cpus=config.cpus_per_worker,
            num_gpus=1 if config.device == "cuda" else None,
        )
        .map(WriteActor, fn_constructor_args=(config.tokens,), compute=ActorPoolStrategy(size=num_workers), num_cpus=0)
    )
    yield from dataset.iter_rows()


def _require_room(config: TokenizeConfig, num_readers: int) -> None:
    """Refuse readers that leave no core for a worker: they hold their cores to the end, so nothing would be done.

    On a cluster, which may grow, this is only a warning.
    """
    taken, there = num_readers * config.cpus_per_reader, ray.cluster_resources().get("CPU", 0)
    if taken + config.cpus_per_worker <= there:
        return
    message = (
        f"{num_readers} readers at cpus_per_reader={config.cpus_per_reader:g} and a worker at cpus_per_worker="
        f"{config.cpus_per_worker:g} reserve {taken + config.cpus_per_worker:g} cores and Ray has {there:g}: lower "
        "these, or readers_per_worker or num_workers"
    )
    if not os.environ.get("RAY_ADDRESS"):
        raise ValueError(message)
    log.warning("tokenize: %s, or wait until the cluster has grown", message)


def _missing(config: TokenizeConfig, shards: list[PlannedShard], checked: Checked) -> list[PlannedShard]:
    """Return the shards that do not exist, or were made of other clips or texts than the corpus has now.

    Clips are read of those shards alone whose files have changed since they were last looked at.
    """
    meta = read_meta(config.tokens)
    there = {uri.rsplit("/", 1)[-1] for uri in list_shards(config.tokens)}
    stats = read_stats(config.tokens)
    stale = {name.removesuffix(STALE_ENDING) + ".tar" for name in storage.list_files(config.tokens, STALE_ENDING)}
    plan = MemberReader(config.tokens)
    hasher = InputHasher(Corpus(config.corpus), meta["modality"], words="text" in meta)
    missing = []
    for shard in shards:
        name, made_of = shard_name(shard.index), stats.get(shard.index, {}).get("inputs_sha256")
        is_whole = name in there and name not in stale and made_of is not None
        if is_whole and (
            checked.holds(shard.index, shard.stamp, made_of) or hasher(plan.members(shard.index))[1] == made_of
        ):
            checked.add(shard.index, shard.stamp, made_of)
        else:
            missing.append(shard)
    checked.save()
    return missing


def _remove_unplanned(tokens: str, shards: list[PlannedShard]) -> None:
    """Remove the shards whose clips have all left the corpus."""
    planned = {shard_name(shard.index) for shard in shards}
    for uri in list_shards(tokens):
        if uri.rsplit("/", 1)[-1] not in planned:
            for each in (uri, stats_uri(uri), stale_mark(uri)):
                storage.remove(each)


def write_index(config: TokenizeConfig, dvae: TrainedNetwork[DVAE], num_new: int, wall_s: float) -> TokenizeSummary:
    """Write ``index.json``: counts per shard and in total, and the hash of the dVAE that made the codes."""
    stats = [found for _, found in sorted(read_stats(config.tokens).items())]
    totals = {key: sum(shard[key] for shard in stats) for key in ("num_clips", "num_codes", "num_text", "duration_s")}
    totals["num_failed"] = sum(len(shard["failed"]) for shard in stats)
    totals["num_refined"] = sum(shard.get("num_refined", 0) for shard in stats)
    totals["num_shards"] = len(stats)
    index = {
        "format": 1,
        "modality": modality_of(dvae.card),
        "dvae_hash": dvae.codes_hash,
        "totals": totals,
        "shards": [shard | {"failed": len(shard["failed"])} for shard in stats],
    }
    storage.write_bytes(storage.join(config.tokens, "index.json"), json.dumps(index, indent=1, sort_keys=True).encode())
    return TokenizeSummary(
        num_shards=len(stats),
        num_new_shards=num_new,
        num_clips=totals["num_clips"],
        num_codes=totals["num_codes"],
        num_failed=totals["num_failed"],
        num_refined=totals["num_refined"],
        hours=totals["duration_s"] / 3600,
        wall_s=wall_s,
    )
