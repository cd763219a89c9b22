"""Figures in English text, spelt out as they are read."""

from __future__ import annotations

import re

ONES = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
LARGEST = 10**12

_FIGURE = re.compile(
    r"(?P<dollar>\$)?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<decimals>\.\d+)?(?P<ordinal>st|nd|rd|th)?"
    r"(?P<plural>s\b)?(?P<percent>\s?%)?(?P<scale>\s(?:hundred|thousand|million|billion|trillion)\b)?"
)


def cardinal(number: int) -> str:
    """Return a number from 0 to below 10^12 in words."""
    if not 0 <= number < LARGEST:
        raise ValueError(f"number {number}: from 0 to below {LARGEST}")
    if number < 20:
        return ONES[number]
    if number < 100:
        ones = number % 10
        return TENS[number // 10 - 2] + (f"-{ONES[ones]}" if ones else "")
    for scale, name in SCALES:
        if number >= scale:
            rest = number % scale
            joined = f" {'and ' if rest < 100 and scale >= 1000 else ''}{cardinal(rest)}" if rest else ""
            return f"{cardinal(number // scale)} {name}{joined}"
    raise AssertionError(number)


def ordinal(number: int) -> str:
    """Return ``third`` for 3."""
    head, separator, last = re.fullmatch(r"(.*?)([ -]?)(\w+)", cardinal(number)).groups()
    if last not in ORDINALS:
        last = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return head + separator + ORDINALS.get(last, last)


def year(number: int) -> str:
    """Return a year as it is said: ``nineteen forty-five``, ``two thousand and six``, ``twenty twelve``."""
    century, rest = divmod(number, 100)
    if number < 1100 or 2000 <= number < 2010 or number > 2099:
        return cardinal(number)
    if not rest:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def spell_figures(text: str) -> str:
    """Return a text with its figures in words; those of an unclear reading (``3:45``, ``1/2``) stay."""
    if re.search(r"\d\s?[:/-]\s?\d|\d[A-Za-z]*[/:]|[A-Za-z]\d", text):
        return text
    return _FIGURE.sub(_words, text)


def _words(match: re.Match[str]) -> str:
    whole = match["whole"]
    number = int(whole.replace(",", ""))
    if number >= LARGEST:
        return match[0]
    if match["ordinal"]:
        return ordinal(number)
    bare = not (match["dollar"] or match["decimals"] or match["percent"] or match["scale"] or "," in whole)
    words = year(number) if bare and 1100 <= number <= 2099 else cardinal(number)
    if match["plural"]:
        words = words[:-1] + "ies" if words.endswith("y") else words + "s"
    if match["decimals"]:
        words += " point " + " ".join(ONES[int(digit)] for digit in match["decimals"][1:])
    words += match["scale"] or ""
    words += " percent" if match["percent"] else ""
    return words + (" dollars" if match["dollar"] else "")
