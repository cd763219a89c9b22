"""Make documents of token samples in any layout, and packed rows of documents.

A layout names segments and their order, as in ``text>speech``, ``speech>text`` or ``voice+text>image``; what stands
behind ``>`` is what sampling will be asked for. A ``voice`` segment is another clip of the same speaker. Media that lie
in shard sets of their own meet by `TokenDataConfig.join_on`. A ``reading`` segment is speech with the pieces of each
word before the codes that say it, for clips whose words have times.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from triforce.models.reading.front_end import FrontEnd, keeps_words, require_phonemes
from triforce.models.reading.interleave import (
    WordTimes,
    codes_before,
    interleave,
    reading_weights,
    starts_of_pieces,
    time_words,
)
from triforce.models.reading.phonemes import PhonemeTokenizer
from triforce.models.text import clean_text
from triforce.models.vocabulary import ReadingUnits, Segment, Vocabulary
from triforce.tokenize.token_sample import TokenSample
from triforce.train.data.config import TokenDataConfig
from triforce.train.data.order import Place, ShuffledOrder
from triforce.train.data.tokens.rows import PackedBatch, stack
from triforce.train.data.tokens.token_store import TokenStore, Where, join_value


def parse_layout(layout: str) -> tuple[str, ...]:
    """The modalities of a layout, in order."""
    if not re.fullmatch(r"[a-z]+([+][a-z]+)*(>[a-z]+)?", layout):
        raise ValueError(f"layout {layout!r}: write modalities joined by + and at most one >, as in voice+text>speech")
    return tuple(re.split(r"[+>]", layout))


class Documents:
    """Draws a document for each position of the order; what is drawn depends on the seed and the position alone.

    ``keep`` says by a clip's id whether it belongs here, training or validation; neither borrows from the other. With
    ``as_it_is`` no word is spelt and no text hidden.
    """

    def __init__(
        self,
        store: TokenStore,
        vocabulary: Vocabulary,
        tokenizer: FrontEnd,
        config: TokenDataConfig,
        keep: Callable[[str], bool],
        *,
        units: ReadingUnits = "words",
        as_it_is: bool = False,
    ) -> None:
        self.store, self.vocabulary, self.config, self.keep = store, vocabulary, config, keep
        self.units = units
        self.num_untimed = 0
        """Documents that could not be a reading, because the times of their words are not known or do not fit."""
        self._spelled_share = config.spelled_share if keeps_words(tokenizer) and not as_it_is else 0.0
        self._text_dropout = 0.0 if as_it_is else config.text_dropout
        self._tokenizer = tokenizer
        self.order = ShuffledOrder(store.group_sizes, config.seed)
        self._layouts = [(parse_layout(layout), weight) for layout, weight in config.layouts.items() if weight]
        known = {"text", *store.modalities, *(["voice", "reading"] if "speech" in store.modalities else [])}
        for layout, _ in self._layouts:
            for name in layout:
                if name not in known:
                    raise ValueError(
                        f"layout {'+'.join(layout)}: no shard set holds {name}; there are {', '.join(sorted(known))}"
                    )
        self._reader = None
        if any("reading" in layout for layout, _ in self._layouts):
            self._reader = require_phonemes(tokenizer)
        self._partners = store.by_field(config.join_on, keep) if len(store.modalities) > 1 else {}

    def segments(self, position: int) -> list[Segment] | None:
        """The document at a position of the order; None where its clip is not to be kept or joins no layout."""
        where = Where(*self.order(position))
        sample = self.store.sample(where)
        if not self.keep(sample.clip_id):
            return None
        generator = np.random.default_rng([self.config.seed, position])
        timed = self._timed_words(where, sample)
        layout = self._layout(where, sample, generator, reads=timed is not None)
        if layout is None:
            return None
        hidden = layout[-1] != "text" and self._text_dropout > 0 and generator.random() < self._text_dropout
        pieces = self._word_pieces(sample, timed, generator)
        segments = []
        for name in layout:
            codes: np.ndarray | None
            if name == "reading":
                words = [word[:1] for word in pieces] if hidden else pieces
                codes = self._reading(sample, timed, words)
            elif name == "text" and pieces is not None:
                codes = np.concatenate([np.zeros(0, np.int64), *pieces])
            else:
                codes = self._codes(name, where, sample, generator)
            if codes is not None and not (name == "text" and hidden):
                segments.append(Segment(name, codes))
        return segments

    @property
    def _num_speech_codes(self) -> int:
        return self.vocabulary.modality("speech").num_codes

    def _timed_words(self, where: Where, sample: TokenSample) -> WordTimes | None:
        """The words of a sample of speech and their times; None where these are not known or do not fit."""
        if self._reader is None or self.store.modality(where) != "speech":
            return None
        found = time_words(self._reader, self._text(sample), sample.metadata.get("words") or [])
        self.num_untimed += found is None
        return found

    def _reading(self, sample: TokenSample, timed: WordTimes, words: list[np.ndarray]) -> np.ndarray:
        """The codes of a ``reading`` segment whose words are given as these pieces."""
        pieces = np.concatenate(words)
        if self.units == "pieces":
            times = starts_of_pieces(timed, words)
        else:
            times = timed.starts_s.repeat([len(each) for each in words])
        (num_frames,), duration_s = sample.metadata["size"], sample.metadata["duration_s"]
        # Frames are hops apart, the first at 0 s, and each code has as many frames.
        frames_per_code = -(-num_frames // max(1, sample.codes.size))
        rate = max(1, num_frames - 1) / duration_s / frames_per_code
        return interleave(sample.codes, pieces, codes_before(times, sample.codes.size, rate), self._num_speech_codes)

    def _word_pieces(
        self,
        sample: TokenSample,
        timed: WordTimes | None,
        generator: np.random.Generator,
    ) -> list[np.ndarray] | None:
        """The pieces of each word, a share of them spelt; None where the front end keeps no words."""
        if timed is not None:
            words = timed.words
        elif self._spelled_share and isinstance(self._tokenizer, PhonemeTokenizer):
            words = self._tokenizer.words(self._text(sample))
        else:
            return None
        spelt = generator.random(len(words)) < self._spelled_share
        return [word.spelt if letters else word.read for word, letters in zip(words, spelt, strict=True)]

    def _layout(
        self, where: Where, sample: TokenSample, generator: np.random.Generator, *, reads: bool
    ) -> tuple[str, ...] | None:
        """One of the layouts whose media this sample has, itself or by the join; each is as likely as its weight."""
        value = join_value(sample, self.config.join_on)
        there = {"text", "voice", self.store.modality(where), *(["reading"] if reads else [])} | {
            m for m, by in self._partners.items() if by.get(value)
        }
        possible = [(layout, weight) for layout, weight in self._layouts if there.issuperset(layout)]
        if not possible:
            return None
        weights = np.array([weight for _, weight in possible])
        return possible[generator.choice(len(possible), p=weights / weights.sum())][0]

    def _codes(self, name: str, where: Where, sample: TokenSample, generator: np.random.Generator) -> np.ndarray | None:
        own = self.store.modality(where)
        if name == "text":
            # The first set's tokenizer reads the texts of all.
            return sample.text if not self._partners else self._tokenizer.encode(self._text(sample))
        if name == own:
            return sample.codes.reshape(-1)
        if name == "voice" and own == "speech":
            return self._voice(where, sample, generator)
        value = join_value(sample, self.config.join_on)
        others = self._partners["speech" if name == "voice" else name][value]
        other = others[generator.integers(len(others))]
        found = self.store.sample(other)
        return self._voice(other, found, generator) if name == "voice" else found.codes.reshape(-1)

    @staticmethod
    def _text(sample: TokenSample) -> str:
        return clean_text(sample.metadata.get("text") or "")

    def _voice(self, own: Where, sample: TokenSample, generator: np.random.Generator) -> np.ndarray | None:
        """Codes of another clip of the speaker from the same shard, where a speaker's clips lie side by side; None if
        there is none. It never shares a moment with ``sample``.
        """
        speaker = sample.metadata.get("speaker")
        if not speaker:
            return None
        neighbours = (Where(own.group, row) for row in range(self.store.group_sizes[own.group]) if row != own.row)
        others = [
            other
            for other in map(self.store.sample, neighbours)
            if other.metadata.get("speaker") == speaker and self.keep(other.clip_id) and not overlap(sample, other)
        ]
        if not others:
            return None
        codes = others[generator.integers(len(others))].codes
        longest = self.config.voice_codes
        start = int(generator.integers(max(1, len(codes) - longest + 1)))
        return codes[start : start + longest]

    def tokens(self, segments: list[Segment]) -> tuple[np.ndarray, np.ndarray]:
        """Ids ``(L,)`` of a document and the weight of each as a target."""
        ids = self.vocabulary.document_ids(segments)
        lengths = [len(segment.codes) + 2 for segment in segments]
        values = [self.config.loss_weights.get(segment.modality, 1.0) for segment in segments]
        weights = [np.full(length, value) for length, value in zip(lengths, values, strict=True)]
        for number, segment in enumerate(segments):
            if segment.modality == "reading":
                weights[number] = values[number] * reading_weights(segment.codes, self._num_speech_codes, self.units)
        last = 0.0 if segments and segments[-1].modality == "reading" else 1.0
        return ids, np.concatenate([*weights, [last]]).astype(np.float32)


def overlap(one: TokenSample, other: TokenSample, sample_rate_hz: int = 24_000) -> bool:
    """Whether two clips share a moment of one recording; a clip's id ends in its first sample."""
    (recording, start), (recording_2, start_2) = (sample.clip_id.rpartition("-")[::2] for sample in (one, other))
    if recording != recording_2 or not (start.isdigit() and start_2.isdigit()):
        return one.clip_id == other.clip_id
    lengths = [int(sample.metadata.get("duration_s", 0) * sample_rate_hz) for sample in (one, other)]
    return int(start) < int(start_2) + lengths[1] and int(start_2) < int(start) + lengths[0]


class Packer:
    """Fills rows of ``context`` tokens with whole documents; one that is longer than a row is passed over and
    counted.
    """

    def __init__(self, documents: Documents, context: int) -> None:
        self.documents, self.context = documents, context
        self.num_read = self.num_too_long = 0

    def batch(self, place: Place, num_rows: int) -> PackedBatch:
        """The next rows from ``place``, which moves on."""
        return stack([self._row(place) for _ in range(num_rows)], self.context)

    def _row(self, place: Place) -> list[tuple[np.ndarray, np.ndarray]]:
        row: list[tuple[np.ndarray, np.ndarray]] = []
        space, misses = self.context, 0
        while True:
            taken = place.taken
            segments = self.documents.segments(place.next())
            ids, weights = self.documents.tokens(segments) if segments else (np.empty(0, np.int64), None)
            if not segments or len(ids) > self.context:
                self.num_too_long += bool(segments)
                self.num_read += bool(segments)
                misses += 1
                if misses > self.documents.order.epoch_length:
                    raise ValueError(
                        f"no document fits into context {self.context}; the last had {len(ids)} tokens: raise context, "
                        "or name layouts whose media the shards have"
                    )
            elif len(ids) > space:
                place.taken = taken  # it begins the next row
                return row
            else:
                row.append((ids, weights))
                self.num_read += 1
                space -= len(ids)
                misses = 0
