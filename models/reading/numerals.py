"""Numbers as English words: cardinals, ordinals, years, decades, fractions, digits one by one, Roman numerals."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

DIGITS = ("oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


@cache
def spelling(language: str) -> Any:
    """Return the engine that spells numbers in a language, an ISO 639 code; None where there is none."""
    from unicode_rbnf import RbnfEngine  # most texts have no figures

    known = {"nb": "no"}.get(language, language)
    return RbnfEngine.for_language(known) if known in RbnfEngine.get_supported_languages() else None


def cardinal(value: int) -> str:
    """Return 1234 as "one thousand two hundred thirty four"."""
    return _plain(spelling("en").format_number(value).text)


def ordinal(value: int) -> str:
    """Return 21 as "twenty first"."""
    from unicode_rbnf import FormatPurpose

    return _plain(spelling("en").format_number(value, FormatPurpose.ORDINAL).text)


def _plain(words: str) -> str:
    return " ".join(words.replace("-", " ").replace(",", "").split())


def number(text: str) -> str:
    """Return digits with or without a decimal point as words: 3.14 as "three point one four"."""
    whole, _, part = text.replace(",", "").partition(".")
    spoken = cardinal(int(whole))
    return f"{spoken} point {digits(part, zero='zero')}" if part else spoken


def digits(text: str, zero: str = "oh") -> str:
    """Return each digit of a text as a word: a telephone number."""
    return " ".join(DIGITS[int(c)] if c != "0" else zero for c in text if c.isdigit())


def year(value: int) -> str:
    """Return 1984 as "nineteen eighty four", 1905 as "nineteen oh five", 2007 as "two thousand seven"."""
    century, rest = divmod(value, 100)
    if 2000 <= value <= 2009 or century < 10 or value % 1000 == 0:
        return cardinal(value)
    if not rest:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def decade(text: str) -> str:
    """Return 1990 as "nineteen nineties" and 90 as "nineties"."""
    if text.endswith("00"):
        return (cardinal(int(text)) if text[-3] == "0" else f"{cardinal(int(text[:2]))} hundred") + "s"
    last = cardinal(int(text[-2:]))
    plural = last[:-1] + "ies" if last.endswith("y") else last + "s"
    return f"{cardinal(int(text[:2]))} {plural}" if len(text) == 4 else plural


def fraction(whole: str | None, above: int, below: int) -> str:
    """Return 1/2 as "one half", 3/4 as "three quarters" and, after a whole number, "two and one half"."""
    if below < 2 or above >= below:
        spoken = f"{cardinal(above)} over {cardinal(below)}"
    else:
        name = {2: "half", 4: "quarter"}.get(below) or ordinal(below)
        name = name if above == 1 else {"half": "halves"}.get(name, name + "s")
        spoken = f"{cardinal(above)} {name}"
    return f"{cardinal(int(whole))} and {spoken}" if whole else spoken


def roman_value(text: str) -> int | None:
    """Return the value of a Roman numeral up to 399; None where it is not written as one."""
    capitals = text.upper()
    if not re.fullmatch(r"C{0,3}(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})", capitals) or not capitals:
        return None
    values = [ROMAN[c] for c in capitals]
    return sum(-v if v < n else v for v, n in zip(values, [*values[1:], 0], strict=True))
