"""Reading aloud with the GPT: many texts at once, each word once and in its order.

In a ``reading`` segment the network decides at each step between a code and going on to the next unit: a word, or one
of its pieces, as `GPTConfig.reading_units` has it. Going on writes the unit's pieces, which are known; behind the last
one it ends the segment. So it can neither skip nor repeat a word, nor stop early. All rows step together in tensors of
fixed shape, and nothing waits for the device but a check of every `CHECK_EVERY` steps, so that a step can be captured
as a CUDA graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch

from triforce.models.blocks.kv_cache import SlotCache
from triforce.models.blocks.positions import text_pointers
from triforce.models.gpt import GPT
from triforce.models.gpt_sampling import CHECK_EVERY, Candidate, SamplingConfig
from triforce.models.reading.interleave import begins_unit
from triforce.models.vocabulary import Segment

log = logging.getLogger(__name__)

NOTHING, UNIT, END = -1, -2, -3
"""Events of a step beside codes: a piece that was given or a row that had ended, the begin of a unit, the end."""
WARM_UP = 3
"""Steps before a CUDA graph is captured."""
SLOTS = 64
"""Slots of the cache are looked at in multiples of this: few shapes, and rows of a mask that lie as kernels like it."""


def read_aloud(
    gpt: GPT,
    texts: Sequence[Sequence[np.ndarray]],
    config: SamplingConfig | None = None,
    *,
    seeds: Sequence[int] | None = None,
    prefix: Sequence[Segment] = (),
    half: bool = False,
    graph: bool = False,
    forward: Callable[..., torch.Tensor] | None = None,
    cache_dtype: torch.dtype | None = None,
) -> list[list[Candidate]]:
    """Draw ``config.num_candidates`` readings of each text, all side by side; the most likely first.

    A text is its words, each the pieces ``(L,)`` of a word from its boundary on (`PhonemeTokenizer.split`). ``prefix``
    are segments before the text, such as a voice. A text is drawn by its own seed, whatever lies beside it. ``half``
    computes in bfloat16; ``graph`` replays a CUDA graph. ``forward`` stands for the network where another computes the
    same, with keys and values of ``cache_dtype``. Raises ValueError where a text leaves no room for its codes.
    """
    config = config or SamplingConfig()
    for number, words in enumerate(texts):
        if not words or not all(len(word) for word in words):
            raise ValueError(f"text {number}: nothing to say; give at least one word of at least one piece")
    if not texts:
        return []
    seeds = range(len(texts)) if seeds is None else seeds
    device = gpt.embedding.weight.device
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=not graph):
        dtype = cache_dtype or (torch.bfloat16 if half else gpt.embedding.weight.dtype)
        batch = _Batch(gpt, texts, config, seeds, prefix, dtype, forward or gpt)
        batch.prefill()
        batch.run(graph and device.type == "cuda")
    return batch.candidates()


class _Batch:
    """Rows that are drawn side by side: texts by candidates and, with guidance, as many again that see no text."""

    def __init__(
        self,
        gpt: GPT,
        texts: Sequence[Sequence[np.ndarray]],
        config: SamplingConfig,
        seeds: Sequence[int],
        prefix: Sequence[Segment],
        dtype: torch.dtype,
        forward: Callable[..., torch.Tensor],
    ) -> None:
        vocabulary = gpt.config.vocabulary
        self.forward = forward
        self.gpt, self.config, self.device = gpt, config, gpt.embedding.weight.device
        self.guided = config.guidance != 1
        copies = config.num_candidates
        rows = [words for words in texts for _ in range(copies)]
        self.num_rows = len(rows)
        num_pieces = [sum(map(len, words)) for words in rows]
        pieces = np.zeros((len(rows), max(num_pieces) + 1), np.int64)
        starts, begins = np.zeros(pieces.shape, bool), np.zeros(pieces.shape, bool)
        for row, words in enumerate(rows):
            pieces[row, : num_pieces[row]] = np.concatenate(words) + vocabulary.offset("text")
            pieces[row, num_pieces[row]] = vocabulary.end("reading")
            starts[row, np.cumsum([0, *map(len, words)])] = True
            begins[row, : num_pieces[row]] = begins_unit(np.concatenate(words), gpt.config.reading_units)
            begins[row, num_pieces[row]] = True
        before = [vocabulary.segment_ids(segment) for segment in prefix]
        begin = [vocabulary.begin("reading")]
        prompts = [
            np.concatenate([*before, [vocabulary.begin("text")], ids[:count], [vocabulary.end("text")], begin])
            for ids, count in zip(pieces, num_pieces, strict=True)
        ]
        if self.guided:
            prompts += [np.concatenate([*before, begin]).astype(np.int64)] * len(rows)
        self.prompt_lengths = np.array([len(prompt) for prompt in prompts])
        self.prompts = np.zeros((len(prompts), self.prompt_lengths.max()), np.int64)
        for row, prompt in enumerate(prompts):
            self.prompts[row, : len(prompt)] = prompt
        used = self.prompt_lengths[: len(rows)] + num_pieces
        room = gpt.config.max_positions - int(used.max())
        if room < 2:
            raise ValueError(
                f"a text of {max(num_pieces)} pieces leaves no room for its codes: this model reads "
                f"{gpt.config.max_positions} tokens; shorten the text or the voice prompt"
            )
        self.max_codes = min(config.max_codes, room)
        self.num_steps = max(num_pieces) + self.max_codes + 1
        self.longest = min(gpt.config.max_positions, int(used.max()) + self.max_codes + 1)
        self.capacity = -(-self.longest // SLOTS) * SLOTS
        self.pieces, self.starts, self.begins = (
            torch.from_numpy(array).to(self.device) for array in (pieces, starts, begins)
        )
        self.num_pieces = torch.tensor(num_pieces, device=self.device)
        self.cache = SlotCache.empty(gpt.config, len(prompts), self.capacity, self.device, dtype)
        self._make_state(seeds, copies)

    def _make_state(self, seeds: Sequence[int], copies: int) -> None:
        """Set up what changes from step to step, all on the device."""
        rows, device = self.num_rows, self.device
        drawn = [
            np.random.default_rng([seed, copy]).random((self.num_steps, 2), np.float32)
            for seed in seeds
            for copy in range(copies)
        ]
        self.noise = torch.from_numpy(np.stack(drawn)).to(device)
        self.length = torch.from_numpy(self.prompt_lengths).to(device)
        self.pointer = torch.zeros_like(self.length)
        self.cursor, self.since, self.count, self.decided = (
            torch.zeros(rows, dtype=torch.int64, device=device) for _ in range(4)
        )
        self.done = torch.zeros(rows, dtype=torch.bool, device=device)
        self.step_index = torch.zeros(1, dtype=torch.int64, device=device)
        self.events = torch.full((rows, self.num_steps), NOTHING, dtype=torch.int64, device=device)
        self.scores = torch.zeros(rows, self.num_steps, device=device)
        self.token = torch.zeros(len(self.length), dtype=torch.int64, device=device)
        self.active = torch.zeros(len(self.length), dtype=torch.bool, device=device)
        self.hidden = torch.zeros(len(self.length), self.gpt.config.width, device=device)
        vocabulary = self.gpt.config.vocabulary
        first = vocabulary.offset("speech")
        self.first_code = first
        self.code_head = self.gpt.head.weight[first : first + vocabulary.modality("speech").num_codes]
        self.reads = torch.zeros(vocabulary.size, dtype=torch.int64, device=device)
        text = vocabulary.offset("text")
        self.reads[text : text + vocabulary.modality("text").num_codes] = 1

    def prefill(self) -> None:
        """Read the prompts, and draw the first token."""
        ids = torch.from_numpy(self.prompts).to(self.device)
        places = torch.arange(ids.shape[1], device=self.device).expand(ids.shape)
        pointers = None
        if self.gpt.config.pointer:
            pointers = text_pointers(ids, self.gpt.reads, self.gpt.begins, None)
        self.cache.slots, self.cache.visible = places, ids.shape[1]
        hidden = self.forward(ids, positions=places, pointers=pointers, cache=self.cache)
        rows = torch.arange(len(ids), device=self.device)
        self.hidden.copy_(hidden[rows, self.length - 1])
        self._draw()

    def run(self, graph: bool) -> None:
        """Step until all rows have ended."""
        captured: torch.cuda.CUDAGraph | None = None
        longest = int(self.prompt_lengths.max())
        alone = self.num_rows == 1 and self.device.type == "cpu"
        for step in range(1, self.num_steps):
            if step % CHECK_EVERY == 0 and bool(self.done.all()):
                break
            rest = self._rest_of_unit() if alone else None
            reach = int(self.length.max()) + 1 + (0 if rest is None else len(rest)) if alone else longest + step
            self.cache.visible = self.capacity if graph else min(self.capacity, -(-reach // SLOTS) * SLOTS)
            if graph and captured is None and step > WARM_UP:
                captured = self._capture()
                graph = captured is not None
            if captured is not None:
                captured.replay()
            else:
                self._step(rest)

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        """Capture a step, which takes none; None where the device cannot."""
        captured = torch.cuda.CUDAGraph()
        try:
            torch.cuda.synchronize()
            with torch.cuda.graph(captured):
                self._step()
        except RuntimeError as error:
            log.warning("no CUDA graph of a sampling step (%s): going on without", error)
            return None
        return captured

    def _step(self, rest: torch.Tensor | None = None) -> None:
        """Feed each row's token to the network and draw the next; with ``rest``, the only text's first row goes on by
        these ids ``(L,)`` at once.
        """
        ids, used = self.token[:, None], self.active.long()
        if rest is not None:
            ids = torch.cat([ids, rest.expand(len(ids), -1)], 1)
            used[0] += len(rest)
            self.cursor += len(rest)
        along = torch.arange(ids.shape[1], device=self.device)
        places = (self.length[:, None] + along).clamp_max(self.longest - 1)
        pointers = self.pointer[:, None] + self.reads[ids].cumsum(1)
        self.cache.slots = places
        given = pointers if self.gpt.config.pointer else None
        hidden = self.forward(ids, positions=places, pointers=given, cache=self.cache)
        last = (used - 1).clamp_min(0)[:, None]
        hidden = hidden.take_along_dim(last[:, :, None], 1)[:, 0].to(self.hidden.dtype)
        self.hidden.copy_(torch.where(self.active[:, None], hidden, self.hidden))
        self.pointer.copy_(torch.where(self.active, pointers.gather(1, last)[:, 0], self.pointer))
        self.length.add_(used)
        self._draw()

    def _rest_of_unit(self) -> torch.Tensor | None:
        """Return the ids that follow the first piece of a unit, where that is the only row's token: on a CPU a few
        tokens at once cost little more than one.
        """
        cursor = int(self.cursor)
        if not bool(self.active[0]) or not cursor or bool(self.begins[0, cursor]):
            return None
        if int(self.token[0]) != int(self.pieces[0, cursor - 1]):
            return None
        stop = cursor + int(self.begins[0, cursor:].int().argmax())
        return self.pieces[0, cursor:stop]

    def _draw(self) -> None:
        """Decide each row's next token by its hidden state, and write down what it is."""
        config, rows = self.config, self.num_rows
        cursor = self.cursor[:, None]
        following = self.pieces.gather(1, cursor)[:, 0]
        is_word, is_unit = self.starts.gather(1, cursor)[:, 0], self.begins.gather(1, cursor)[:, 0]
        scores = self._scores(following, is_word)
        noise = self.noise.take_along_dim(self.decided[:, None, None], 1)[:, 0]

        given = (self.cursor > 0) & (self.cursor < self.num_pieces) & ~is_unit
        may = (self.since >= config.min_codes_per_word) | (self.cursor == 0) | ~is_word
        must = self.since >= config.max_codes_per_word
        odds = scores[:, 0] - scores[:, 1:].logsumexp(-1)
        # Whether to go on is drawn by itself, so that sharpening what the codes say does not change how long they last.
        going = odds > 0 if config.temperature == 0 else noise[:, 0] < odds.sigmoid()
        going = ~given & (must | (may & going))
        code = draw_codes(scores[:, 1:], config, noise[:, 1])

        live = ~self.done
        ends = live & going & (self.cursor == self.num_pieces)
        units = live & going & ~ends
        codes = live & ~given & ~going
        event = torch.full_like(code, NOTHING).masked_fill(units, UNIT).masked_fill(ends, END)
        event = torch.where(codes, code, event)
        score = torch.where(going, scores[:, 0], scores.gather(1, code[:, None] + 1)[:, 0])
        self.events.index_copy_(1, self.step_index, event[:, None])
        self.scores.index_copy_(1, self.step_index, (score * (event != NOTHING))[:, None])
        self.step_index.add_(1)

        self.decided.add_(~given)
        self.cursor.add_(units | (live & given))
        self.since.copy_(torch.where(units & is_word, 0, self.since + codes))
        self.count.add_(codes)
        self.done |= ends | (self.count >= self.max_codes)
        self.token[:rows] = torch.where(codes, code + self.first_code, following)
        self.active[:rows] = live & ~ends
        if self.guided:
            self.token[rows:] = self.token[:rows]
            self.active[rows:] = (units & is_word) | codes

    def _scores(self, following: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities ``(rows, 1 + num_codes)`` float32 of going on to the id ``following`` and of each
        code.

        Rows without text know of words alone: where what follows is within a word, they guide the codes, not whether
        to go on.
        """
        if self.guided:
            following = torch.cat([following, following])
        with torch.autocast(self.device.type, enabled=False):  # a choice between near codes needs all digits
            hidden = self.hidden.to(self.code_head.dtype)
            onward = (hidden * self.gpt.head.weight[following]).sum(-1, keepdim=True)
            logits = torch.cat([onward.float(), (hidden @ self.code_head.T).float()], dim=1)
        scores = logits.log_softmax(-1)
        if not self.guided:
            return scores
        read, blind = scores[: self.num_rows], scores[self.num_rows :]
        both = (blind + self.config.guidance * (read - blind)).log_softmax(-1)
        if self.gpt.config.reading_units == "words":
            return both
        lasting = torch.log1p(-read[:, :1].exp().clamp_max(1 - 1e-6))
        within = torch.cat([read[:, :1], lasting + both[:, 1:].log_softmax(-1)], dim=1)
        return torch.where(is_word[:, None], both, within)

    def candidates(self) -> list[list[Candidate]]:
        """Return the readings of each text, those that reached their end and are the most likely first."""
        found: list[Candidate] = []
        scores = self.scores.cpu().numpy()
        for events, score in zip(self.events.cpu().numpy(), scores, strict=True):
            decided = events != NOTHING
            codes = events[events >= 0]
            units = np.cumsum(events >= 0)[events == UNIT]
            mean = float(score[decided].mean())
            found.append(Candidate(codes, mean, bool((events == END).any()), False, units))
        copies = self.config.num_candidates
        groups = [found[i : i + copies] for i in range(0, len(found), copies)]
        return [sorted(group, key=lambda c: (not c.reached_end, -c.log_probability)) for group in groups]


def draw_codes(logits: torch.Tensor, config: SamplingConfig, noise: torch.Tensor) -> torch.Tensor:
    """Draw one code for each row of logits ``(B, V)`` by temperature, top-k and top-p, and by numbers ``(B,)`` from 0
    to 1: without waiting for the device, and the same on each.
    """
    if config.temperature == 0:
        return logits.argmax(-1)
    ordered, order = (logits / config.temperature).sort(-1, descending=True)
    probability = ordered.softmax(-1)
    left_out = probability.cumsum(-1) - probability >= config.top_p
    if config.top_k:
        left_out |= torch.arange(logits.shape[1], device=logits.device) >= config.top_k
    total = probability.masked_fill(left_out, 0).cumsum(-1)
    place = (total <= noise[:, None] * total[:, -1:]).sum(-1, keepdim=True).clamp_max(logits.shape[1] - 1)
    return order.gather(1, place)[:, 0]
