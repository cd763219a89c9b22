"""Words with times: grouping of Whisper's tokens into words, and sharing out a window's words to its clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

ENCODER_FRAMES_PER_S = 50
"""10 ms mel frames, halved by the encoder's stride."""


@dataclass(frozen=True)
class Word:
    """A recognised word."""

    word: str
    start_s: float
    """Seconds from the start of the clip, or of the window before words are shared out."""
    end_s: float
    probability: float
    """Mean probability of the word's tokens."""


@dataclass
class AlignedWords:
    """Words in order, and the log probabilities of each word's tokens."""

    words: list[Word] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The words as one text; each brings the space before it."""
        return "".join(word.word for word in self.words).strip()

    @property
    def avg_logprob(self) -> float | None:
        """Mean natural logarithm of the tokens' probabilities; None without words."""
        found = [logprob for own in self.logprobs for logprob in own]
        return float(np.mean(found)) if found else None


def group_tokens(
    pieces: Sequence[str],
    piece_tokens: Sequence[Sequence[int]],
    path: Sequence[tuple[int, int]],
    probabilities: Sequence[float],
) -> AlignedWords:
    """Group the tokens of one window into words.

    ``pieces`` and their tokens are what `faster_whisper.tokenizer.Tokenizer.split_to_word_tokens` gives, the end token
    last; ``path`` holds pairs of token and encoder frame, in order; ``probabilities`` has one value a text token.
    Punctuation that stands alone joins the word before it, an opening mark the word after it.
    """
    found = AlignedWords()
    if len(pieces) <= 1:
        return found
    steps, num_tokens = np.asarray(path), sum(len(tokens) for tokens in piece_tokens[:-1])
    first_frames = steps[np.searchsorted(steps[:, 0], np.arange(num_tokens + 1)).clip(max=len(steps) - 1), 1]
    at, opening = 0, ""
    for piece, own_tokens in zip(pieces[:-1], piece_tokens[:-1], strict=True):
        stop = at + len(own_tokens)
        own = probabilities[at:stop]
        logprobs = [math.log(max(probability, 1e-10)) for probability in own]
        start_s, end_s = (float(first_frames[edge]) / ENCODER_FRAMES_PER_S for edge in (at, stop))
        at = stop
        is_mark = not any(character.isalnum() for character in piece)
        if is_mark and piece.startswith(" ") and piece.strip():
            opening += piece
        elif is_mark and found.words:
            last = found.words[-1]
            found.words[-1] = Word(last.word + piece, last.start_s, last.end_s, last.probability)
            found.logprobs[-1] += logprobs
        else:
            word = opening + piece.removeprefix(" ") if opening else piece
            found.words.append(Word(word, start_s, end_s, float(np.mean(own))))
            found.logprobs.append(logprobs)
            opening = ""
    return found


def share_out(aligned: AlignedWords, bounds: Sequence[tuple[float, float]]) -> list[AlignedWords]:
    """Give each word of a window to the clip that its middle lies in, or else next to.

    ``bounds`` are the clips' starts and ends in the window, in seconds; the words' times come back as `within` them.
    """
    shares = [AlignedWords() for _ in bounds]
    for word, logprobs in zip(aligned.words, aligned.logprobs, strict=True):
        middle = (word.start_s + word.end_s) / 2
        at = min(range(len(bounds)), key=lambda i: max(bounds[i][0] - middle, middle - bounds[i][1], 0.0))
        shares[at].words.append(within(word, *bounds[at]))
        shares[at].logprobs.append(logprobs)
    return shares


def within(word: Word, start_s: float, end_s: float) -> Word:
    """Return the word with times from ``start_s`` on, cut at that and at ``end_s``, to hundredths of a second."""
    first, last = (round(min(max(time_s, start_s), end_s) - start_s, 2) for time_s in (word.start_s, word.end_s))
    return Word(word.word, first, last, word.probability)
