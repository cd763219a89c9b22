"""Draw a segment from the transformer: prefill the prompt once, fan out candidates, and let only legal ids through."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from triforce.models.gpt import GPT, KVCache
from triforce.models.vocabulary import Segment


class SamplingConfig(BaseModel):
    """How codes are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(0.8, ge=0, le=10, description="Divides the logits; 0 takes the likeliest.")
    top_k: int = Field(0, ge=0, description="Keep this many of the likeliest ids; 0 keeps all.")
    top_p: float = Field(
        0.95, gt=0, le=1, description="Keep the likeliest ids that hold this much probability (Holtzman et al. 2020)."
    )
    repetition_penalty: float = Field(
        1.0, ge=1, le=10, description="Divides the odds of codes already drawn (Keskar et al. 2019); 1 is off."
    )
    num_candidates: int = Field(1, ge=1, le=1024, description="Continuations drawn side by side.")
    max_codes: int = Field(700, ge=1, description="Codes after which a segment is cut off; 700 is 30 s of speech.")


class Candidate(NamedTuple):
    codes: np.ndarray
    """``(L,)`` int64."""
    log_probability: float
    """Mean over the codes and, where it was reached, the end, before temperature and filters."""
    reached_end: bool


@torch.inference_mode()
def sample_segment(
    gpt: GPT, prompt: list[Segment], modality: str, config: SamplingConfig, *, seed: int = 0
) -> list[Candidate]:
    """Candidates for a segment of ``modality`` behind the segments of ``prompt``, best log-probability first."""
    vocabulary = gpt.config.vocabulary
    device = gpt.embedding.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    prompt_ids = np.concatenate(
        [*(vocabulary.segment_ids(segment) for segment in prompt), [vocabulary.begin(modality)]]
    )
    num_steps = min(config.max_codes + 1, gpt.config.max_positions - len(prompt_ids))
    if num_steps < 2:
        raise ValueError(
            f"a prompt of {len(prompt_ids)} tokens leaves no room for {modality}: this model reads "
            f"{gpt.config.max_positions}; "
            "shorten the text or the voice prompt"
        )
    cache = KVCache.empty(gpt.config, 1, len(prompt_ids) + num_steps, gpt.embedding.weight)
    hidden = gpt(torch.as_tensor(prompt_ids, device=device)[None], cache=cache)[:, -1:]
    cache = cache.fan_out(config.num_candidates)
    legal = _legal_ids(gpt, modality, device)
    head = gpt.head.weight[legal]  # nothing else can be drawn, so nothing else is scored
    drawn = torch.full((config.num_candidates, num_steps), -1, device=device)
    scores = torch.zeros(config.num_candidates, num_steps, device=device)
    logits = (hidden[:, -1] @ head.T).expand(config.num_candidates, -1)
    finished = torch.zeros(config.num_candidates, dtype=torch.bool, device=device)
    for step in range(num_steps):
        choice = _draw(_penalise(logits, drawn[:, :step], config.repetition_penalty), config, generator)
        drawn[:, step] = choice.masked_fill(finished, -1)
        scores[:, step] = logits.log_softmax(-1).gather(1, choice[:, None])[:, 0].masked_fill(finished, 0)
        finished |= choice == 0  # the end marker comes first among the legal ids
        if finished.all() or step + 1 == num_steps:
            break
        logits = gpt(legal[choice][:, None], cache=cache)[:, -1] @ head.T
    return _collect(drawn, scores)


def _legal_ids(gpt: GPT, modality: str, device: torch.device) -> torch.Tensor:
    """The end marker, then the codes in order."""
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


def _draw(logits: torch.Tensor, config: SamplingConfig, generator: torch.Generator) -> torch.Tensor:
    """One index a row of ``(B, V)``."""
    if config.temperature == 0:
        return logits.argmax(-1)
    ordered, order = (logits.float() / config.temperature).sort(-1, descending=True)
    if config.top_k:
        ordered[:, config.top_k :] = -torch.inf
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability
    probability = probability.masked_fill(before >= config.top_p, 0)
    return order.gather(1, torch.multinomial(probability, 1, generator=generator))[:, 0]


def _collect(drawn: torch.Tensor, scores: torch.Tensor) -> list[Candidate]:
    candidates = []
    for row, score in zip(drawn.tolist(), scores, strict=True):
        length = next((i for i, token in enumerate(row) if token <= 0), len(row))
        reached_end = length < len(row) and row[length] == 0
        count = length + reached_end
        codes = np.array(row[:length], dtype=np.int64) - 1
        candidates.append(Candidate(codes, float(score[:count].mean()) if count else -np.inf, reached_end))
    return sorted(candidates, key=lambda c: (not c.reached_end, -c.log_probability))
