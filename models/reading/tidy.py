"""What a person pastes, as plain characters of its language: composed, without look-alikes and what nobody sees, emoji
by their names.

The names of emoji are the CLDR's, in the languages that the package ``emoji`` has them in.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache

APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼʻˈ′´`＇ꞌ"), "'")
"""Signs that are typed for an apostrophe; quotation marks in pairs are told apart before."""
QUOTED = re.compile(r"(?<!\w)‘([^‘’\n]{2,200}?)’(?!\w)")
"""A quotation in single marks, whose marks are no apostrophes."""
LOOK_ALIKES = dict(
    zip("АВЕКМНОРСТХаеорсухіјѕԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEKMHOPCTXaeopcyxijsdqwABEZHIKMNOPTYXo", strict=True)
)
"""Cyrillic and Greek letters that look like a Latin one (Unicode's confusables, those that keyboards have)."""
MARKUP = (
    (re.compile(r"!?\[([^\]\n]*)\]\((?:https?://|mailto:|/|#)[^)\s]*\)"), r"\1"),
    (re.compile(r"^[ \t]*#{1,6}[ \t]+", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*[-*•‣▪●][ \t]+(?=\S)", re.MULTILINE), ""),
    (re.compile(r"(\*\*|__|~~|`+)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
)
"""Marks of Markdown, as chat programs paste it: links, headings, list items, emphasis."""
MODIFIERS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef\u20e3\U0001f3fb-\U0001f3ff]")
"""Variation selectors, the frame of a keycap, skin tones: they change how a sign looks, not what it says."""
JOINERS = "\u200c\u200d"


@lru_cache(maxsize=1 << 12)
def tidy(text: str, language: str = "en") -> str:
    """Return ``text`` in characters that can be read; ``language`` (ISO 639) is that of the names of emoji.

    Letters and digits in another dress (fullwidth, circled, mathematical) lose it. What has no name in the language
    stays: whoever knows what a network can read says that it is skipped.
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = unicodedata.normalize("NFC", MODIFIERS.sub("", text))
    for pattern, then in MARKUP:
        text = pattern.sub(then, text)
    text = named_emoji(text, language)
    text = "".join(map(_plain, text))
    text = QUOTED.sub(r'"\1"', text).translate(APOSTROPHES)
    text = re.sub(r"[^\W\d_]+", _one_script, unicodedata.normalize("NFC", _without_hidden(text)))
    return " ".join(text.split())


def named_emoji(text: str, language: str) -> str:
    """Return ``text`` with the names of emoji in their place, several of one kind in a row named once."""
    if text.isascii():
        return text
    import emoji

    if language not in emoji.LANGUAGES:
        return text
    said, end, last = "", 0, ""
    for found in emoji.emoji_list(text):
        between = text[end : found["match_start"]]
        name = emoji.demojize(found["emoji"], language=language, delimiters=("", "")).replace("_", " ")
        if found["emoji"] in "©®™":
            name = ""
        said += between if between.strip() or name != last else ""
        if name != last or between.strip():
            said += f" {name} "
        end, last = found["match_end"], name
    return said + text[end:]


@cache
def _plain(character: str) -> str:
    """Return a letter, digit or unit without its dress; a fraction as ``1/2`` behind a space."""
    kind = unicodedata.category(character)
    if kind == "Cc":
        return character if character.isspace() else " "
    if kind[0] not in "LN" and kind != "So":
        return character
    plain = unicodedata.normalize("NFKC", character)
    if plain == character or plain.isspace() or character in "²³ªº":
        return character
    if "⁄" in plain:
        return " " + plain.replace("⁄", "/")
    if unicodedata.decomposition(character).startswith("<circle>"):
        return f" {plain} "
    return plain if any(unicodedata.category(c)[0] in "LNM" for c in plain) else character


def _without_hidden(text: str) -> str:
    """Return ``text`` without characters of format; joiners stay between letters whose shape they decide."""
    return "".join(
        c
        for place, c in enumerate(text)
        if unicodedata.category(c) != "Cf" or (c in JOINERS and place and _joins(text[place - 1]))
    )


def _joins(before: str) -> bool:
    return unicodedata.category(before)[0] in "LM" and ord(before) >= 0x0590


def _one_script(word: re.Match[str]) -> str:
    """Return a word in one script, where letters of another are there by their looks alone."""
    letters = word[0]
    if letters.isascii() or not any(c in LOOK_ALIKES for c in letters):
        return letters
    latin = sum(unicodedata.name(c, "").startswith("LATIN") for c in letters)
    if not latin:
        return letters
    if all(c in LOOK_ALIKES or unicodedata.name(c, "").startswith("LATIN") for c in letters):
        return "".join(LOOK_ALIKES.get(c, c) for c in letters)
    others = {latin: other for other, latin in LOOK_ALIKES.items() if unicodedata.name(other).startswith("CYRILLIC")}
    if all(c in others or not unicodedata.name(c, "").startswith("LATIN") for c in letters):
        return "".join(others.get(c, c) for c in letters)
    return letters
