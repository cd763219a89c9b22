"""A pool of readings: texts are added and taken away while others are being read, and all take their steps together.

In a ``reading`` segment the network decides at each step between a code and going on to the next unit: a word, or one
of its pieces, as `GPTConfig.reading_units` has it. Going on writes the unit's pieces, which are known; behind the last
one it ends the segment. So it can neither skip nor repeat a word, nor stop early.

Each step is one call of the network with a line, or two with guidance, for each text (continuous batching: Yu et al.
2022, Orca). A text that ends leaves its place to the next that waits. The lines in use lie next to each other, padded
to one of `SIZES`, and attention looks at no more slots than the longest of them has filled, in multiples of `SLOTS`. A
text draws the same whatever is read beside it, but for rounding: in half precision, or in int8 that is not compiled,
that is enough to lead to other codes.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np
import torch

from triforce.models.blocks.kv_cache import SlotCache
from triforce.models.blocks.positions import text_pointers
from triforce.models.gpt import GPT
from triforce.models.gpt_sampling import CHECK_EVERY, Candidate, SamplingConfig
from triforce.models.reading.decide import Heads, decide
from triforce.models.reading.interleave import pieces_at_codes
from triforce.models.reading.rows import END, NOTHING, UNIT, Lines, Rows, Script, make_script
from triforce.models.vocabulary import Segment

log = logging.getLogger(__name__)

WARM_UP = 3
"""Steps before a CUDA graph is captured."""
SLOTS = 64
"""Slots of the cache are looked at in multiples of this: few shapes, and rows of a mask that lie as kernels like it."""
SIZES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of lines that the network is called with, beyond them multiples of the last: few shapes. Assumed."""
PROMPT = 8
"""Prompts are padded to multiples of this. Assumed."""


@dataclass(eq=False)
class Reading:
    """A text in a pool, and what was drawn for it."""

    config: SamplingConfig
    script: Script
    seed: int
    group: Hashable
    candidates: list[Candidate] = field(default_factory=list)
    """Those that have ended; when all have, the likeliest of those that reached their end is the first."""

    @property
    def done(self) -> bool:
        """Whether all its candidates have ended."""
        return len(self.candidates) == self.config.num_candidates


@dataclass(eq=False)
class _Seat:
    """A candidate that is being drawn."""

    reading: Reading
    copy: int
    row: int = -1
    lines: list[int] = field(default_factory=list)
    reach: int = 0
    """Tokens that its line was fed, at most."""


class ReadingPool:
    """Draws readings side by side, ``num_rows`` at most; the others wait, and groups of them take turns.

    ``forward`` stands for the network where another computes the same (called as ``gpt(ids, positions=, pointers=,
    cache=)``), with keys and values of ``cache_dtype``. ``num_lines`` and ``num_slots`` limit the cache, by default two
    lines a row and the network's positions. ``half`` computes in bfloat16; ``graph`` replays a CUDA graph for the
    steps. ``joins`` is how many texts are let in at a step at most, by default all that there is room for: while their
    prompts are read no other goes on.
    """

    def __init__(
        self,
        gpt: GPT,
        *,
        num_rows: int,
        num_lines: int | None = None,
        num_slots: int | None = None,
        forward: Callable[..., torch.Tensor] | None = None,
        cache_dtype: torch.dtype | None = None,
        half: bool = False,
        graph: bool = False,
        joins: int | None = None,
    ) -> None:
        if num_rows < 1:
            raise ValueError(f"num_rows {num_rows}: at least 1")
        self.gpt, self.forward, self.device = gpt, forward or gpt, gpt.embedding.weight.device
        self.joins = joins or num_rows
        self.half, self.graph = half, graph and self.device.type == "cuda"
        self.num_rows, self.num_lines = num_rows, num_lines or 2 * num_rows
        self.heads = Heads.of(gpt)
        with torch.inference_mode():
            slots = min(num_slots or gpt.config.max_positions, gpt.config.max_positions)
            self.num_slots = -(-slots // SLOTS) * SLOTS
            self.rows = Rows.empty(num_rows, slots + 2, self.num_lines, self.device)
            self.lines = Lines.empty(self.num_lines + 1, gpt.config.width, self.device)
            dtype = cache_dtype or (torch.bfloat16 if half else gpt.embedding.weight.dtype)
            shape = (self.num_lines, gpt.config.num_heads, self.num_slots, gpt.config.head_dim)
            self.store = _zeros((gpt.config.num_layers, 2, *shape), dtype, self.device)
            self.numbers = torch.arange(self.num_lines, device=self.device)[:, None]
            self.reads = _text_ids(gpt, self.device)
        self.last_place = slots - 1
        self.waiting: dict[Hashable, deque[_Seat]] = {}
        self.seats: list[_Seat] = []
        self.owners: list[_Seat] = []
        self.steps = 0
        self._first_rows = lru_cache(maxsize=None)(partial(self.rows.part, 0))
        self._first_lines = lru_cache(maxsize=None)(partial(self.lines.part, 0))
        self._graph: torch.cuda.CUDAGraph | None = None

    def add(
        self,
        words: Sequence[np.ndarray],
        config: SamplingConfig | None = None,
        *,
        seed: int = 0,
        prefix: Sequence[Segment] = (),
        group: Hashable = None,
    ) -> Reading:
        """Let a text wait for its turn, given as the pieces ``(L,)`` of each word; ``prefix`` are segments before it.

        Of the groups that wait, the one that is read the least has the next turn, so that a group of many texts holds
        up no other. Raises ValueError as `make_script` does.
        """
        config = config or SamplingConfig()
        script = make_script(self.gpt.config, words, config, prefix)
        if script.longest > self.last_place + 2 or len(script.prompts) > self.num_lines:
            raise ValueError(f"a text of {script.longest} tokens: this pool has {self.last_place + 1} slots for it")
        reading = Reading(config, script, seed, group)
        seats = self.waiting.setdefault(group, deque())
        seats.extend(_Seat(reading, copy) for copy in range(config.num_candidates))
        return reading

    def cancel(self, reading: Reading) -> None:
        """Take a text away; its place is free at once."""
        for seat in [seat for seat in self.seats if seat.reading is reading]:
            self._leave(seat)
        if (seats := self.waiting.get(reading.group)) is not None:
            self._wait(reading.group, [seat for seat in seats if seat.reading is not reading])

    @property
    def busy(self) -> bool:
        """Whether a text waits or is being read."""
        return bool(self.seats or self.waiting)

    def num_codes(self, reading: Reading) -> int:
        """Return how many codes were drawn so far for a text of one candidate."""
        if reading.candidates:
            return len(reading.candidates[0].codes)
        return next((int(self.rows.count[seat.row]) for seat in self.seats if seat.reading is reading), 0)

    def codes(self, reading: Reading) -> np.ndarray:
        """Return the codes ``(K,)`` that were drawn so far for a text of one candidate."""
        if reading.candidates:
            return reading.candidates[0].codes
        seat = next((seat for seat in self.seats if seat.reading is reading), None)
        if seat is None:
            return np.zeros(0, np.int64)
        events = self._events(seat.row)
        return events[events >= 0]

    def spoken(self, reading: Reading) -> np.ndarray | None:
        """Return the piece of text at each of `codes`; None where the network reads by words."""
        if reading.candidates:
            return reading.candidates[0].spoken
        seat = next((seat for seat in self.seats if seat.reading is reading), None)
        if seat is None or self.gpt.config.reading_units != "pieces":
            return None
        events = self._events(seat.row)
        return self._spoken(seat.row, np.cumsum(events >= 0)[events == UNIT], int((events >= 0).sum()))

    def _events(self, row: int) -> np.ndarray:
        return self.rows.events[row, : int(self.rows.step[row])].cpu().numpy()

    def run(self) -> None:
        """Step until all texts are read."""
        while self.busy:
            self.step()

    @torch.inference_mode()
    def step(self) -> list[Reading]:
        """Let texts in that wait, go on by a token with each, and return those that have ended."""
        with ExitStack() as stack:
            if self.half:
                stack.enter_context(
                    torch.autocast(self.device.type, torch.bfloat16, cache_enabled=not self.graph)
                )  # a graph holds no casts that were made before it
            self._let_in()
            ended = self._ended() if self.steps % CHECK_EVERY == 0 or self.device.type == "cpu" else []
            if self.seats:
                self._advance()
                self.steps += 1
                if self.device.type == "cpu":
                    ended += self._ended()
        return ended

    def _let_in(self) -> None:
        """Give free rows to texts that wait, read their prompts, and draw their first token."""
        new: list[_Seat] = []
        free = self.num_lines - len(self.owners)
        while self.waiting and len(self.seats) < self.num_rows and len(new) < self.joins:
            reading = Counter(seat.reading.group for seat in self.seats)
            group = min(self.waiting, key=lambda name: reading[name])  # the first of them, in the order they came
            seat, *others = self.waiting[group]
            if len(seat.reading.script.prompts) > free:
                break
            free -= len(seat.reading.script.prompts)
            self.waiting.pop(group)
            self._wait(group, others)
            self._sit(seat)
            new.append(seat)
        if not new:
            return
        for number in range(2):
            self._prefill([seat for seat in new if len(seat.reading.script.prompts) > number], number)
        first = len(self.seats) - len(new)
        self._decide(self.rows.part(first, len(self.seats)))

    def _wait(self, group: Hashable, seats: Sequence[_Seat]) -> None:
        if seats:
            self.waiting[group] = deque(seats)
        else:
            self.waiting.pop(group, None)

    def _sit(self, seat: _Seat) -> None:
        """Give a row to a candidate."""
        reading = seat.reading
        seat.row = len(self.seats)
        self.seats.append(seat)
        generator = np.random.default_rng([reading.seed, seat.copy])
        noise = generator.random((reading.script.num_steps, 2), np.float32)
        self.rows.write(seat.row, reading.script, reading.config, noise, len(self.heads.codes))
        self.rows.line[seat.row] = self.rows.blind[seat.row] = self.num_lines

    def _prefill(self, seats: list[_Seat], number: int) -> None:
        """Read the prompts of candidates, each into a new line: those with the text or those without."""
        if not seats:
            return
        prompts = [seat.reading.script.prompts[number] for seat in seats]
        longest = max(map(len, prompts))
        width = longest if longest < PROMPT else min(-(-longest // PROMPT) * PROMPT, self.last_place + 1)
        padded = np.zeros((len(prompts), width), np.int64)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = prompt
        first = len(self.owners)
        for seat in seats:
            (self.rows.blind if number else self.rows.line)[seat.row] = len(self.owners)
            seat.lines.append(len(self.owners))
            seat.reach = max(seat.reach, len(seat.reading.script.prompts[number]))
            self.owners.append(seat)
        ids = torch.from_numpy(padded).to(self.device)
        places = torch.arange(width, device=self.device).expand(ids.shape)
        pointers = text_pointers(ids, self.gpt.reads, self.gpt.begins, None) if self.gpt.config.pointer else None
        cache = self._cache(first, len(self.owners), places, width)
        hidden = self.forward(ids, positions=places, pointers=pointers, cache=cache)
        lines = self.lines.part(first, len(self.owners))
        lines.length.copy_(torch.tensor([len(prompt) for prompt in prompts]))
        lines.pointer.zero_()
        lines.hidden.copy_(hidden[torch.arange(len(ids), device=self.device), lines.length - 1])

    def _cache(self, start: int, stop: int, places: torch.Tensor, visible: int) -> SlotCache:
        return SlotCache(self.store[:, :, start:stop], places, visible, self.numbers[: stop - start])

    def _decide(self, rows: Rows) -> None:
        guided = self.num_lines > self.num_rows if self.graph else len(self.owners) > len(self.seats)
        decide(rows, self.lines, self.heads, guided=guided)

    def _advance(self) -> None:
        """Take a step with all rows."""
        rest = self._rest_of_unit()
        fed = 1 if rest is None else 1 + len(rest)
        for seat in self.seats:
            seat.reach += fed
        if not self.graph:
            visible = min(self.num_slots, -(-max(seat.reach for seat in self.seats) // SLOTS) * SLOTS)
            self._feed(len(self.seats), min(padded_size(len(self.owners)), self.num_lines), visible, rest)
            return
        if self._graph is None and self.steps >= WARM_UP:
            self._graph = self._capture()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._feed(self.num_rows, self.num_lines, self.num_slots)

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        """Capture a step of all rows, which takes none; None where the device cannot."""
        captured = torch.cuda.CUDAGraph()
        try:
            torch.cuda.synchronize()
            with torch.cuda.graph(captured):
                self._feed(self.num_rows, self.num_lines, self.num_slots)
        except RuntimeError as error:
            log.warning("no CUDA graph of a sampling step (%s): going on without", error)
            self.graph = False
            return None
        return captured

    def _feed(self, num_rows: int, num_lines: int, visible: int, rest: torch.Tensor | None = None) -> None:
        """Feed each line's token to the network and decide the next; with ``rest``, the only text's line goes on by
        these ids ``(L,)`` at once.
        """
        lines = self._first_lines(num_lines)
        ids, used = lines.token[:, None], lines.active.long()
        if rest is not None:
            ids = torch.cat([ids, rest.expand(len(ids), -1)], 1)
            used[self.seats[0].lines[0]] += len(rest)
            self.rows.cursor[0] += len(rest)
        along = torch.arange(ids.shape[1], device=self.device)
        places = (lines.length[:, None] + along).clamp_max(self.last_place)
        pointers = lines.pointer[:, None] + self.reads[ids].cumsum(1)
        cache = self._cache(0, num_lines, places, visible)
        given = pointers if self.gpt.config.pointer else None
        hidden = self.forward(ids, positions=places, pointers=given, cache=cache)
        last = (used - 1).clamp_min(0)[:, None]
        hidden = hidden.take_along_dim(last[:, :, None], 1)[:, 0].to(lines.hidden.dtype)
        lines.hidden.copy_(torch.where(lines.active[:, None], hidden, lines.hidden))
        lines.pointer.copy_(torch.where(lines.active, pointers.gather(1, last)[:, 0], lines.pointer))
        lines.length.add_(used)
        self._decide(self._first_rows(num_rows))

    def _rest_of_unit(self) -> torch.Tensor | None:
        """Return the ids that follow the first piece of a unit, where that is the only row's token: on a CPU a few
        tokens at once cost little more than one.
        """
        if len(self.seats) != 1 or self.device.type != "cpu":
            return None
        rows, line = self.rows, self.seats[0].lines[0]
        cursor = int(rows.cursor[0])
        if not bool(self.lines.active[line]) or not cursor or bool(rows.begins[0, cursor]):
            return None
        if int(self.lines.token[line]) != int(rows.pieces[0, cursor - 1]):
            return None
        stop = cursor + int(rows.begins[0, cursor:].int().argmax())
        return rows.pieces[0, cursor:stop]

    def _ended(self) -> list[Reading]:
        """Take the candidates out that have ended, and return the texts of which all have."""
        if not self.seats:
            return []
        done = self.rows.done[: len(self.seats)].tolist()
        ended = []
        for seat in [seat for seat, over in zip(self.seats, done, strict=True) if over]:
            reading = seat.reading
            reading.candidates.append(self._candidate(seat))
            self._leave(seat)
            if reading.done:
                reading.candidates.sort(key=lambda c: (not c.reached_end, -c.log_probability))
                ended.append(reading)
        return ended

    def _candidate(self, seat: _Seat) -> Candidate:
        events = self._events(seat.row)
        scores = self.rows.scores[seat.row, : len(events)].cpu().numpy()
        units = np.cumsum(events >= 0)[events == UNIT]
        mean, codes = float(scores[events != NOTHING].mean()), events[events >= 0]
        spoken = self._spoken(seat.row, units, len(codes)) if self.gpt.config.reading_units == "pieces" else None
        return Candidate(codes, mean, bool((events == END).any()), False, units, spoken)

    def _spoken(self, row: int, units: np.ndarray, num_codes: int) -> np.ndarray:
        """Return the piece that is said at each code: the last of those that were written when its unit began."""
        count = int(self.rows.num_pieces[row])
        begins = np.flatnonzero(self.rows.begins[row, : count + 1].cpu().numpy())[1 : len(units) + 1]
        pieces = self.rows.pieces[row, :count].cpu().numpy() - self.gpt.config.vocabulary.offset("text")
        return pieces_at_codes(pieces[begins - 1], units[: len(begins)], num_codes)

    @torch.inference_mode()
    def _leave(self, seat: _Seat) -> None:
        """Free a candidate's row and lines: the last ones move there, so that those in use lie together."""
        last = self.seats.pop()
        if last is not seat:
            self.rows.move(last.row, seat.row)
            last.row = seat.row
            self.seats[seat.row] = last
        idle = len(self.seats)
        self.rows.done[idle] = True
        self.rows.line[idle] = self.rows.blind[idle] = self.num_lines
        for place in sorted(seat.lines, reverse=True):
            source = len(self.owners) - 1
            owner = self.owners.pop()
            if source != place:
                self._move_line(owner, source, place)
            self.lines.active[source] = False

    def _move_line(self, owner: _Seat, source: int, target: int) -> None:
        self.lines.move(source, target)
        reach = owner.reach
        self.store[:, :, target, :, :reach] = self.store[:, :, source, :, :reach]
        number = owner.lines.index(source)
        owner.lines[number] = target
        self.owners[target] = owner
        (self.rows.blind if number else self.rows.line)[owner.row] = target


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return zeros of which a CPU's memory holds only what was written to: most slots of most lines never are."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


def padded_size(count: int) -> int:
    """Return the least of `SIZES`, or multiple of the last, that is at least ``count``."""
    found = next((size for size in SIZES if size >= count), None)
    return found or -(-count // SIZES[-1]) * SIZES[-1]


def _text_ids(gpt: GPT, device: torch.device) -> torch.Tensor:
    """Return for each id whether it is a piece of text, ``(V,)`` 1 or 0."""
    vocabulary = gpt.config.vocabulary
    reads = torch.zeros(vocabulary.size, dtype=torch.int64, device=device)
    text = vocabulary.offset("text")
    reads[text : text + vocabulary.modality("text").num_codes] = 1
    return reads
