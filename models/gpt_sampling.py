"""Sampling from the GPT: prefill the prompt once, draw several candidates side by side, and allow only legal ids."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from triforce.models.blocks.kv_cache import KVCache
from triforce.models.decoding.network import DecodeNetwork, PlainNetwork
from triforce.models.gpt import GPT
from triforce.models.vocabulary import Segment

END = 0
"""Index of the end marker among the legal ids; code c has index c + 1."""
NOTHING = -1
"""Fills the rest of a finished candidate."""
CHECK_EVERY = 16
"""Steps between checks whether all candidates have ended or loop; a check costs more than a step's bookkeeping."""

MAX_REDRAWS = 8
"""Draws from a nucleus before it is sorted after all; with ``top_p`` of 0.9 one row in 10^8 gets that far."""


class SamplingConfig(BaseModel):
    """Temperature, filters and limits for drawing codes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(0.8, ge=0, le=10, description="Divides the logits; 0 takes the most likely id.")
    top_k: int = Field(0, ge=0, description="Keep this many of the most likely ids; 0 keeps all.")
    top_p: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Keep the most likely ids that together have this probability (Holtzman et al. 2020).",
    )
    repetition_penalty: float = Field(
        1.0, ge=1, le=10, description="Divides the odds of codes already drawn (Keskar et al. 2019); 1 is off."
    )
    num_candidates: int = Field(1, ge=1, le=1024, description="Continuations drawn side by side.")
    min_codes: int = Field(1, ge=0, description="Codes before which a segment cannot end.")
    max_codes: int = Field(700, ge=1, description="Codes after which a segment is cut off; 700 is 30 s of speech.")
    stop_loops: int = Field(
        64,
        ge=0,
        description="Codes that must repeat with a period of at most a quarter of this for a candidate to count as "
        "looping and be ended; 64 are 2.7 s of speech; 0 is off.",
    )
    guidance: float = Field(
        1.0,
        ge=0,
        le=10,
        description="How much a reading, or what follows a text, is pushed from what the network says without the text "
        "to what it says with it (Ho and Salimans 2022); 1 is off. For a GPT trained with text_dropout.",
    )
    min_codes_per_word: int = Field(1, ge=0, description="Codes of a word in a reading at least.")
    max_codes_per_word: int = Field(
        64, ge=1, description="Codes of a word in a reading at most, with the pause behind it; 64 are 2.7 s."
    )

    @model_validator(mode="after")
    def _room_to_end(self) -> SamplingConfig:
        if self.min_codes > self.max_codes:
            raise ValueError(f"min_codes {self.min_codes} is over max_codes {self.max_codes}; lower min_codes")
        if self.min_codes_per_word > self.max_codes_per_word:
            raise ValueError(
                f"min_codes_per_word {self.min_codes_per_word} is over max_codes_per_word {self.max_codes_per_word}"
            )
        return self


class Candidate(NamedTuple):
    """One drawn segment."""

    codes: np.ndarray
    """Codes ``(L,)`` int64."""
    log_probability: float
    """Mean log-probability of the codes and, where it was reached, the end, before temperature and filters."""
    reached_end: bool
    """Whether the GPT ended the segment itself, or its fixed number of codes was drawn."""
    looped: bool = False
    """Whether it was ended because it repeated itself."""
    units: np.ndarray | None = None
    """Codes before each word, or piece, that was gone on to, ``(U,)``, where the text was read aloud."""
    spoken: np.ndarray | None = None
    """Piece of text that is said at each code, ``(L,)`` int64, -1 before the first; where it was read by pieces."""


def sample_segment(
    gpt: GPT | DecodeNetwork, prompt: list[Segment], modality: str, config: SamplingConfig, *, seed: int = 0
) -> list[Candidate]:
    """Draw candidates for a segment of ``modality`` that follows the segments of ``prompt``.

    By the GPT itself or, several times faster on a CPU, by its network for sampling (`decoding.network.for_sampling`).
    Those that ended by themselves come first, then by log-probability. Raises ValueError where the prompt leaves no
    room for the segment.
    """
    network = PlainNetwork(gpt) if isinstance(gpt, GPT) else gpt
    drawer = _Drawer(network, prompt, modality, config, seed)
    drawer.draw()
    return drawer.candidates()


class _Drawer:
    """The state of drawing: ``drawn`` ``(C, steps)`` holds the legal indices that each candidate has so far."""

    def __init__(
        self, network: DecodeNetwork, prompt: list[Segment], modality: str, config: SamplingConfig, seed: int
    ) -> None:
        gpt = network.gpt
        vocabulary = gpt.config.vocabulary
        self.network, self.config, self.device = network, config, gpt.embedding.weight.device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.prompt_ids = np.concatenate(
            [*(vocabulary.segment_ids(segment) for segment in prompt), [vocabulary.begin(modality)]]
        )
        grid = vocabulary.modality(modality).grid
        self.exact = math.prod(grid) if grid else None
        wanted = self.exact or config.max_codes + 1
        self.num_steps = min(wanted, gpt.config.max_positions - len(self.prompt_ids))
        if self.num_steps < (self.exact or 2):
            raise ValueError(
                f"a prompt of {len(self.prompt_ids)} tokens leaves no room for {modality}: this model reads "
                f"{gpt.config.max_positions}; "
                "shorten the text or the voice prompt"
            )
        self.legal = _legal_ids(gpt, modality, self.device)
        self.untold = None
        if config.guidance != 1 and any(segment.modality == "text" for segment in prompt):
            self.untold = [segment for segment in prompt if segment.modality != "text"]
        self.modality = modality
        self.drawn = torch.full((config.num_candidates, self.num_steps), NOTHING, device=self.device)
        self.scores = torch.zeros(config.num_candidates, self.num_steps, device=self.device)
        self.looped = np.zeros(config.num_candidates, dtype=bool)

    @torch.inference_mode()
    def draw(self) -> None:
        """Fill ``drawn``, step by step, until all candidates have ended."""
        network, config = self.network, self.config
        head = network.head(self.legal)  # only legal ids can be drawn, so only they are scored
        like = torch.empty(0, dtype=network.cache_dtype, device=self.device)
        cache = KVCache.empty(network.config, 1, len(self.prompt_ids) + self.num_steps, like)
        hidden = network(torch.as_tensor(self.prompt_ids, device=self.device)[None], cache=cache)
        cache = cache.fan_out(config.num_candidates)
        logits = head(hidden[:, -1]).repeat(config.num_candidates, 1)
        finished = torch.zeros(config.num_candidates, dtype=torch.bool, device=self.device)
        untold = None if self.untold is None else _Untold(self, self.untold, head)
        for step in range(self.num_steps):
            if self.exact or step < config.min_codes:
                logits[:, END] = -torch.inf
            pushed = logits if untold is None else untold.pushed(logits)
            penalised = _penalise(pushed, self.drawn[:, :step], config.repetition_penalty)
            choice = draw_ids(penalised, config, self.generator)
            self.drawn[:, step] = choice.masked_fill(finished, NOTHING)
            score = logits.log_softmax(-1).gather(1, choice[:, None])[:, 0]
            self.scores[:, step] = score.masked_fill(finished, 0)
            finished |= choice == END
            checked = config.num_candidates == 1 or step % CHECK_EVERY == CHECK_EVERY - 1
            if step + 1 == self.num_steps or (checked and finished.all()):
                break
            if config.stop_loops and step % CHECK_EVERY == CHECK_EVERY - 1:
                finished |= torch.from_numpy(self._find_loops(step + 1)).to(self.device)
            logits = head(network(self.legal[choice][:, None], cache=cache)[:, -1])
            if untold is not None:
                untold.step(choice)

    def _find_loops(self, length: int) -> np.ndarray:
        drawn = self.drawn[:, :length].cpu().numpy()
        for row, codes in enumerate(drawn):
            if not self.looped[row] and codes[-1] > END:
                self.looped[row] = is_loop(codes, self.config.stop_loops)
        return self.looped

    def candidates(self) -> list[Candidate]:
        found = []
        most = self.exact or self.config.max_codes  # the last step is there for the end
        for row, score, looped in zip(self.drawn.tolist(), self.scores, self.looped.tolist(), strict=True):
            length = next((i for i, token in enumerate(row) if token <= END), len(row))
            reached_end = (length < len(row) and row[length] == END) or length == self.exact
            length = min(length, most)
            count = length + (reached_end and length < len(row))
            codes = np.array(row[:length], dtype=np.int64) - 1
            found.append(Candidate(codes, float(score[:count].mean()) if count else -np.inf, reached_end, looped))
        return sorted(found, key=lambda c: (not c.reached_end, c.looped, -c.log_probability))


class _Untold:
    """What the network says of the same codes where the prompt's text is hidden, for classifier-free guidance."""

    def __init__(self, drawer: _Drawer, prompt: list[Segment], head: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.network, self.head, self.legal = drawer.network, head, drawer.legal
        self.guidance, copies = drawer.config.guidance, drawer.config.num_candidates
        vocabulary = self.network.gpt.config.vocabulary
        ids = np.concatenate([*map(vocabulary.segment_ids, prompt), [vocabulary.begin(drawer.modality)]]).astype(int)
        like = torch.empty(0, dtype=self.network.cache_dtype, device=drawer.device)
        cache = KVCache.empty(self.network.config, 1, len(ids) + drawer.num_steps, like)
        hidden = self.network(torch.as_tensor(ids, device=drawer.device)[None], cache=cache)
        self.cache = cache.fan_out(copies)
        self.logits = head(hidden[:, -1]).repeat(copies, 1)

    def pushed(self, told: torch.Tensor) -> torch.Tensor:
        """Return logits ``(C, V)``, pushed away from what is said without the text; what may not be drawn stays so."""
        untold = self.logits.log_softmax(-1)
        pushed = untold + self.guidance * (told.log_softmax(-1) - untold)
        return pushed.masked_fill(told == -torch.inf, -torch.inf)  # 0 times infinity is no number

    def step(self, choice: torch.Tensor) -> None:
        """Go on by the indices ``(C,)`` that were drawn."""
        self.logits = self.head(self.network(self.legal[choice][:, None], cache=self.cache)[:, -1])


@torch.inference_mode()
def log_probability(gpt: GPT, prompt: Sequence[Segment], segment: Segment) -> float:
    """Return the log-probability of ``segment`` and its end after ``prompt``, in nats, among the ids legal in it.

    It is minus infinity where prompt and segment together are longer than the GPT reads.
    """
    device = gpt.embedding.weight.device
    vocabulary = gpt.config.vocabulary
    codes = np.asarray(segment.codes).reshape(-1)
    ids = np.concatenate([vocabulary.segment_ids(part) for part in (*prompt, segment)])[:-1]
    if len(ids) > gpt.config.max_positions:
        return -math.inf
    hidden = gpt(torch.as_tensor(ids, device=device)[None])[0, -len(codes) - 1 :]
    scores = (hidden @ gpt.head.weight[_legal_ids(gpt, segment.modality, device)].T).float().log_softmax(-1)
    places = torch.as_tensor(np.append(codes + 1, END), device=device)
    return float(scores.gather(1, places[:, None]).sum())


def noisy_channel_rerank(
    gpt: GPT, prompt: Sequence[Segment], modality: str, candidates: Sequence[Candidate]
) -> list[Candidate]:
    """Rank candidates for a segment of ``modality`` after ``prompt`` by a noisy channel model.

    A candidate's score is its own log-probability plus that of each segment of the prompt after the candidate alone
    (Yee et al. 2019, arXiv 1908.05731). This needs a GPT that was trained from the prompt's modalities to ``modality``
    and back.
    """

    def score(candidate: Candidate) -> float:
        drawn = Segment(modality, candidate.codes)
        return log_probability(gpt, prompt, drawn) + sum(log_probability(gpt, [drawn], given) for given in prompt)

    return sorted(candidates, key=lambda c: (not c.reached_end, c.looped, -score(c)))


def is_loop(codes: Sequence[int] | np.ndarray, length: int) -> bool:
    """Return whether the last ``length`` codes repeat with some period of at most a quarter of ``length``."""
    codes = np.asarray(codes)
    return any(
        len(codes) >= length + period and np.array_equal(codes[-length:], codes[-length - period : -period])
        for period in range(1, length // 4 + 1)
    )


def _legal_ids(gpt: GPT, modality: str, device: torch.device) -> torch.Tensor:
    """Return the ids that are legal inside a segment: the end marker, then the codes in order."""
    vocabulary = gpt.config.vocabulary
    offset = vocabulary.offset(modality)
    codes = torch.arange(offset, offset + vocabulary.modality(modality).num_codes, device=device)
    return torch.cat([torch.tensor([vocabulary.end(modality)], device=device), codes])


def _penalise(logits: torch.Tensor, drawn: torch.Tensor, penalty: float) -> torch.Tensor:
    if penalty == 1 or not drawn.shape[1]:
        return logits
    seen = drawn.clamp_min(0)
    values = logits.gather(1, seen)
    lowered = torch.where(values > 0, values / penalty, values * penalty)
    return logits.scatter(1, seen, torch.where(drawn > 0, lowered, values))


def draw_ids(logits: torch.Tensor, config: SamplingConfig, generator: torch.Generator) -> torch.Tensor:
    """Draw one index for each row of logits ``(B, V)``, by temperature, top-k and top-p."""
    if config.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / config.temperature
    if config.top_k:
        kept, order = logits.topk(min(config.top_k, logits.shape[1]), dim=-1)
        chosen = _choose(_nucleus(kept.softmax(-1), config.top_p), generator)
        return order.gather(1, chosen[:, None])[:, 0]
    probability = logits.softmax(-1)
    if config.top_p == 1:
        return _choose(probability, generator)
    return _draw_nucleus(probability, config.top_p, generator)


def _draw_nucleus(probability: torch.Tensor, top_p: float, generator: torch.Generator) -> torch.Tensor:
    """Draw from the most likely ids that together have ``top_p``, by rejection.

    Rows whose draw lies outside the nucleus are drawn again. Testing that takes one sum over the more likely ids, where
    cutting the nucleus out would take sorting.
    """
    total = probability.cumsum(-1)
    choice = _pick(total, generator)
    for _ in range(MAX_REDRAWS):
        more_likely = probability > probability.gather(1, choice[:, None])
        outside = torch.where(more_likely, probability, 0).sum(-1) >= top_p
        if not outside.any():
            return choice
        choice = torch.where(outside, _pick(total, generator), choice)
    kept, order = probability.sort(-1, descending=True)
    return order.gather(1, _choose(_nucleus(kept, top_p), generator)[:, None])[:, 0]


def _nucleus(probability: torch.Tensor, top_p: float) -> torch.Tensor:
    """Set descending probabilities to 0 after the first ones that reach ``top_p``."""
    before = probability.cumsum(-1) - probability
    return probability.masked_fill(before >= top_p, 0)


def _choose(weights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw an index for each row, with probability in proportion to its weight."""
    return _pick(weights.cumsum(-1), generator)


def _pick(total: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw from running sums ``(B, V)`` by one uniform number, which costs less than torch.multinomial."""
    draw = torch.rand(total.shape[0], 1, generator=generator, device=total.device) * total[:, -1:]
    return torch.searchsorted(total, draw, right=True)[:, 0].clamp_max(total.shape[1] - 1)
