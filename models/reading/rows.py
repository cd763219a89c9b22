"""What a pool of readings holds: a row of state for each text that is drawn, and a line of the cache for each view.

A row decides; a line is a row of the network's batch. A text has one line, and with guidance a second one that does not
see the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch

from triforce.models.gpt import GPTConfig
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.reading.interleave import begins_unit
from triforce.models.vocabulary import Segment

NOTHING, UNIT, END = -1, -2, -3
"""Events of a step beside codes: a piece that was given or a row that had ended, the begin of a unit, the end."""


@dataclass(frozen=True)
class Script:
    """A text as it is to be read."""

    pieces: np.ndarray
    """Ids of its pieces and of the end marker, ``(P + 1,)`` int64."""
    starts: np.ndarray
    """Whether a word, or the end, begins there, ``(P + 1,)`` bool."""
    begins: np.ndarray
    """Whether the network decides that it begins, ``(P + 1,)`` bool."""
    prompts: list[np.ndarray]
    """Ids before the first code, a prompt for each line: with the text and, for guidance, without it."""
    max_codes: int
    """Codes at most: of the config, as far as the network has positions."""

    @property
    def num_steps(self) -> int:
        """Steps at most."""
        return len(self.pieces) + self.max_codes

    @property
    def longest(self) -> int:
        """Tokens at most."""
        return len(self.prompts[0]) + self.num_steps


def make_script(
    gpt: GPTConfig, words: Sequence[np.ndarray], config: SamplingConfig, prefix: Sequence[Segment] = ()
) -> Script:
    """Return the script of a text, given as the pieces ``(L,)`` of each word, behind the segments of ``prefix``.

    Raises ValueError for a text without words, and for one that leaves no room for its codes.
    """
    if not len(words) or not all(len(word) for word in words):
        raise ValueError("nothing to say; give at least one word of at least one piece")
    vocabulary, flat = gpt.vocabulary, np.concatenate(words).astype(np.int64)
    ids = flat + vocabulary.offset("text")
    starts = np.zeros(len(flat) + 1, bool)
    starts[np.cumsum([0, *map(len, words)])] = True
    before = [vocabulary.segment_ids(segment) for segment in prefix]
    begin = [vocabulary.begin("reading")]
    told = np.concatenate([*before, [vocabulary.begin("text")], ids, [vocabulary.end("text")], begin])
    prompts = [told.astype(np.int64)]
    if config.guidance != 1:
        prompts.append(np.concatenate([*before, begin]).astype(np.int64))
    room = gpt.max_positions - len(told) - len(flat)
    if room < 2:
        raise ValueError(
            f"a text of {len(flat)} pieces leaves no room for its codes: this model reads {gpt.max_positions} tokens; "
            "shorten the text or the voice prompt"
        )
    return Script(
        np.append(ids, vocabulary.end("reading")),
        starts,
        np.append(begins_unit(flat, gpt.reading_units), True),
        prompts,
        min(config.max_codes, room - 1),
    )


class _Tensors:
    """Tensors that have the same first axis."""

    def part(self, start: int, stop: int) -> Self:
        """Return views of the entries from ``start`` to ``stop``."""
        return type(self)(*(getattr(self, field.name)[start:stop] for field in fields(self)))

    def move(self, source: int, target: int) -> None:
        """Copy an entry over another."""
        for field in fields(self):
            tensor = getattr(self, field.name)
            tensor[target] = tensor[source]


@dataclass
class Lines(_Tensors):
    """What of each line changes from step to step."""

    token: torch.Tensor
    """``(L,)`` int64: the id that it is fed next."""
    active: torch.Tensor
    """``(L,)`` bool: whether it is fed at all."""
    length: torch.Tensor
    """``(L,)`` int64: tokens that it was fed."""
    pointer: torch.Tensor
    """``(L,)`` int64: pieces of text read since the segment began."""
    hidden: torch.Tensor
    """``(L, width)``: the last hidden state."""

    @classmethod
    def empty(cls, count: int, width: int, device: torch.device) -> Lines:
        """Make ``count`` lines that are fed nothing."""
        numbers = [torch.zeros(count, dtype=torch.int64, device=device) for _ in range(3)]
        idle = torch.zeros(count, dtype=torch.bool, device=device)
        return cls(numbers[0], idle, numbers[1], numbers[2], torch.zeros(count, width, device=device))


@dataclass
class Rows(_Tensors):
    """What each row reads, how it draws and how far it is."""

    line: torch.Tensor
    """``(R,)`` int64: its line."""
    blind: torch.Tensor
    """``(R,)`` int64: its line without text."""
    pieces: torch.Tensor
    """``(R, P)`` int64, as `Script` has them; so ``starts`` and ``begins``."""
    starts: torch.Tensor
    begins: torch.Tensor
    num_pieces: torch.Tensor
    """``(R,)`` int64."""
    noise: torch.Tensor
    """``(R, S, 2)`` from 0 to 1: of each decision, whether to go on, and which code."""
    temperature: torch.Tensor
    """``(R,)`` float32, as `SamplingConfig` has it; so those that follow."""
    top_k: torch.Tensor
    """``(R,)`` int64; the number of codes where all are kept."""
    top_p: torch.Tensor
    guidance: torch.Tensor
    least: torch.Tensor
    """``(R,)`` int64: codes of a word at least."""
    most: torch.Tensor
    """``(R,)`` int64: codes of a word at most."""
    max_codes: torch.Tensor
    """``(R,)`` int64."""
    cursor: torch.Tensor
    """``(R,)`` int64: pieces that were gone on to."""
    since: torch.Tensor
    """``(R,)`` int64: codes since the word began."""
    count: torch.Tensor
    """``(R,)`` int64: codes in all."""
    decided: torch.Tensor
    """``(R,)`` int64: decisions in all."""
    step: torch.Tensor
    """``(R,)`` int64: steps in all."""
    done: torch.Tensor
    """``(R,)`` bool."""
    events: torch.Tensor
    """``(R, S)`` int64: the code of each step, or `NOTHING`, `UNIT` or `END`."""
    scores: torch.Tensor
    """``(R, S)`` float32: log-probability of each decision."""

    @classmethod
    def empty(cls, count: int, num_steps: int, idle_line: int, device: torch.device) -> Rows:
        """Make ``count`` rows for ``num_steps`` steps at most that have ended, and write to ``idle_line``."""

        def numbers(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.zeros(count, *shape, dtype=dtype, device=device)

        shapes: dict[str, torch.Tensor] = {"pieces": numbers(num_steps), "events": numbers(num_steps)}
        shapes |= {name: numbers(num_steps, dtype=torch.bool) for name in ("starts", "begins")}
        shapes |= {"noise": numbers(num_steps, 2, dtype=torch.float32)}
        shapes |= {"scores": numbers(num_steps, dtype=torch.float32), "done": numbers(dtype=torch.bool)}
        shapes |= {name: numbers(dtype=torch.float32) for name in ("temperature", "top_p", "guidance")}
        made = {field.name: shapes.get(field.name, numbers()) for field in fields(cls)}
        rows = cls(**made)
        rows.done.fill_(True)
        rows.line.fill_(idle_line)
        rows.blind.fill_(idle_line)
        return rows

    def write(self, row: int, script: Script, config: SamplingConfig, noise: np.ndarray, num_codes: int) -> None:
        """Begin a script in a row; ``noise`` ``(script.num_steps, 2)`` decides what it draws."""
        for name in ("pieces", "starts", "begins"):
            values = torch.from_numpy(getattr(script, name))
            getattr(self, name)[row, : len(values)] = values.to(self.line.device)
        self.noise[row, : len(noise)] = torch.from_numpy(noise).to(self.line.device)
        for name in ("cursor", "since", "count", "decided", "step", "done"):
            getattr(self, name)[row] = 0
        settings = {"temperature": config.temperature, "top_p": config.top_p, "guidance": config.guidance}
        settings |= {"top_k": config.top_k or num_codes, "max_codes": script.max_codes}
        settings |= {"least": config.min_codes_per_word, "most": config.max_codes_per_word}
        settings |= {"num_pieces": len(script.pieces) - 1}
        for name, value in settings.items():
            getattr(self, name)[row] = value
