"""Verification of a set of shards: every kept clip once, complete, in the codes of one dVAE."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from triforce.ingest import storage
from triforce.ingest.corpus.clip_index import KeptClips
from triforce.ingest.corpus.records import make_clip_id
from triforce.ingest.corpus.shard_names import shard_name, stale_mark
from triforce.ingest.corpus.store import Corpus
from triforce.models.dvae import DVAE
from triforce.models.reading.front_end import FrontEnd
from triforce.models.release_files import TrainedNetwork, require_dvae
from triforce.models.text import TextTokenizer, clean_text
from triforce.tokenize.encode import encode_media
from triforce.tokenize.plan import PlannedShard, planned_shards, read_meta
from triforce.tokenize.planning.inputs import InputHasher
from triforce.tokenize.planning.plan_files import Member, MemberReader, plan_batches, planned_by_recording
from triforce.tokenize.read import prepare_shard
from triforce.tokenize.shards import list_shards, load_tokenizer, read_samples, read_shard, read_stats
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
    shards = _check_plan(found, tokens, Corpus(corpus))
    stats = read_stats(tokens)
    named = {shard_name(shard.index) for shard in shards}
    for name in sorted({uri.rsplit("/", 1)[-1] for uri in list_shards(tokens)} - named):
        found.add("unplanned shard", name, "none of its clips is kept: run `triforce tokenize`, which removes it")
    strangers: Counter[str] = Counter()
    drawn = _drawn([shard.num_clips for shard in shards], recompute, seed)
    plan = MemberReader(tokens)
    hasher = InputHasher(Corpus(corpus), meta["modality"], words="text" in meta)
    for done, shard in enumerate(shards, 1):
        members = plan.members(shard.index)
        expected, made_of = hasher(members)
        samples = _check_shard(found, tokens, shard.index, expected, made_of, stats.get(shard.index), dvae)
        strangers.update({sample.clip_id for sample in samples} - {member.clip_id for member in members})
        wanted = {expected[row] for row in drawn.get(done - 1, []) if row < len(expected)}
        _recompute(found, corpus, members, [s for s in samples if s.clip_id in wanted], dvae, tokens)
        on_progress(done, len(shards))
    found.num_shards = len(shards)
    _check_strangers(found, tokens, strangers)
    _check_index(found, tokens, dvae.codes_hash, stats)
    return found


def _check_plan(found: Verification, tokens: str, corpus: Corpus) -> list[PlannedShard]:
    for (_, recording_id), parts in itertools.groupby(planned_by_recording(tokens), key=lambda clips: clips[:2]):
        starts, counts = np.unique(np.concatenate([part.starts for part in parts]), return_counts=True)
        for start, count in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            found.add("planned twice", make_clip_id(recording_id, start), f"{count} times in the plan")
    missing: list[str] = []
    num_missing = 0

    def note(clips: KeptClips, starts: np.ndarray) -> np.ndarray:
        nonlocal num_missing
        missing[1:] = []
        missing.append(make_clip_id(clips.recording_id, int(starts[0])))
        num_missing += len(starts)
        return np.empty(0, np.int64)

    shards = planned_shards(tokens, corpus, note)
    if missing:
        found.add("not planned", missing[0], f"{num_missing} kept clips are in no shard yet: run `triforce tokenize`")
    return shards


def _check_strangers(found: Verification, tokens: str, strangers: Counter[str]) -> None:
    """Report samples of a shard they are not planned into which are in their own as well, or in several others."""
    homes: dict[int, set[str]] = {}
    for batch in plan_batches(tokens) if strangers else ():
        some = batch.filter(pc.is_in(batch["clip_id"], pa.array(strangers))).to_pydict()
        for clip_id, index in zip(some["clip_id"], some["shard"], strict=True):
            homes.setdefault(index, set()).add(clip_id)
    for index, wanted in sorted(homes.items()):
        uri = storage.join(tokens, shard_name(index))
        with contextlib.suppress(OSError, ValueError, tarfile.TarError):
            strangers.update(sample.clip_id for sample in read_shard(uri) if sample.clip_id in wanted)
    for clip_id in (clip_id for clip_id, count in strangers.items() if count > 1):
        found.add("twice", clip_id, f"in the shards {strangers[clip_id]} times")


def _check_shard(
    found: Verification,
    tokens: str,
    index: int,
    kept: list[str],
    made_of: str,
    stats: dict[str, Any] | None,
    dvae: TrainedNetwork[DVAE],
) -> list[TokenSample]:
    """Check one shard, and return its samples as far as they can be read. ``kept`` are the ids of its clips that are
    kept, ``made_of`` the hash of its inputs.
    """
    name = shard_name(index)
    uri = storage.join(tokens, name)
    if not storage.exists(uri) or stats is None:
        found.add("missing", name, f"{len(kept)} clips are not tokenized yet: run `triforce tokenize`")
        return []
    if storage.exists(stale_mark(uri)) or stats.get("inputs_sha256") != made_of:
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
    expected = [clip_id for clip_id in kept if clip_id not in failed]
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


def _drawn(sizes: list[int], count: int, seed: int) -> dict[int, list[int]]:
    """Draw ``count`` clips of shards of these sizes; return the drawn rows by the shards' places in the list."""
    bounds = np.cumsum([0, *sizes])
    chosen = np.random.default_rng(seed).choice(bounds[-1], min(count, bounds[-1]), replace=False) if count else []
    drawn: dict[int, list[int]] = {}
    for position in sorted(int(each) for each in chosen):
        place = int(np.searchsorted(bounds, position, side="right")) - 1
        drawn.setdefault(place, []).append(position - int(bounds[place]))
    return drawn


def _recompute(
    found: Verification,
    corpus: str,
    members: list[Member],
    samples: list[TokenSample],
    dvae: TrainedNetwork[DVAE],
    tokens: str,
) -> None:
    """Encode these samples' clips again, and compare."""
    if not samples:
        return
    ids = {sample.clip_id for sample in samples}
    some = [member for member in members if member.clip_id in ids]
    prepared = prepare_shard(Corpus(corpus), 0, some, dvae.card, load_tokenizer(tokens))
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
