"""Text as phonemes, letters or BPE, and what the normaliser makes of figures and signs."""

import numpy as np
import pytest

from triforce.models.reading.front_end import load_front_end, make_front_end, require_phonemes
from triforce.models.reading.lexicon import PHONEMES, lexicon, pronounce
from triforce.models.reading.normalise import normalise
from triforce.models.reading.phonemes import BOUNDARY, SYMBOLS, PhonemeTokenizer

NORMALISED = {
    "It cost $3.50, then £1.01 or $2.5 million.": "It cost three dollars and fifty cents, then one pound and one penny "
    "or two point five million dollars.",
    "From 1984 to 2007, in 1905 and 2024.": "From nineteen eighty four to two thousand seven, in nineteen oh five and "
    "twenty twenty four.",
    "On March 3, 2024 at 3:45 p.m. we met.": "On March third, twenty twenty four at three forty five PM we met.",
    "12/25/2023 and 2024-03-15": "December twenty fifth, twenty twenty three and March fifteenth, twenty twenty four",
    "4 July 1776, Jan. 5": "the fourth of July seventeen seventy six, January fifth",
    "Louis XIV, Henry VIII, Chapter IV, World War II; I agree.": "Louis the fourteenth, Henry the eighth, Chapter "
    "four, World War two; I agree.",
    "Dr. Smith vs. Mrs. Jones, etc.": "Doctor Smith versus Missus Jones, et cetera.",
    "Call (212) 555-6789.": "Call two one two, five five five, six seven eight nine.",
    "3/4 of 2 1/2 is 1.875, not -5.": "three quarters of two and one half is one point eight seven five, not minus "
    "five.",
    "1,234,567 people, 007, the 21st": "one million two hundred thirty four thousand five hundred sixty seven people, "
    "oh oh seven, the twenty first",
    "the 1990s and '90s": "the nineteen nineties and nineties",
    "50% of 5km at 60 mph, 20°C": "fifty percent of five kilometers at sixty miles per hour, twenty degrees Celsius",
    "www.example.com & #5": "www dot example dot com and number five",
    "HELLO WORLD, THIS IS US.": "hello world, this is us.",
    "“Naïve” — quoted…": '"Naive" - quoted.',
    "The U.S. and the U.K.": "The US and the UK",
    "привет": "",
    "Nothing to do.": "Nothing to do.",
}


@pytest.mark.parametrize("text", NORMALISED)
def test_normalise(text):
    assert normalise(text) == NORMALISED[text]
    assert normalise(NORMALISED[text]) == NORMALISED[text]


def test_known_words_are_phonemes_and_unknown_ones_letters():
    reader = PhonemeTokenizer()
    said = "He said: \"the zebra's (xyzzy's) BBC, and so on!\""
    assert reader.decode(reader.encode(said)) == (
        '{HH IY1} {S EH1 D}: "{DH AH0} {Z IY1 B R AH0 Z} (xyzzy\'s) {B IY2 B IY0 S IY1}, {AH0 N D} {S OW1} {AA1 N}!"'
    )
    assert reader.decode(reader.encode("The US told us.")) == "{DH AH0} {Y UW1 EH1 S} {T OW1 L D} {AH1 S}."
    letters = PhonemeTokenizer(spell_all=True)
    assert letters.decode(letters.encode(said)) == said.lower()


def test_pieces_fall_apart_into_words():
    reader = PhonemeTokenizer()
    text = '- Well-known; in 1984 "we" met, Xyzzy - twice.'
    pieces = reader.encode(text)
    words = reader.split(pieces)
    assert [word[0] for word in words] == [BOUNDARY] * 9  # three of them are 1984
    np.testing.assert_array_equal(np.concatenate(words), pieces)
    for word, both in zip(words, reader.words(text), strict=True):
        np.testing.assert_array_equal(word, both.read)
        assert both.spelt[0] == BOUNDARY
        assert all(SYMBOLS[piece] not in PHONEMES for piece in both.spelt)
    assert not len(reader.encode("... 。"))
    assert reader.split([]) == []
    with pytest.raises(ValueError, match="a word's boundary"):
        reader.split(pieces[1:])


def test_the_dictionary_is_whole():
    assert len(lexicon()) == 126_052
    assert {symbol for said in lexicon().values() for symbol in said.split()} <= set(PHONEMES)
    assert pronounce("cats'") == ["K", "AE1", "T", "S"]
    assert pronounce("bus's") == ["B", "AH1", "S", "IH0", "Z"]
    assert pronounce("xyzzy") is None


@pytest.mark.parametrize("name", ["bpe", "phonemes", "characters", "normalised"])
def test_saved_and_loaded_it_is_the_same(name):
    text = "In 1984, they said hello to Xyzzy."
    kind, normalised = ("bpe", True) if name == "normalised" else (name, False)
    made = make_front_end(kind, [text] * 4, 300, normalised=normalised)
    again = load_front_end(made.to_json())
    assert (type(again), again.size, again.to_json()) == (type(made), made.size, made.to_json())
    np.testing.assert_array_equal(again.encode(text), made.encode(text))
    assert again.encode(text).max() < made.size
    said = {"bpe": text, "normalised": "In nineteen eighty four, they said hello to Xyzzy."}
    assert again.decode(made.encode(text)) == said.get(name, again.decode(again.encode(text)))
    if kind == "bpe":
        with pytest.raises(ValueError, match="text=phonemes"):
            require_phonemes(again)


def test_pieces_of_another_version_are_refused():
    saved = PhonemeTokenizer().to_json().replace('"ZH"', '"XX"')
    with pytest.raises(ValueError, match="107 pieces"):
        load_front_end(saved)
    with pytest.raises(ValueError, match="'runes'"):
        load_front_end('{"type": "runes"}')
