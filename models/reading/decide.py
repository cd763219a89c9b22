"""What each row of a pool does next: read a piece that is given, draw a code, go on to the next unit, or end."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from triforce.models.gpt import GPT
from triforce.models.reading.rows import END, NOTHING, UNIT, Lines, Rows


@dataclass(frozen=True)
class Heads:
    """The rows of the output matrix that score a decision."""

    all: torch.Tensor
    """``(V, width)``: of all ids."""
    codes: torch.Tensor
    """``(num_codes, width)``: of the codes, which lie next to each other."""
    first_code: int
    """Id of code 0."""
    by_words: bool
    """Whether the network decides when words begin, and not their pieces."""

    @classmethod
    def of(cls, gpt: GPT) -> Heads:
        """Return those of a network."""
        vocabulary = gpt.config.vocabulary
        first = vocabulary.offset("speech")
        codes = gpt.head.weight[first : first + vocabulary.modality("speech").num_codes]
        return cls(gpt.head.weight, codes, first, gpt.config.reading_units == "words")


def decide(rows: Rows, lines: Lines, heads: Heads, *, guided: bool) -> None:
    """Decide each row's next token by the hidden states of its lines, and write down what it is.

    ``guided`` says whether any row has a line without text. Nothing waits for the device.
    """
    cursor = rows.cursor[:, None]
    following = rows.pieces.gather(1, cursor)[:, 0]
    is_word, is_unit = rows.starts.gather(1, cursor)[:, 0], rows.begins.gather(1, cursor)[:, 0]
    scores = _scores(rows, lines, heads, following, is_word, guided)
    noise = rows.noise.take_along_dim(rows.decided[:, None, None], 1)[:, 0]

    given = (rows.cursor > 0) & (rows.cursor < rows.num_pieces) & ~is_unit
    may = (rows.since >= rows.least) | (rows.cursor == 0) | ~is_word
    must = rows.since >= rows.most
    odds = scores[:, 0] - scores[:, 1:].logsumexp(-1)
    # Whether to go on is drawn by itself, so that sharpening what the codes say does not change how long they last.
    going = torch.where(rows.temperature == 0, odds > 0, noise[:, 0] < odds.sigmoid())
    going = ~given & (must | (may & going))
    code = draw_codes(scores[:, 1:], rows.temperature, rows.top_k, rows.top_p, noise[:, 1])

    live = ~rows.done
    ends = live & going & (rows.cursor == rows.num_pieces)
    units = live & going & ~ends
    codes = live & ~given & ~going
    event = torch.full_like(code, NOTHING).masked_fill(units, UNIT).masked_fill(ends, END)
    event = torch.where(codes, code, event)
    score = torch.where(going, scores[:, 0], scores.gather(1, code[:, None] + 1)[:, 0])
    rows.events.scatter_(1, rows.step[:, None], event[:, None])
    rows.scores.scatter_(1, rows.step[:, None], (score * (event != NOTHING))[:, None])

    rows.step.add_(live)
    rows.decided.add_(live & ~given)
    rows.cursor.add_(units | (live & given))
    rows.since.copy_(torch.where(units & is_word, 0, rows.since + codes))
    rows.count.add_(codes)
    rows.done |= ends | (rows.count >= rows.max_codes)
    token = torch.where(codes, code + heads.first_code, following)
    for line, active in ((rows.blind, (units & is_word) | codes), (rows.line, live & ~ends)):
        lines.token.index_copy_(0, line, token)
        lines.active.index_copy_(0, line, active)


def _scores(
    rows: Rows, lines: Lines, heads: Heads, following: torch.Tensor, is_word: torch.Tensor, guided: bool
) -> torch.Tensor:
    """Return log-probabilities ``(R, 1 + num_codes)`` float32 of going on to the id ``following`` and of each code.

    Lines without text know of words alone: where what follows is within a word, they guide the codes, not whether to
    go on. A row without guidance is pushed nowhere by the line that stands for a missing one.
    """
    if not guided:
        return _line_scores(lines.hidden[rows.line], heads, following)
    hidden = lines.hidden[torch.cat([rows.line, rows.blind])]  # at once: the heads are read from memory but once
    read, blind = _line_scores(hidden, heads, torch.cat([following, following])).chunk(2)
    both = (blind + rows.guidance[:, None] * (read - blind)).log_softmax(-1)
    if heads.by_words:
        return both
    lasting = torch.log1p(-read[:, :1].exp().clamp_max(1 - 1e-6))
    within = torch.cat([read[:, :1], lasting + both[:, 1:].log_softmax(-1)], dim=1)
    return torch.where(is_word[:, None], both, within)


def _line_scores(hidden: torch.Tensor, heads: Heads, following: torch.Tensor) -> torch.Tensor:
    with torch.autocast(hidden.device.type, enabled=False):  # a choice between near codes needs all digits
        hidden = hidden.to(heads.codes.dtype)
        onward = (hidden * heads.all[following]).sum(-1, keepdim=True)
        return torch.cat([onward.float(), (hidden @ heads.codes.T).float()], dim=1).log_softmax(-1)


def draw_codes(
    logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """Draw one code for each row of logits ``(B, V)`` by its temperature, top-k and top-p ``(B,)``, and by its number
    ``(B,)`` from 0 to 1: without waiting for the device, and the same on each. A temperature of 0 takes the likeliest.
    """
    warm = torch.where(temperature > 0, temperature, 1.0)[:, None]
    ordered, order = (logits / warm).sort(-1, descending=True)
    probability = ordered.softmax(-1)
    left_out = probability.cumsum(-1) - probability >= top_p[:, None]
    left_out |= torch.arange(logits.shape[1], device=logits.device) >= top_k[:, None]
    total = probability.masked_fill(left_out, 0).cumsum(-1)
    place = (total <= noise[:, None] * total[:, -1:]).sum(-1, keepdim=True).clamp_max(logits.shape[1] - 1)
    place = torch.where((temperature == 0)[:, None], 0, place)
    return order.gather(1, place)[:, 0]
