"""What each row of a pool does next: read a piece that is given, draw a code, go on to the next unit, or end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from triforce.models.gpt import GPT
from triforce.models.reading.rows import END, NOTHING, UNIT, Lines, Rows

LIKELIEST = 64
"""Codes that a CPU puts in order first, and all only where these are too few: the order of 64 of 1024 takes a quarter
of the time. Measured: 82 against 338 us for 8 rows."""
ROUNDING = 1e-5
"""What sums of probabilities may be off by."""


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
    odds, scores = _scores(rows, lines, heads, following, is_word, guided)
    noise = rows.noise.take_along_dim(rows.decided[:, None, None], 1)[:, 0]

    given = (rows.cursor > 0) & (rows.cursor < rows.num_pieces) & ~is_unit
    may = (rows.since >= rows.least) | (rows.cursor == 0) | ~is_word
    must = rows.since >= rows.most
    # Whether to go on is drawn by itself, so that sharpening what the codes say does not change how long they last.
    going = torch.where(rows.temperature == 0, odds > 0, noise[:, 0] < odds.sigmoid())
    going = ~given & (must | (may & going))
    code = draw_codes(scores, rows.temperature, rows.top_k, rows.top_p, noise[:, 1])

    live = ~rows.done
    ends = live & going & (rows.cursor == rows.num_pieces)
    units = live & going & ~ends
    codes = live & ~given & ~going
    event = torch.full_like(code, NOTHING).masked_fill(units, UNIT).masked_fill(ends, END)
    event = torch.where(codes, code, event)
    score = F.logsigmoid(torch.where(going, odds, -odds))
    score = torch.where(going, score, score + scores.gather(1, code[:, None])[:, 0])
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-odds ``(R,)`` of going on to the id ``following`` against any code, and log-probabilities of each code
    where the row does not go on, ``(R, num_codes)``; both float32.

    Lines without text know of words alone: where what follows is within a word, they guide the codes, not whether to
    go on. A row without guidance is pushed nowhere by the line that stands for a missing one.
    """
    if not guided:
        onward, codes = _line_scores(lines.hidden[rows.line], heads, following)
        scores = codes.log_softmax(-1)
        return onward - _total(codes, scores), scores
    hidden = lines.hidden[torch.cat([rows.line, rows.blind])]  # at once: the heads are read from memory but once
    onward, codes = _line_scores(hidden, heads, torch.cat([following, following]))
    (read_on, blind_on), (read, blind) = onward.chunk(2), codes.chunk(2)
    pushed = torch.lerp(blind, read, rows.guidance[:, None])
    scores = pushed.log_softmax(-1)
    odds = torch.lerp(blind_on, read_on, rows.guidance) - _total(pushed, scores)
    if not heads.by_words:
        odds = torch.where(is_word, odds, read_on - read.logsumexp(-1))
    return odds, scores


def _total(logits: torch.Tensor, log_probability: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the sum that ``log_softmax`` divided by, ``(R,)``."""
    return logits[:, 0] - log_probability[:, 0]


def _line_scores(hidden: torch.Tensor, heads: Heads, following: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits ``(N,)`` of the ids ``following`` and ``(N, num_codes)`` of the codes, both float32."""
    with torch.autocast(hidden.device.type, enabled=False):  # a choice between near codes needs all digits
        hidden = hidden.to(heads.codes.dtype)
        return (hidden * heads.all[following]).sum(-1).float(), (hidden @ heads.codes.T).float()


def draw_codes(
    logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """Draw one code for each row of logits ``(B, V)`` by its temperature, top-k and top-p ``(B,)``, and by its number
    ``(B,)`` from 0 to 1: the same on each device, and without waiting for one that is not the CPU. A temperature of 0
    takes the likeliest.
    """
    logits = logits / torch.where(temperature > 0, temperature, 1.0)[:, None]
    ordered, order = _likeliest(logits, logits.softmax(-1), temperature, top_k, top_p)
    total = ordered.cumsum(-1)
    kept = torch.minimum((total - ordered < top_p[:, None]).sum(-1), top_k)[:, None]
    reached = total.gather(1, kept - 1)
    place = (total <= noise[:, None] * reached).sum(-1, keepdim=True).minimum(kept - 1)
    place = torch.where((temperature == 0)[:, None], 0, place)
    return order.gather(1, place)[:, 0]


def _likeliest(
    logits: torch.Tensor, probability: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the probabilities of the likeliest codes, descending, and the codes: all that may be drawn, or more."""
    if logits.device.type == "cpu" and logits.shape[1] > LIKELIEST:
        order = logits.topk(LIKELIEST).indices
        ordered = probability.gather(1, order)
        enough = (ordered.sum(-1) > top_p + ROUNDING) | (top_k <= LIKELIEST) | (temperature == 0)
        if bool(enough.all()):
            return ordered, order
    order = logits.argsort(-1, descending=True)
    return probability.gather(1, order), order
