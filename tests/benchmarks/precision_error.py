"""What a precision of the weights changes in a voice that reads: ``python tests/benchmarks/precision_error.py``.

Along readings that float32 drew: mean and largest difference of the log-probabilities of codes, and the divergence of
the distributions (Kullback-Leibler), beside the entropy of what is drawn. Greedy readings are compared code by code up
to the first that differs, and by their number of codes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from triforce.flows.examples.piper.prepare import unseen_texts
from triforce.models.blocks.kv_cache import SlotCache
from triforce.models.blocks.positions import text_pointers
from triforce.models.decoding.compiler import find_compiler
from triforce.models.decoding.network import PackedNetwork
from triforce.models.decoding.precision import Compiled, Precision
from triforce.models.gpt import GPT
from triforce.models.gpt_sampling import Candidate, SamplingConfig
from triforce.models.reading.interleave import begins_unit, interleave
from triforce.models.release import Release
from triforce.models.text import clean_text
from triforce.models.vocabulary import Segment
from triforce.models.voice.bundled import VOICE


def document(gpt: GPT, pieces: np.ndarray, found: Candidate) -> torch.Tensor:
    """Ids ``(1, T)`` of a text and its reading."""
    vocabulary = gpt.config.vocabulary
    assert found.units is not None
    unit = np.cumsum(begins_unit(pieces, gpt.config.reading_units)) - 1
    read = unit < len(found.units)
    codes = interleave(found.codes, pieces[read], found.units[unit[read]], vocabulary.modality("speech").num_codes)
    segments = [Segment("text", pieces), Segment("reading", codes)]
    return torch.from_numpy(np.concatenate([vocabulary.segment_ids(segment) for segment in segments]))[None]


@torch.inference_mode()
def scores(network: PackedNetwork, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of codes at each code of a document, fed token by token behind the text."""
    gpt, vocabulary = network.gpt, network.config.vocabulary
    pointers = text_pointers(ids, gpt.reads, gpt.begins, None) if gpt.config.pointer else None
    cache = SlotCache.empty(gpt.config, 1, ids.shape[1], ids.device, network.cache_dtype)
    first = int((ids[0] == vocabulary.begin("reading")).nonzero()[0]) + 1
    hidden = []
    for start, stop in ((0, first), *((at, at + 1) for at in range(first, ids.shape[1] - 1))):
        places = torch.arange(start, stop)[None]
        cache.slots = places
        given = None if pointers is None else pointers[:, start:stop]
        hidden.append(network(ids[:, start:stop], positions=places, pointers=given, cache=cache)[0, -1:])
    offset = vocabulary.offset("speech")
    codes = torch.arange(offset, offset + vocabulary.modality("speech").num_codes)
    is_code = torch.isin(ids[0, first:], codes)
    return network.head(codes)(torch.cat(hidden)[is_code]).log_softmax(-1)


def agreement(ones: Sequence[Candidate], others: Sequence[Candidate]) -> tuple[float, float, float]:
    """Share of greedy readings that are the same, of codes before the first that differs, and mean relative difference
    of length.
    """
    same, before, total, lengths = 0, 0, 0, []
    for one, other in zip(ones, others, strict=True):
        shared = min(len(one.codes), len(other.codes))
        differs = np.flatnonzero(one.codes[:shared] != other.codes[:shared])
        same += np.array_equal(one.codes, other.codes)
        before += int(differs[0]) if len(differs) else shared
        total += len(one.codes)
        lengths.append(abs(len(one.codes) - len(other.codes)) / max(1, len(one.codes)))
    return same / len(ones), before / max(1, total), float(np.mean(lengths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", nargs="?", default=VOICE)
    parser.add_argument("--limit", type=int, default=20, help="sentences")
    options = parser.parse_args()
    exact = Release.load(options.release, precision="float32")
    if not exact.reads or exact.gpt is None:
        parser.error(f"{options.release}: not a voice that reads word by word")
    texts = unseen_texts()[: options.limit]
    drawn = exact.draw_all(texts, seeds=list(range(len(texts))))
    greedy = SamplingConfig(temperature=0)
    known = [found[0] for found in exact.draw_all(texts, sampling=greedy)]
    pieces = [exact.tokenizer.encode(clean_text(text)) for text in texts]
    rows = [document(exact.gpt, each, found[0]) for each, found in zip(pieces, drawn, strict=True)]
    wanted = torch.cat([scores(PackedNetwork(exact.gpt, "float32"), ids) for ids in rows])
    entropy = -(wanted.exp() * wanted).sum(-1).mean()
    print(f"{len(texts)} sentences, {len(wanted)} codes, entropy {entropy:.3f} nats")
    print("| precision | mean difference of log p, weighted by p | largest, p > 0.001 | KL, nats | greedy: same |")
    kinds: list[tuple[Precision, Compiled]] = [("bfloat16", "no"), ("int8", "no")]
    if find_compiler() is not None:
        kinds.append(("int8", "yes"))
    for precision, compiled in kinds:
        found = torch.cat([scores(PackedNetwork(exact.gpt, precision, compiled), ids) for ids in rows])
        difference, probability = (found - wanted).abs(), wanted.exp()
        divergence = (probability * (wanted - found)).sum(-1).mean()
        release = Release.load(options.release, precision=precision, compiled=compiled)
        other = [c[0] for c in release.draw_all(texts, sampling=greedy)]
        same, before, lengths = agreement(known, other)
        print(
            f"| {release.drawn_in} | {(difference * probability).sum(-1).mean():.4f} "
            f"| {difference[probability > 1e-3].max():.3f} | {divergence:.6f} "
            f"| {same:.0%} of readings, {before:.0%} of codes before the first that differs, "
            f"lengths differ by {lengths:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
