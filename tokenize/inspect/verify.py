"""Verification of a set of shards: every kept clip once, complete, in the codes of one dVAE."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from triforce.ingest import storage
from triforce.ingest.corpus.shard_names import shard_name, stale_mark
from triforce.ingest.corpus.store import Corpus
from triforce.models.dvae import DVAE
from triforce.models.reading.front_end import FrontEnd
from triforce.models.release_files import TrainedNetwork, require_dvae
from triforce.models.text import TextTokenizer, clean_text
from triforce.tokenize.encode import encode_media
from triforce.tokenize.plan import PlannedShard, kept_clips, read_meta, read_plan, shards_of
from triforce.tokenize.read import prepare_shard
from triforce.tokenize.shards import list_shards, load_tokenizer, read_samples, read_stats
from triforce.tokenize.token_sample import TokenSample

RECOMPUTE_POSITIONS = 4_096
"""Positions of a batch when clips are encoded again."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where."""

    kind: str
    place: str
    detail: str


@dataclass
class Verification:
    """Counts of what was checked, and the faults found."""

    faults: list[Fault] = field(default_factory=list)
    num_shards: int = 0
    num_clips: int = 0
    num_codes: int = 0
    num_failed: int = 0
    """Kept clips that tokenizing could not read; their shard's record gives the reason for each."""
    num_recomputed: int = 0

    def add(self, kind: str, place: str, detail: str) -> None:
        """Record a fault."""
        self.faults.append(Fault(kind, place, detail))


def verify_tokens(
    tokens: str,
    corpus: str,
    release: str,
    *,
    recompute: int = 0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Read every byte of every shard and check it against the corpus and the dVAE.

    ``recompute`` clips, drawn by ``seed``, are also encoded again from the corpus and compared bit for bit.
    """
    meta, dvae, found = read_meta(tokens), require_dvae(release), Verification()
    if meta["dvae_hash"] != dvae.codes_hash:
        found.add(
            "other dvae", tokens, f"made by dVAE {meta['dvae_hash'][:12]}, the release holds {dvae.codes_hash[:12]}"
        )
    plan, kept = read_plan(tokens), kept_clips(Corpus(corpus), meta["modality"], words="text" in meta)
    _check_plan(found, plan["clip_id"].to_pylist(), kept["clip_id"].to_pylist())
    shards = {shard.index: shard for shard in shards_of(plan, kept)}
    stats = read_stats(tokens)
    for name in sorted({uri.rsplit("/", 1)[-1] for uri in list_shards(tokens)} - set(map(shard_name, shards))):
        found.add("unplanned shard", name, "none of its clips is kept: run `triforce tokenize`, which removes it")
    seen: Counter[str] = Counter()
    wanted = _drawn(kept["clip_id"].to_pylist(), recompute, seed)
    for done, shard in enumerate(shards.values(), 1):
        samples = _check_shard(found, tokens, shard, stats.get(shard.index), dvae)
        seen.update(sample.clip_id for sample in samples)
        _recompute(found, corpus, shard, [s for s in samples if s.clip_id in wanted], dvae, tokens)
        on_progress(done, len(shards))
    found.num_shards = len(shards)
    for clip_id in (clip_id for clip_id, count in seen.items() if count > 1):
        found.add("twice", clip_id, f"in the shards {seen[clip_id]} times")
    _check_index(found, tokens, dvae.codes_hash, stats)
    return found


def _check_plan(found: Verification, planned: list[str], kept: list[str]) -> None:
    for clip_id, count in Counter(planned).items():
        if count > 1:
            found.add("planned twice", clip_id, f"{count} times in the plan")
    missing = sorted(set(kept) - set(planned))
    if missing:
        found.add("not planned", missing[0], f"{len(missing)} kept clips are in no shard yet: run `triforce tokenize`")


def _check_shard(
    found: Verification, tokens: str, shard: PlannedShard, stats: dict[str, Any] | None, dvae: TrainedNetwork[DVAE]
) -> list[TokenSample]:
    """Check one shard, and return its samples as far as they can be read."""
    name = shard_name(shard.index)
    uri = storage.join(tokens, name)
    if not storage.exists(uri) or stats is None:
        found.add("missing", name, f"{len(shard.clips)} clips are not tokenized yet: run `triforce tokenize`")
        return []
    if storage.exists(stale_mark(uri)) or stats.get("inputs_sha256") != shard.inputs_sha256:
        found.add("stale", name, "the corpus names other clips or texts by now: run `triforce tokenize`")
    data = storage.read_bytes(uri)
    if (digest := hashlib.sha256(data).hexdigest()) != stats["sha256"]:
        found.add("checksum", name, f"SHA-256 {digest[:12]}, its record says {stats['sha256'][:12]}: remove the shard")
    try:
        samples = list(read_samples(io.BytesIO(data), uri))
    except (ValueError, OSError, tarfile.TarError) as error:
        found.add("unreadable", name, str(error))
        return []
    failed = {failure["clip_id"] for failure in stats["failed"]}
    expected = [clip_id for clip_id, _, _ in shard.clips if clip_id not in failed]
    if [sample.clip_id for sample in samples] != expected:
        lost = sorted(set(expected) - {sample.clip_id for sample in samples})
        found.add("other clips", name, f"{len(samples)} samples, {len(expected)} expected; missing {lost[:3]}")
    counts = {"num_clips": len(samples), "num_codes": sum(sample.codes.size for sample in samples)}
    for key, value in counts.items():
        if stats[key] != value:
            found.add("count", name, f"{key} {value}, its record says {stats[key]}")
    tokenizer = load_tokenizer(tokens)
    for sample in samples:
        for detail in sample_faults(sample, dvae, tokenizer):
            found.add("sample", f"{name}/{sample.clip_id}", detail)
    found.num_clips += len(samples)
    found.num_codes += counts["num_codes"]
    found.num_failed += len(failed)
    return samples


def sample_faults(sample: TokenSample, dvae: TrainedNetwork[DVAE], tokenizer: FrontEnd) -> Iterator[str]:
    """Yield what is wrong with one sample: type, grid and range of its codes, and its text."""
    config = dvae.model.config
    if sample.codes.dtype != np.uint16 or sample.text.dtype != np.uint16:
        yield f"arrays of {sample.codes.dtype} and {sample.text.dtype}, not uint16"
    grid = config.grid(tuple(sample.metadata["size"]))
    if sample.codes.shape != grid:
        yield f"codes of shape {sample.codes.shape}, its size {sample.metadata['size']} makes a grid of {grid}"
    if sample.codes.size and int(sample.codes.max()) >= config.num_codes:
        yield f"code {int(sample.codes.max())}: this dVAE has 0 to {config.num_codes - 1}"
    if sample.text.size and int(sample.text.max()) >= tokenizer.size:
        yield f"text piece {int(sample.text.max())}: the tokenizer has 0 to {tokenizer.size - 1}"
    elif not _says(sample, tokenizer):
        yield f"text pieces say {tokenizer.decode(sample.text)!r}, the text is {sample.metadata['text']!r}"


def _says(sample: TokenSample, tokenizer: FrontEnd) -> bool:
    """Whether the pieces of a sample are those of its text; BPE may have cut them otherwise and still say it."""
    text = clean_text(sample.metadata["text"] or "")
    if isinstance(tokenizer, TextTokenizer):
        return tokenizer.decode(sample.text) == text
    return np.array_equal(tokenizer.encode(text), sample.text)


def _drawn(clip_ids: list[str], count: int, seed: int) -> set[str]:
    generator = np.random.default_rng(seed)
    return set(generator.choice(sorted(clip_ids), min(count, len(clip_ids)), replace=False)) if count else set()


def _recompute(
    found: Verification,
    corpus: str,
    shard: PlannedShard,
    samples: list[TokenSample],
    dvae: TrainedNetwork[DVAE],
    tokens: str,
) -> None:
    """Encode these samples' clips again, and compare."""
    if not samples:
        return
    ids = {sample.clip_id for sample in samples}
    part = PlannedShard(shard.index, [clip for clip in shard.clips if clip[0] in ids], shard.inputs_sha256)
    prepared = prepare_shard(Corpus(corpus), part, dvae.card, load_tokenizer(tokens))
    codes = encode_media(dvae.model, prepared.media, RECOMPUTE_POSITIONS, torch.device("cpu"))
    by_id = {clip["clip_id"]: grid for clip, grid in zip(prepared.clips, codes, strict=True)}
    for sample in samples:
        again = by_id.get(sample.clip_id)
        if again is None or again.shape != sample.codes.shape:
            found.add("recompute", sample.clip_id, "encoded again it has another length, or cannot be read")
        elif differing := int((again != sample.codes).sum()):
            found.add("recompute", sample.clip_id, f"{differing} of {again.size} codes differ from those stored")
    found.num_recomputed += len(samples)


def _check_index(found: Verification, tokens: str, dvae_hash: str, stats: dict[int, dict[str, Any]]) -> None:
    uri = storage.join(tokens, "index.json")
    if not storage.exists(uri):
        found.add("missing", "index.json", "the last run did not end: run `triforce tokenize`")
        return
    index = json.loads(storage.read_bytes(uri))
    if index["dvae_hash"] != dvae_hash:
        found.add("other dvae", "index.json", f"names dVAE {index['dvae_hash'][:12]}, not {dvae_hash[:12]}")
    listed = [shard | {"failed": len(shard["failed"])} for _, shard in sorted(stats.items())]
    if index["shards"] != listed:
        found.add("index", "index.json", "does not list the shards that are there: run `triforce tokenize`")
    for key in ("num_clips", "num_codes", "num_text"):
        if index["totals"][key] != sum(shard[key] for shard in stats.values()):
            found.add("index", "index.json", f"total {key} {index['totals'][key]} is not the sum over the shards")
