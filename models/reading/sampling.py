"""Reading texts aloud with the GPT, all side by side: each word once and in its order. `pool` tells how."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from triforce.models.gpt import GPT
from triforce.models.gpt_sampling import Candidate, SamplingConfig
from triforce.models.reading.pool import ReadingPool
from triforce.models.reading.rows import make_script
from triforce.models.vocabulary import Segment


def read_aloud(
    gpt: GPT,
    texts: Sequence[Sequence[np.ndarray]],
    config: SamplingConfig | None = None,
    *,
    seeds: Sequence[int] | None = None,
    prefix: Sequence[Segment] = (),
    half: bool = False,
    graph: bool = False,
    num_rows: int | None = None,
    forward: Callable[..., torch.Tensor] | None = None,
    cache_dtype: torch.dtype | None = None,
) -> list[list[Candidate]]:
    """Draw ``config.num_candidates`` readings of each text; the most likely first.

    A text is its words, each the pieces ``(L,)`` of a word from its boundary on (`PhonemeTokenizer.split`). ``prefix``
    are segments before the text, such as a voice. A text is drawn by its own seed, whatever lies beside it.
    ``num_rows`` are drawn side by side, by default all; the rest as in `ReadingPool`. Raises ValueError where a text
    leaves no room for its codes.
    """
    config = config or SamplingConfig()
    scripts = []
    for number, words in enumerate(texts):
        try:
            scripts.append(make_script(gpt.config, words, config, prefix))
        except ValueError as error:
            raise ValueError(f"text {number}: {error}") from error
    if not texts:
        return []
    rows = len(texts) * config.num_candidates
    rows = min(rows, num_rows or rows)
    longest = max(script.longest for script in scripts)
    pool = ReadingPool(
        gpt,
        num_rows=rows,
        num_lines=rows * len(scripts[0].prompts),
        num_slots=longest,
        forward=forward,
        cache_dtype=cache_dtype,
        half=half,
        graph=graph,
    )
    seeds = range(len(texts)) if seeds is None else seeds
    # The longest first, so that none is left alone at the end.
    order = sorted(range(len(texts)), key=lambda number: -len(scripts[number].pieces))
    readings = {n: pool.add(texts[n], config, seed=seeds[n], prefix=prefix) for n in order}
    pool.run()
    return [readings[number].candidates for number in range(len(texts))]
