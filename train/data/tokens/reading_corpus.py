"""A corpus of read sentences in memory, and the documents of an epoch, made all at once.

Which known words are spelt in letters, which texts are hidden and which layout a sentence gets is drawn anew in each
epoch. All of it is a handful of NumPy operations on flat arrays, so that an epoch of 40 hours takes about a second.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from triforce.models.reading.interleave import (
    TimedWord,
    begins_unit,
    codes_before,
    piece_times,
    time_words,
)
from triforce.models.reading.phonemes import PhonemeTokenizer
from triforce.models.vocabulary import END_OF_DOCUMENT, ReadingUnits, Vocabulary
from triforce.train.data.tokens.rows import FlatDocuments

LAYOUTS = ("text>reading", "text>speech")


class ReadingConfig(BaseModel):
    """What documents are made of read sentences."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="Seed of the order and of all that is drawn.")
    layouts: dict[str, float] = Field(
        default_factory=lambda: {"text>reading": 1.0},
        description="How often each layout is drawn; a sentence whose words have no times is never text>reading.",
    )
    spelled_share: float = Field(
        0.12, ge=0, le=1, description="Share of the known words that are given in letters, drawn anew each epoch."
    )
    text_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of the documents whose text is hidden: each word is its boundary alone."
    )
    units: ReadingUnits = Field("words", description="As `GPTConfig.reading_units`, which has to be the same.")
    text_weight: float = Field(0.0, ge=0, description="Weight of the text's pieces in the loss.")
    codes_per_s: float = Field(24_000 / 256 / 4, gt=0, description="Codes of a second of speech.")

    @model_validator(mode="after")
    def _check_layouts(self) -> ReadingConfig:
        for name in self.layouts:
            if name not in LAYOUTS:
                raise ValueError(f"layout {name!r}: sentences in memory have {', '.join(LAYOUTS)}")
        if not sum(self.layouts.values()) or min(self.layouts.values()) < 0:
            raise ValueError(f"layouts {self.layouts}: give at least one with a weight over 0")
        return self


@dataclass(frozen=True)
class ReadingTexts:
    """Sentences as words in pieces, flat: words of sentence n are ``sentences[n]`` to ``sentences[n + 1]``."""

    pieces: np.ndarray
    """Pieces of all words, first as they are read, then all in letters, int16."""
    read: np.ndarray
    """First piece of each word as it is read, and behind the last, int64 ``(W + 1,)``."""
    spelt: np.ndarray
    """First piece of each word in letters, and behind the last, int64 ``(W + 1,)``."""
    sentences: np.ndarray
    """First word of each sentence, and the number of all words, int64 ``(N + 1,)``."""
    starts_s: np.ndarray
    """Start of each word in seconds from the clip's start, float32 ``(W,)``; 0 where it is not known."""
    ends_s: np.ndarray
    """End of each word in seconds, float32 ``(W,)``; 0 where it is not known."""
    timed: np.ndarray
    """Whether the words of a sentence have times, bool ``(N,)``."""
    pieces_s: np.ndarray | None = None
    """Start of each of ``pieces`` in seconds, float32, NaN where it is not known; None where none is."""

    @classmethod
    def make(cls, reader: PhonemeTokenizer, texts: Iterable[tuple[str, Sequence[TimedWord] | None]]) -> ReadingTexts:
        """Read texts, each with its words and their times where they are known; where they do not fit, none are."""
        read, spelt, counts, timed = [], [], [], []
        starts: list[np.ndarray] = [np.zeros(0)]
        ends: list[np.ndarray] = [np.zeros(0)]
        known: list[np.ndarray] = []
        for text, words in texts:
            found = time_words(reader, text, words) if words else None
            both = reader.words(text) if found is None else found.words
            read += [word.read for word in both]
            spelt += [word.spelt for word in both]
            counts.append(len(both))
            starts.append(np.zeros(len(both)) if found is None else found.starts_s)
            ends.append(np.zeros(len(both)) if found is None else found.ends_s)
            timed.append(found is not None)
            unknown = [np.full(len(word.read), np.nan) for word in both]
            known += unknown if found is None or found.pieces_s is None else found.pieces_s
        pieces = np.concatenate([*read, *spelt, np.zeros(0, np.int64)]).astype(np.int16)
        bounds = np.cumsum([0, *map(len, read), *map(len, spelt)])
        pieces_s = np.full(len(pieces), np.nan, np.float32)
        pieces_s[: bounds[len(read)]] = np.concatenate([*known, np.zeros(0)])
        return cls(
            pieces,
            bounds[: len(read) + 1],
            bounds[len(read) :],
            np.cumsum([0, *counts]),
            np.concatenate(starts).astype(np.float32),
            np.concatenate(ends).astype(np.float32),
            np.array(timed, dtype=bool),
            None if np.isnan(pieces_s).all() else pieces_s,
        )

    def save(self, path: Path) -> None:
        """Write the arrays into a file ``.npz``."""
        np.savez_compressed(path, **{name: array for name, array in vars(self).items() if array is not None})

    @classmethod
    def load(cls, path: Path) -> ReadingTexts:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**arrays)


class ReadingCorpus:
    """Codes of sentences and their texts; `documents` makes an epoch's documents of them."""

    def __init__(
        self, codes: Sequence[np.ndarray], texts: ReadingTexts, vocabulary: Vocabulary, config: ReadingConfig
    ) -> None:
        if len(codes) != len(texts.timed):
            raise ValueError(f"{len(codes)} clips and {len(texts.timed)} texts: give one text a clip")
        self.texts, self.vocabulary, self.config = texts, vocabulary, config
        self.num_codes = np.array([len(c) for c in codes], np.int64)
        self.codes = np.concatenate([np.asarray(c, np.int32).reshape(-1) for c in codes])
        limit = vocabulary.modality("speech").num_codes
        if self.codes.size and (self.codes.min() < 0 or self.codes.max() >= limit):
            raise ValueError(f"codes from {self.codes.min()} to {self.codes.max()}: the vocabulary has {limit}")
        self._sentence_of_word = np.repeat(np.arange(len(codes)), np.diff(texts.sentences))
        reading = config.layouts.get("text>reading", 0.0)
        self._reading_share = reading / sum(config.layouts.values())

    @property
    def num_untimed(self) -> int:
        """Sentences whose words have no times, which text>reading leaves out."""
        return int((~self.texts.timed).sum())

    def as_it_is(self) -> ReadingCorpus:
        """Return this corpus with no word spelt and no text hidden, to evaluate on."""
        changed = copy.copy(self)
        changed.config = self.config.model_copy(update={"spelled_share": 0.0, "text_dropout": 0.0})
        return changed

    def subset(self, rows: np.ndarray) -> ReadingCorpus:
        """Return a corpus of the sentences ``rows`` alone, in this order."""
        texts, ends = self.texts, self.num_codes.cumsum()
        words = np.concatenate([np.arange(*texts.sentences[[n, n + 1]]) for n in rows] or [np.zeros(0, np.int64)])
        places = [np.arange(b[w], b[w + 1]) for b in (texts.read, texts.spelt) for w in words]
        bounds = np.cumsum([0, *map(len, places)])
        flat = np.concatenate([*places, np.zeros(0, np.int64)])
        chosen = ReadingTexts(
            texts.pieces[flat],
            bounds[: len(words) + 1],
            bounds[len(words) :],
            np.concatenate([[0], np.diff(texts.sentences)[rows].cumsum()]).astype(np.int64),
            texts.starts_s[words],
            texts.ends_s[words],
            texts.timed[rows],
            None if texts.pieces_s is None else texts.pieces_s[flat],
        )
        codes = [self.codes[ends[n] - self.num_codes[n] : ends[n]] for n in rows]
        return ReadingCorpus(codes, chosen, self.vocabulary, self.config)

    def documents(self, epoch: int) -> FlatDocuments:
        """Return the documents of an epoch, one a sentence; empty for one that joins no layout."""
        config, texts, vocabulary = self.config, self.texts, self.vocabulary
        generator = np.random.default_rng([config.seed, epoch, len(self.num_codes)])
        num = len(self.num_codes)
        reads = (generator.random(num) < self._reading_share) & texts.timed
        there = reads | (self._reading_share < 1)
        hidden = generator.random(num) < config.text_dropout
        spelt = generator.random(len(texts.starts_s)) < config.spelled_share
        of_word = self._sentence_of_word

        # Pieces of each word, and of each sentence
        first = np.where(spelt, texts.spelt[:-1], texts.read[:-1])
        length = np.where(spelt, np.diff(texts.spelt), np.diff(texts.read))
        length = np.where(there[of_word], np.where(hidden[of_word], reads[of_word].astype(np.int64), length), 0)
        ends = np.concatenate([[0], length.cumsum()])
        num_pieces = np.diff(ends[texts.sentences])
        num_codes = np.where(there, self.num_codes, 0)

        # Where documents, the reading or speech segments in them, and their ends lie
        prefix = np.where(hidden, 0, num_pieces + 2)
        sizes = np.where(there, prefix + num_codes + np.where(reads, num_pieces, 0) + 3, 0)
        starts = np.concatenate([[0], sizes.cumsum()])
        body = starts[:-1] + prefix
        ids = np.zeros(starts[-1], np.int32)
        weights = np.zeros(starts[-1], np.float32)

        # Markers
        shown = there & ~hidden
        ids[starts[:-1][shown]] = vocabulary.begin("text")
        ids[body[shown] - 1] = vocabulary.end("text")
        weights[body[shown] - 1] = config.text_weight
        kinds = ("speech", "reading") if self._reading_share else ("speech", "speech")
        begin, end = (np.array([marker(kind) for kind in kinds]) for marker in (vocabulary.begin, vocabulary.end))
        ids[body[there]] = begin[reads[there].astype(int)]
        last = starts[1:][there] - 1
        ids[last] = END_OF_DOCUMENT
        ids[last - 1] = end[reads[there].astype(int)]
        weights[last - 1] = 1.0

        # Pieces in the text and, before the codes that say them, in the reading
        source = np.repeat(first - ends[:-1], length) + np.arange(ends[-1])
        pieces = texts.pieces[source].astype(np.int32)
        word = np.repeat(np.arange(len(length)), length)
        owner = of_word[word]
        along = np.arange(ends[-1]) - ends[texts.sentences[:-1]][owner]
        in_text = shown[owner]
        place = starts[:-1][owner[in_text]] + 1 + along[in_text]
        ids[place] = pieces[in_text] + vocabulary.offset("text")
        weights[place] = config.text_weight
        in_reading = reads[owner]
        before = self._codes_before(pieces, source, word, owner)
        place = (body[owner] + 1 + along + before)[in_reading]
        ids[place] = pieces[in_reading] + vocabulary.offset("text")
        weights[place] = begins_unit(pieces, config.units)[in_reading]

        # Codes, behind all pieces that have begun
        slots = np.concatenate([[0], (self.num_codes + 1).cumsum()])
        passed = np.bincount((slots[owner] + before)[in_reading], minlength=int(slots[-1])).cumsum()
        passed = passed - np.concatenate([[0], passed])[slots[:-1]].repeat(self.num_codes + 1)
        of_code = np.repeat(np.arange(num), self.num_codes)
        code = np.arange(len(self.codes)) - np.repeat(self.num_codes.cumsum() - self.num_codes, self.num_codes)
        place = body[of_code] + 1 + code + passed[slots[of_code] + code]
        kept = there[of_code]
        ids[place[kept]] = self.codes[kept] + vocabulary.offset("speech")
        weights[place[kept]] = 1.0
        return FlatDocuments(ids, weights, starts)

    def _codes_before(self, pieces: np.ndarray, source: np.ndarray, word: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Return how many codes come before each piece ``(L,)``, which lies at ``source`` among those of the texts, of
        words and sentences ``(L,)`` in a reading.
        """
        texts, config = self.texts, self.config
        times = texts.starts_s[word]
        if config.units == "pieces" and texts.pieces_s is None:
            times = piece_times(pieces, word, texts.starts_s, texts.ends_s)
        elif config.units == "pieces" and texts.pieces_s is not None:
            apart = ~np.isnan(texts.pieces_s[texts.read[:-1]])
            times = piece_times(pieces, word, texts.starts_s, texts.ends_s, apart=apart)
            known = texts.pieces_s[source]
            times = np.where(np.isnan(known), times, known)
        return codes_before(times, self.num_codes[owner], config.codes_per_s)
