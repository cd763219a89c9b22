"""Text normalisation for English speech: what is written in figures and signs becomes words.

Each rule is a pattern and what takes its place, and they are applied in order: dates before years, years before other
numbers. What `normalise` returns has letters, apostrophes, spaces and ``. , ; : ! ? - " ( )`` alone; what
`english_in_words` returns keeps its letters and punctuation. unicode-rbnf spells numbers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache

from triforce.models.reading.numerals import (
    cardinal,
    decade,
    digits,
    fraction,
    number,
    ordinal,
    roman_value,
    year,
)

Match = re.Match[str]
Rule = tuple[re.Pattern[str], "str | Callable[[Match], str]"]

SIGNS = {
    "’": "'", "‘": "'", "‚": ",", "´": "'", "`": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‐": "-",
    "‑": "-", "−": "-", "–": "-", "—": " - ", "…": ".", "ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "ø": "o", "Ø": "O",
    "ł": "l", "Ł": "L", "đ": "d", "ð": "d", "þ": "th", "Þ": "Th", "ı": "i", "×": " times ", "÷": " divided by ",
    "[": "(", "]": ")", "{": "(", "}": ")", "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "°": " degrees ", "™": "", "®": "",
}  # fmt: skip
"""Plain spelling of typographic signs and of letters that Unicode does not take apart."""
WORDS_OF_SIGNS = {
    "&": "and", "@": "at", "%": "percent", "+": "plus", "=": "equals", "#": "number", "/": "slash", "<": "less than",
    ">": "greater than", "$": "dollars", "£": "pounds", "€": "euros", "¥": "yen", "_": "", "*": "",
}  # fmt: skip
SPOKEN_SIGNS = {"−": "-", "‑": "-", "²": " squared", "³": " cubed"} | {sign: SIGNS[sign] for sign in "×÷°™®"}
"""Signs that are words even where all characters are known."""
READABLE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ' .,;:!?-\"()")
"""What `normalise` returns."""
MONEY = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
}
ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "prof": "professor", "gen": "general",
    "capt": "captain", "lt": "lieutenant", "col": "colonel", "sgt": "sergeant", "rev": "reverend", "hon": "honorable",
    "gov": "governor", "sen": "senator", "rep": "representative", "jr": "junior", "sr": "senior", "vs": "versus",
    "etc": "et cetera", "inc": "incorporated", "ltd": "limited", "corp": "corporation", "approx": "approximately",
    "dept": "department", "ave": "avenue", "blvd": "boulevard", "rd": "road", "mt": "mount", "ft": "fort",
    "messrs": "messers", "viz": "namely", "bros": "brothers", "assn": "association",
}  # fmt: skip
"""Abbreviations that are read as words where a full stop follows them."""
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "kg": "kilogram", "g": "gram",
    "mg": "milligram", "lb": "pound", "lbs": "pound", "oz": "ounce", "mi": "mile", "ft": "foot", "in": "inch",
    "mph": "mile per hour", "kmh": "kilometer per hour", "km/h": "kilometer per hour", "hz": "hertz",
    "khz": "kilohertz", "mhz": "megahertz", "ghz": "gigahertz", "kb": "kilobyte", "mb": "megabyte", "gb": "gigabyte",
    "tb": "terabyte", "kw": "kilowatt", "w": "watt", "v": "volt", "l": "liter", "ml": "milliliter", "min": "minute",
    "sec": "second", "hr": "hour", "hrs": "hour", "yr": "year", "yrs": "year",
}  # fmt: skip
UNCHANGED_PLURALS = frozenset({"hertz", "kilohertz", "megahertz", "gigahertz"})
PARTS_OF_WORKS = "chapter|part|volume|book|act|scene|section|war|article|phase|type|appendix|bowl|title|stage"
RULERS = (
    "Henry|George|Charles|Elizabeth|James|Edward|William|Richard|Mary|Louis|Philip|Peter|Paul|John|Alexander|Nicholas|"
    "Catherine|Frederick|Francis|Leo|Pius|Benedict|Napoleon|Ferdinand|Victoria|Margaret"
)
_MONTH = "|".join(f"{month}|{month[:3]}" for month in MONTHS) + "|Sept"
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_LARGE = r"hundred|thousand|million|billion|trillion"


def _month(name: str) -> str:
    return next(month for month in MONTHS if month.lower().startswith(name.lower()[:3]))


def _money(m: Match) -> str:
    one, many, small_one, small = MONEY[m["sign"]]
    amount = m["amount"].replace(",", "")
    if m["large"]:
        large = {"k": "thousand", "m": "million", "bn": "billion", "b": "billion", "tn": "trillion"}
        return f"{number(amount)} {large.get(m['large'].lower(), m['large'])} {many}"
    whole, _, part = amount.partition(".")
    if len(part) not in (0, 2):
        return f"{number(amount)} {many}"
    parts = [f"{cardinal(int(whole))} {one if int(whole) == 1 else many}"] if int(whole) or not int(part or 0) else []
    if part and int(part):
        parts.append(f"{cardinal(int(part))} {small_one if int(part) == 1 else small}")
    return " and ".join(parts)


def _time(m: Match) -> str:
    hour, minute = int(m["hour"]), int(m["minute"] or 0)
    half = f" {m['half'].replace('.', '').replace(' ', '').upper()}" if m["half"] else ""
    if not minute:
        return cardinal(hour) + (half or (" o'clock" if 0 < hour <= 12 else " hundred"))
    return f"{cardinal(hour)} {'oh ' if minute < 10 else ''}{cardinal(minute)}{half}"


def _roman(m: Match) -> str:
    value = roman_value(m["roman"])
    if value is None:
        return m[0]
    before = m["before"]
    if re.fullmatch(PARTS_OF_WORKS, before, re.IGNORECASE):
        return f"{before} {cardinal(value)}"
    return f"{before} the {ordinal(value)}"


def _unit(m: Match) -> str:
    name = UNITS[m["unit"].lower()]
    first, _, rest = name.partition(" ")
    if m["number"] != "1" and name not in UNCHANGED_PLURALS:
        first = {"foot": "feet", "inch": "inches"}.get(first, first + "s")
    return f"{m['number']} {first}{' ' + rest if rest else ''}"


def _abbreviation(m: Match) -> str:
    word = ABBREVIATIONS[m[1].lower()]
    word = word.capitalize() if m[1][0].isupper() else word
    # At the end of a text the full stop ends the sentence too.
    return word + ("." if m.end() == len(m.string.rstrip()) else "")


def _large_whole(m: Match) -> str:
    plain = m[0].replace(",", "")
    leading = plain[0] == "0" and len(plain.partition(".")[0]) > 1
    return digits(plain) if leading or len(plain) > 15 else number(plain)


def _plain_date(m: Match) -> str:
    month, day = int(m["month"]), int(m["day"])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return m[0]
    full = m["year"] if len(m["year"]) == 4 else "20" + m["year"]
    return f"{MONTHS[month - 1]} {ordinal(day)}, {year(int(full))}"


def _rule(pattern: str, then: str | Callable[[Match], str], flags: re.RegexFlag = re.NOFLAG) -> Rule:
    return re.compile(pattern, flags), then


@cache
def rules() -> tuple[Rule, ...]:
    """Return the rules in the order in which they are applied."""
    ignore = re.IGNORECASE
    return (
        _rule(r"https?://(www\.)?", "", ignore),
        _rule(r"\be\.g\.", "for example", ignore),
        _rule(r"\bi\.e\.", "that is", ignore),
        _rule(r"\b([ap])\. ?m\.(?=\s*$|\s+[A-Z])", lambda m: f"{m[1].upper()}M."),
        _rule(r"\b([ap])\. ?m\.", lambda m: f"{m[1].upper()}M", ignore),
        _rule(r"\bph\.? ?d\b\.?", "P H D", ignore),
        _rule(r"\b(?:[A-Za-z]\.){2,}", lambda m: m[0].replace(".", "").upper()),
        _rule(r"\bSt\.(?= [A-Z])", "Saint"),
        _rule(r"\bSt\.", "Street"),
        _rule(r"\bNo\. ?(?=\d)", "number "),
        _rule(rf"\b({'|'.join(ABBREVIATIONS)})\.(?!\w)", _abbreviation, ignore),
        _rule(rf"\b({_MONTH})\.(?= ?\d)", lambda m: _month(m[1])),
        # Money, units, percentages
        _rule(
            rf"(?P<sign>[$£€¥]) ?(?P<amount>{_NUMBER})(?:(?: (?P<large>{_LARGE})|(?P<short>k|m|bn|b|tn))\b)?",
            lambda m: _money(_Group(m)),
            ignore,
        ),
        _rule(r"(\d) ?¢", lambda m: f"{m[1]} cents"),
        _rule(r"(\d) ?degrees *([CF])\b", lambda m: f"{m[1]} degrees {'Celsius' if m[2] == 'C' else 'Fahrenheit'}"),
        _rule(rf"\b(?P<number>{_NUMBER}) ?(?P<unit>{'|'.join(sorted(UNITS, key=len, reverse=True))})\b(?!')", _unit),
        # Times and dates
        _rule(r"\b(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?::[0-5]\d)?(?: ?(?P<half>[ap]\.?m)\b)?", _time, ignore),
        _rule(r"\b(?P<hour>1[0-2]|[1-9])(?P<minute>) ?(?P<half>[ap]\.?m)\b", _time, ignore),
        _rule(r"\b(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)\b", _plain_date),
        _rule(r"\b(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{4}|\d\d)\b", _plain_date),
        _rule(
            rf"\b({_MONTH}) (\d\d?)(?:st|nd|rd|th)?\b(,? ?(\d{{4}})\b)?(?!:)",
            lambda m: f"{_month(m[1])} {ordinal(int(m[2]))}" + (f", {year(int(m[4]))}" if m[4] else ""),
        ),
        _rule(
            rf"\b(\d\d?)(?:st|nd|rd|th)? ({_MONTH})\b( \d{{4}}\b)?",
            lambda m: f"the {ordinal(int(m[1]))} of {_month(m[2])}" + (f" {year(int(m[3]))}" if m[3] else ""),
        ),
        _rule(r"\b(1[1-9]|20)(\d0)'?s\b", lambda m: decade(m[1] + m[2])),
        _rule(r"'(\d0)s\b", lambda m: decade(m[1])),
        # Roman numerals
        _rule(
            rf"\b(?P<before>{PARTS_OF_WORKS}) (?P<roman>[IVXLC]+)\b(?!')",
            _roman,
            ignore,
        ),
        _rule(rf"\b(?P<before>{RULERS}) (?P<roman>[IVX]+)\b(?!')", _roman),
        _rule(r"\b(?P<before>[A-Z][a-z]+) (?P<roman>[IVX]{2,})\b", _roman),
        # Numbers
        _rule(r"\(?\b(\d{3})\)?[ -](\d{3})-(\d{4})\b", lambda m: ", ".join(digits(group) for group in m.groups())),
        _rule(r"\b(\d{3})-(\d{4})\b", lambda m: f"{digits(m[1])}, {digits(m[2])}"),
        _rule(r"\b(\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th)\b", lambda m: ordinal(int(m[1].replace(",", "")))),
        _rule(r"\b(?:(\d+) )?(\d{1,2})/(\d{1,2})\b(?!/)", lambda m: fraction(m[1], int(m[2]), int(m[3]))),
        _rule(r"(?<=\d)-(?=\d)", " to "),
        _rule(r"(?<=[A-Za-z])-(?=\d)", " "),
        _rule(r"(?<![\w.,])-(?=\d)", "minus "),
        _rule(r"(?<![\d.,])(1[1-9]|20)(\d\d)(?![\d%]|[.,]\d)", lambda m: f" {year(int(m[0]))} "),
        _rule(_NUMBER, lambda m: f" {_large_whole(m)} "),
        # Signs and addresses
        _rule(r"(?<=[A-Za-z])\.(?=[A-Za-z]{2,})", " dot "),
        _rule(r"\b([A-Z])\. (?=[A-Z])", lambda m: f"{m[1]} "),
        _rule("|".join(map(re.escape, WORDS_OF_SIGNS)), lambda m: f" {WORDS_OF_SIGNS[m[0]]} "),
        _rule(r"-{2,}", " - "),
    )


@cache
def plain_rules() -> tuple[Rule, ...]:
    """Return the rules that leave letters and plain punctuation alone, once of each where several come together."""
    return (
        _rule(r"\.{2,}", "."),
        _rule(r"[^A-Za-z' .,;:!?\-\"()]", ""),
        _rule(r"([.,;:!?)]) *(?=[.,;:!?)])", lambda m: m[1]),
        _rule(r" +([.,;:!?)])", lambda m: m[1]),
        _rule(r"\( +", "("),
    )


class _Group:
    """A match of money whose short form of a large number counts as the large number."""

    def __init__(self, match: Match) -> None:
        self._match = match

    def __getitem__(self, name: str) -> str | None:
        return (self._match["large"] or self._match["short"]) if name == "large" else self._match[name]


@lru_cache(maxsize=1 << 14)
def normalise(text: str) -> str:
    """Return ``text`` in words, with letters, apostrophes, spaces and plain punctuation alone.

    Letters lose their accents; those of other alphabets are left out. A text of several words in capitals alone is
    taken as small letters, so that its words are no initials.
    """
    text = "".join(SIGNS.get(c, c) for c in unicodedata.normalize("NFC", text))
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = " ".join(text.split())
    if text.isupper() and " " in text:
        text = text.lower()
    for pattern, then in (*rules(), *plain_rules()):
        text = pattern.sub(then, text)
    return " ".join(text.split())


def english_in_words(text: str) -> str:
    """Return ``text`` with figures and signs in words, and with its letters, accents and punctuation as they are."""
    for sign, word in SPOKEN_SIGNS.items():
        text = text.replace(sign, word)
    text = re.sub(r"(?<=\d) ?– ?(?=\d)", "-", " ".join(text.split()))
    for pattern, then in rules():
        text = pattern.sub(then, text)
    text = re.sub(r"(?<!\w)[\u0391-\u03c9](?!\w)", lambda m: unicodedata.name(m[0], m[0]).split()[-1].lower(), text)
    text = re.sub(r"\S", _named_sign, text)
    return re.sub(r" +([.,;:!?)])", r"\1", " ".join(text.split()))


def _named_sign(m: Match) -> str:
    """Return the name of a sign of mathematics or a currency; all other characters as they are."""
    if m[0].isascii() or unicodedata.category(m[0]) not in ("Sm", "Sc") or m[0] in "←→↔":
        return m[0]
    name = re.sub(r"\b(sign|n-ary)\b", "", unicodedata.name(m[0], "").lower()).replace("-", " ")
    return f" {name} "
