"""What a machine without piper needs to speak: a voice's weights, and sentences as phonemes with their words.

```
voice.safetensors   weights of vits.Vits, float16
voice.json          its marks, sources of the sentences and their licences
<name>.npz          sentences: texts, symbols, words of the symbols, sources
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from triforce.flows.examples.piper.vits import Vits

FORMAT = "triforce-voice-1"
NO_WORD = 255
"""Index of a phoneme that belongs to no word."""


class Marks(NamedTuple):
    """Ids that frame and part the phonemes of a sentence."""

    begin: int
    pad: int
    end: int


@dataclass(frozen=True)
class SpokenText:
    """A sentence that can be spoken."""

    name: str
    text: str
    symbols: np.ndarray
    """``(S,)`` uint8 ids of phonemes, without marks."""
    words: np.ndarray
    """``(S,)`` uint8: the place in ``text.split()`` of the word that a phoneme belongs to, or ``NO_WORD``."""
    source: str
    licence: str

    @property
    def num_ids(self) -> int:
        """Ids of the network's input."""
        return 2 * len(self.symbols) + 3

    def ids(self, marks: Marks) -> np.ndarray:
        """Return the network's input, ``(num_ids,)`` int64: the phonemes with a pad after each, between the marks."""
        ids = np.full(self.num_ids, marks.pad, np.int64)
        ids[0], ids[-1], ids[2:-1:2] = marks.begin, marks.end, self.symbols
        return ids

    def word_times(self, durations_s: np.ndarray) -> list[tuple[str, float, float]]:
        """Return each word with start and end in seconds, from the durations of ``ids``."""
        ends = np.cumsum(durations_s)
        starts = ends - durations_s
        places = np.flatnonzero(self.words != NO_WORD)
        owners, words = self.words[places], self.text.split()
        first = places[np.searchsorted(owners, np.arange(len(words)))]
        last = places[np.searchsorted(owners, np.arange(len(words)), "right") - 1]
        begin, end = starts[2 + 2 * first].tolist(), ends[3 + 2 * last].tolist()
        return [(word, round(a, 4), round(b, 4)) for word, a, b in zip(words, begin, end, strict=True)]


def write_voice(folder: Path, weights: Mapping[str, np.ndarray], marks: Marks, licences: Mapping[str, str]) -> None:
    """Write the network; ``licences`` names the terms of each source of sentences."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: array.astype(np.float16) for name, array in weights.items()}, folder / "voice.safetensors")
    facts = {"format": FORMAT, "marks": marks._asdict(), "licences": dict(licences)}
    (folder / "voice.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def load_voice(folder: Path, device: torch.device | str = "cpu") -> tuple[Vits, Marks]:
    """Load the network, float32, and its marks."""
    from safetensors.numpy import load_file

    weights = load_file(folder / "voice.safetensors")
    network = Vits()
    network.load_state_dict({name: torch.from_numpy(array.astype(np.float32)) for name, array in weights.items()})
    return network.to(device).eval().requires_grad_(False), Marks(**_facts(folder)["marks"])


def write_texts(folder: Path, name: str, texts: Sequence[SpokenText]) -> None:
    """Write sentences as ``<name>.npz``; their own names are not kept."""
    sources = sorted({text.source for text in texts})
    arrays: dict[str, Any] = {
        "texts": np.frombuffer("\n".join(text.text for text in texts).encode(), np.uint8),
        "symbols": np.concatenate([text.symbols for text in texts]),
        "words": np.concatenate([text.words for text in texts]),
        "num_symbols": np.array([len(text.symbols) for text in texts], np.uint16),
        "source_names": np.frombuffer("\n".join(sources).encode(), np.uint8),
        "sources": np.array([sources.index(text.source) for text in texts], np.uint8),
    }
    np.savez_compressed(folder / f"{name}.npz", **arrays)


def load_texts(folder: Path, name: str) -> list[SpokenText]:
    """Load the sentences of ``<name>.npz``; they are called by ``name`` and their number."""
    with np.load(folder / f"{name}.npz") as arrays:
        texts = arrays["texts"].tobytes().decode().split("\n")
        sources = arrays["source_names"].tobytes().decode().split("\n")
        source = arrays["sources"].tolist()
        cuts = np.cumsum(arrays["num_symbols"], dtype=np.int64)[:-1]
        symbols, words = np.split(arrays["symbols"], cuts), np.split(arrays["words"], cuts)
    licences = _facts(folder)["licences"]
    return [
        SpokenText(f"{name}-{at:06d}", text, symbols[at], words[at], sources[source[at]], licences[sources[source[at]]])
        for at, text in enumerate(texts)
    ]


def _facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "voice.json").read_text(encoding="utf-8"))
    if facts.get("format") != FORMAT:
        raise ValueError(f"{folder}: format {facts.get('format')!r}, this version reads {FORMAT!r}: prepare it again")
    return facts
