"""Actors of the Ray Data pipeline: read a planned shard, encode it, write it.

Each takes and returns one row, the shard's, so that names and bytes depend on the plan alone: not on the order of rows,
on which worker did what, or on how often something was tried.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import torch

from triforce.ingest import storage
from triforce.ingest.corpus.shard_names import shard_name, stale_mark
from triforce.ingest.corpus.store import Corpus
from triforce.models.memory import reuse_freed_memory
from triforce.models.reading.front_end import load_front_end
from triforce.models.release_files import require_dvae
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.encode import encode_media
from triforce.tokenize.plan import PlannedShard
from triforce.tokenize.planning.plan_files import MemberReader
from triforce.tokenize.read import PreparedShard, prepare_shard
from triforce.tokenize.shards import write_shard
from triforce.tokenize.token_sample import TokenSample


def planned_row(shard: PlannedShard) -> dict[str, Any]:
    """Return the row of a planned shard, as `ReadActor` takes it."""
    return {"tokens": shard.tokens, "index": shard.index, "num_planned": shard.num_clips}


class ReadActor:
    """A Ray actor that runs ahead of the encoders and reads a planned shard's clips as the dVAE of ``card`` takes them.

    It is an actor because Ray ends the processes of idle tasks that reserve no core, and starting new ones for the next
    shards takes a third of two cores' time.
    """

    def __init__(self, corpus: str, card: dict[str, Any], tokenizer_json: str, refine_times: bool) -> None:
        torch.set_num_threads(1)
        self.refine_times = refine_times
        self.corpus, self.card, self.tokenizer = Corpus(corpus), card, load_front_end(tokenizer_json)
        self.plan: MemberReader | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.plan is None:
            self.plan = MemberReader(row["tokens"])
        index = int(row["index"])
        members = self.plan.members(index)
        prepared = prepare_shard(self.corpus, index, members, self.card, self.tokenizer, refine_times=self.refine_times)
        return prepared.to_row() | {"num_planned": row["num_planned"]}


class EncodeActor:
    """A Ray actor that holds the dVAE and encodes media to codes."""

    def __init__(self, config: TokenizeConfig) -> None:
        if config.device == "cpu":
            torch.set_num_threads(max(1, int(config.cpus_per_worker)))
            reuse_freed_memory()
        self.batch_positions, self.device = config.batch_positions, torch.device(config.device)
        self.dvae = require_dvae(config.release, self.device).model

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        started = time.monotonic()
        codes = encode_media(self.dvae, PreparedShard.from_row(row).media, self.batch_positions, self.device)
        flat = np.concatenate([grid.ravel() for grid in codes]) if codes else np.zeros(0, np.uint16)
        rest = {key: value for key, value in row.items() if key != "media"}
        return rest | {
            "codes": flat,
            "grids": json.dumps([grid.shape for grid in codes]),
            "encode_s": time.monotonic() - started,
        }


class WriteActor:
    """A Ray actor that writes an encoded shard to its tar file, the commit; run twice, it writes the same bytes."""

    def __init__(self, tokens: str) -> None:
        self.tokens = tokens

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        about, flat, samples = json.loads(row["about"]), np.asarray(row["codes"]), []
        for clip, grid in zip(about["clips"], json.loads(row["grids"]), strict=True):
            count = int(np.prod(grid))
            text = np.array(clip["text_ids"], np.uint16)
            samples.append(TokenSample(clip["clip_id"], flat[:count].reshape(grid), text, clip["metadata"]))
            flat = flat[count:]
        name = shard_name(int(row["index"]))
        known = {
            "shard": name,
            "inputs_sha256": row["inputs_sha256"],
            "num_gone": int(row["num_planned"]) - len(samples) - len(about["failed"]),
            "failed": about["failed"],
            "num_refined": about["num_refined"],
        }
        uri = storage.join(self.tokens, name)
        stats = write_shard(uri, samples, known)
        storage.remove(stale_mark(uri))
        return {
            "index": int(row["index"]),
            "num_clips": stats["num_clips"],
            "encode_s": float(row["encode_s"]),
            "inputs_sha256": row["inputs_sha256"],
        }
