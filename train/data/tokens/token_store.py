"""The token samples of one or more shard sets: by group and row, and by what joins the sets.

A group is a shard. How many samples it holds is read from ``index.json``; its tar is opened when a sample of it is
asked for, and the last ones opened are kept up to a number of bytes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from triforce.ingest import storage
from triforce.ingest.corpus.shard_names import STALE_ENDING, stale_mark
from triforce.models.text import clean_text
from triforce.tokenize.shards import list_shards, read_shard
from triforce.tokenize.token_sample import TokenSample
from triforce.train.data.order import GroupCache


class Where(NamedTuple):
    """Group and row of a sample."""

    group: int
    row: int


class _Group(NamedTuple):
    uri: str
    set_index: int


class TokenStore:
    """Shard sets, one medium each, side by side."""

    def __init__(self, uris: list[str], max_bytes: int) -> None:
        self.metas = [_read_json(uri, "meta.json") for uri in uris]
        self.modalities = [meta.get("modality", "speech") for meta in self.metas]
        if len(set(self.modalities)) < len(uris):
            raise ValueError(f"shard sets of {', '.join(self.modalities)}: give one set a medium")
        self._groups: list[_Group] = []
        self.group_sizes: list[int] = []
        self._indices = [_read_json(uri, "index.json")["shards"] for uri in uris]
        for set_index, uri in enumerate(uris):
            counts = {shard["shard"]: shard["num_clips"] for shard in self._indices[set_index]}
            for shard in list_shards(uri):
                name = shard.rsplit("/", 1)[-1]
                if name not in counts:
                    raise ValueError(f"{shard} is not in {uri}/index.json: run `triforce tokenize`, which renews it")
                self._groups.append(_Group(shard, set_index))
                self.group_sizes.append(counts[name])
            _refuse_stale(uri)
        self._cache: GroupCache[list[TokenSample]] = GroupCache(self._read, max_bytes)

    def __len__(self) -> int:
        return sum(self.group_sizes)

    def sample(self, where: Where) -> TokenSample:
        return self._cache[where.group][where.row]

    def modality(self, where: Where) -> str:
        return self.modalities[self._groups[where.group].set_index]

    def grid(self, modality: str) -> tuple[int, ...] | None:
        """The shape of the medium's codes where it has more axes than one and its first shard knows no other."""
        set_index = self.modalities.index(modality)
        first = next((i for i, group in enumerate(self._groups) if group.set_index == set_index), None)
        shapes = {sample.codes.shape for sample in self._cache[first]} if first is not None else set()
        return next(iter(shapes)) if len(shapes) == 1 and len(next(iter(shapes))) > 1 else None

    def codes_per_piece(self) -> float:
        """Codes of the first medium for each of its text pieces. Raises ValueError where there is no text."""
        num_codes, num_text = (sum(shard[key] for shard in self._indices[0]) for key in ("num_codes", "num_text"))
        if not num_text:
            raise ValueError(f"side_by_side: the {self.modalities[0]} shards have no text; leave it out")
        return num_codes / num_text

    def characters(self) -> str:
        """The characters of the texts of each shard's first 512 samples, sorted: a rarer one is not learnt."""
        found: set[str] = set()
        for group in range(len(self._groups)):
            found.update(*(clean_text(sample.metadata.get("text") or "") for sample in self._cache[group][:512]))
        return "".join(sorted(found))

    def by_field(self, field: str, keep: Callable[[str], bool]) -> dict[str, dict[Any, list[Where]]]:
        """For each medium, where the samples with a value of ``field`` are. Reads every shard once."""
        found: dict[str, dict[Any, list[Where]]] = {name: defaultdict(list) for name in self.modalities}
        for group in range(len(self._groups)):
            for row, sample in enumerate(self._cache[group]):
                if keep(sample.clip_id):
                    found[self.modality(Where(group, row))][join_value(sample, field)].append(Where(group, row))
        return found

    def _read(self, group: int) -> tuple[list[TokenSample], int]:
        uri = self._groups[group].uri
        samples = list(read_shard(uri))
        if len(samples) != self.group_sizes[group]:
            raise ValueError(
                f"{uri} holds {len(samples)} samples, index.json says {self.group_sizes[group]}: "
                "run `triforce tokenize`"
            )
        return samples, sum(sample.codes.nbytes + sample.text.nbytes + 1000 for sample in samples)


def join_value(sample: TokenSample, field: str) -> Any:
    """What a sample is joined by: its id, or a field of its metadata."""
    return sample.clip_id if field == "clip_id" else sample.metadata.get(field)


def _read_json(uri: str, name: str) -> dict[str, Any]:
    path = storage.join(uri, name)
    if not storage.exists(path):
        raise FileNotFoundError(f"{uri}: no {name} here; run `triforce tokenize`")
    return json.loads(storage.read_bytes(path))


def _refuse_stale(uri: str) -> None:
    stale = storage.list_files(uri, STALE_ENDING)
    if stale:
        raise ValueError(
            f"{stale_mark(list_shards(uri)[0]).rsplit('/', 1)[0]}: {', '.join(stale[:3])}, {len(stale)} in all, mark "
            "shards with clips that were taken out of the corpus: run `triforce tokenize`, which makes them again"
        )
