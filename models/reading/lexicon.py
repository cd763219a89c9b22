"""Pronunciations of English words: the CMU Pronouncing Dictionary in ARPAbet, the first one of each word.

``cmudict.txt.xz`` holds a word and its phonemes a line, 126 052 of them, made of ``cmudict.dict``
(github.com/cmusphinx/cmudict; licence in ``cmudict-licence.txt``) without comments and second pronunciations.
"""

from __future__ import annotations

import lzma
from functools import cache
from pathlib import Path

DICTIONARY = Path(__file__).with_name("cmudict.txt.xz")
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N"),
    *("NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"),
)
PHONEMES = (*(vowel + stress for vowel in VOWELS for stress in "012"), *CONSONANTS)
"""Symbols of ARPAbet; a vowel ends in its stress: 0 none, 1 primary, 2 secondary."""
SIBILANTS = frozenset({"S", "Z", "SH", "ZH", "CH", "JH"})
VOICELESS = frozenset({"P", "T", "K", "F", "TH"})


@cache
def lexicon() -> dict[str, str]:
    """Return phonemes, separated by spaces, by lower-case word; read once, in a quarter of a second."""
    lines = lzma.decompress(DICTIONARY.read_bytes()).decode().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def pronounce(word: str) -> list[str] | None:
    """Return the phonemes of a lower-case word, of a possessive by its rule; None where the word is unknown."""
    words = lexicon()
    found = words.get(word)
    if found is not None:
        return found.split()
    if word.endswith("s'") and (found := words.get(word[:-1])) is not None:
        return found.split()
    if word.endswith("'s") and (found := words.get(word[:-2])) is not None:
        phonemes = found.split()
        return [*phonemes, *_ending(phonemes[-1])]
    return None


def _ending(last: str) -> list[str]:
    """Return the sound of 's after a phoneme."""
    if last in SIBILANTS:
        return ["IH0", "Z"]
    return ["S"] if last in VOICELESS else ["Z"]


def spell_out(letters: str) -> list[str]:
    """Return the phonemes of the names of letters a to z."""
    words = lexicon()
    return [phoneme for letter in letters for phoneme in words[f"{letter}."].split()]
