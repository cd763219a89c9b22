"""Text in the characters that a release was trained on: others are spelt in known ones where there is a way."""

from __future__ import annotations

import unicodedata
from collections.abc import Set

from triforce.models.text import clean_text

SPELT = {
    "’": "'", "‘": "'", "‚": "'", "´": "'", "`": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
    "–": "-", "—": "-", "‐": "-", "‑": "-", "−": "-", "…": "...", "&": " and ", "ß": "ss", "æ": "ae", "œ": "oe",
}  # fmt: skip
"""Plain spelling of typographic characters and ligatures, for texts typed otherwise than the training texts."""


class UnknownCharacterError(ValueError):
    """The text has letters or digits that the training texts did not have."""


def readable(text: str, known: Set[str] | None, *, drop: bool = False) -> str:
    """Return ``text`` in ``known`` characters; where they are not recorded (None), only clean its white space.

    Tried in turn: the character itself, its other case, its compatibility form, its spelling in `SPELT`, its letter
    without accents. Punctuation that is unknown all the same becomes a space. Letters and digits raise
    UnknownCharacterError, or with ``drop`` become spaces too.
    """
    if known is None:
        return clean_text(text)
    spelt = {character: _spell(character, known) for character in set(unicodedata.normalize("NFC", text))}
    strangers = sorted(c for c, s in spelt.items() if s is None and unicodedata.category(c)[0] in "LNM")
    if strangers and not drop:
        names = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in strangers[:8])
        letters = "".join(sorted(c for c in known if c.isprintable() and c != " "))
        raise UnknownCharacterError(
            f"the text has {names}{' and more' if len(strangers) > 8 else ''}, which this release never read in "
            f"training: write it in other words, or with what it knows: {letters}"
        )
    return clean_text("".join(spelt[c] if spelt[c] is not None else " " for c in unicodedata.normalize("NFC", text)))


def _spell(character: str, known: Set[str]) -> str | None:
    if character.isspace():
        return " "
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    options = [character, unicodedata.normalize("NFKC", character), SPELT.get(character, ""), plain]
    options += [SPELT.get(option, "") for option in options]
    options += [option.lower() for option in options] + [option.upper() for option in options]
    for option in options:
        if option.strip() and all(c in known or c == " " for c in option):
            return option
    return None
