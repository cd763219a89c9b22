"""Every string is integers and itself again."""

import random
import sys

import numpy as np
import pytest

from triforce.models.text import TextTokenizer, clean_text

NASTY = [
    "",
    " ",
    "  two  spaces, and a tab\t, and a line\r\n end ",
    "\x00\x01\x7f\x1b[31m",
    "naïve café, e\u0301 is é",
    "Ωμέγα Привет 你好 مرحبا שלום हिन्दी ไทย",
    "👩‍👩‍👧‍👦🏳️‍🌈🇨🇦",
    "\u202eright to left\u202c \u200b\ufeff\u00a0\u2028",
    "Z̸̢̛͎a̵̡͠l̴͖̈́g̷̲̊o̶̳͝",
    "\U0010ffff\U0001f9ff\ue000\uffff",
    "<|endoftext|> [UNK] <s> </s> Ġ Ċ ▁",
    "a" * 5000,
]


@pytest.fixture(scope="module", params=[256, 300, 2000])
def tokenizer(request) -> TextTokenizer:
    texts = ["one two three four five", "the quick brown fox jumps over the lazy dog", "zwölf Boxkämpfer"] * 20
    return TextTokenizer.train(texts, request.param)


@pytest.mark.parametrize("text", NASTY)
def test_nasty_strings_come_back(tokenizer, text):
    pieces = tokenizer.encode(text)
    assert tokenizer.decode(pieces) == text
    assert not len(pieces) or pieces.max() < tokenizer.size


def test_random_strings_come_back_also_through_sixteen_bits_and_json(tokenizer):
    generator = random.Random(0)
    again = TextTokenizer(tokenizer.to_json())
    for _ in range(1000):
        points = (generator.randrange(generator.choice([128, 0x800, 0x10000, sys.maxunicode + 1])) for _ in range(20))
        text = "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
        assert again.decode(tokenizer.encode(text).astype(np.uint16)) == text


def test_half_of_a_surrogate_pair_is_no_character_and_says_so(tokenizer):
    assert tokenizer.decode(tokenizer.encode(clean_text("a \ud800 b"))) == "a \ufffd b"


def test_a_common_word_takes_fewer_pieces_than_bytes(tokenizer):
    if tokenizer.size > 256:
        assert len(tokenizer.encode("the quick brown fox")) < len("the quick brown fox")
