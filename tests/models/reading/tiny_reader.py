"""A tiny GPT that reads and knows nothing, and texts for it."""

from __future__ import annotations

import numpy as np
import torch

from triforce.models.gpt import GPT, GPTConfig
from triforce.models.reading.phonemes import PhonemeTokenizer
from triforce.models.vocabulary import Modality, Vocabulary

NUM_CODES = 40
READER = PhonemeTokenizer()
TEXTS = ("Hello, dear world.", "In 1984 we met Xyzzy.", "A")
VOCABULARY = Vocabulary(
    modalities=(
        Modality(name="text", num_codes=READER.size),
        Modality(name="speech", num_codes=NUM_CODES),
        Modality(name="reading", num_codes=NUM_CODES, shares="speech", interleaves="text"),
    )
)


def make_gpt(**settings) -> GPT:
    torch.manual_seed(0)
    shape = {"vocabulary": VOCABULARY, "num_layers": 2, "width": 64, "num_heads": 4, "max_positions": 512}
    model = GPT(GPTConfig(**(shape | settings))).eval().requires_grad_(False)
    for parameter in model.parameters():  # far from the start, where every position would look alike
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def words_of(text: str) -> list[np.ndarray]:
    return READER.split(READER.encode(text))
