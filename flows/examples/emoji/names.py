"""Emoji with their English names and keywords, and what each shows: a concept, in skin tones.

Names and keywords are those of Unicode's CLDR (annotations, as Debian's ``unicode-cldr-core`` packs them). Emoji that
are newer than the package have the names of the `emoji` package, and no keywords.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import emoji

TONES = {
    "\U0001f3fb": "light skin tone",
    "\U0001f3fc": "medium-light skin tone",
    "\U0001f3fd": "medium skin tone",
    "\U0001f3fe": "medium-dark skin tone",
    "\U0001f3ff": "dark skin tone",
}
JOINER, EMOJI_STYLE = "\u200d", "\ufe0f"
SIGNS = ("\u2640", "\u2642", "\u27a1")
"""Woman, man, facing right: what they are joined to is the same concept."""
PERSON, CHILD, FAMILY = "\U0001f9d1", "\U0001f9d2", "\U0001f46a"
NEUTRAL = {
    "\U0001f468": PERSON,  # man
    "\U0001f469": PERSON,  # woman
    "\U0001f466": CHILD,  # boy
    "\U0001f467": CHILD,  # girl
    "\U0001f474": "\U0001f9d3",  # old man: older person
    "\U0001f475": "\U0001f9d3",
    "\U0001f934": "\U0001fac5",  # prince: person with crown
    "\U0001f478": "\U0001fac5",
    "\U0001f930": "\U0001fac4",  # pregnant woman: pregnant person
    "\U0001fac3": "\U0001fac4",
}
"""The emoji of a person for those of one gender that have code points of their own."""
SEQUENCES = {
    "\U0001f491": "\U0001f9d1\u200d\u2764\u200d\U0001f9d1",  # couple with heart
    "\U0001f48f": "\U0001f9d1\u200d\u2764\u200d\U0001f48b\u200d\U0001f9d1",  # kiss
    "\U0001f46b": "\U0001f9d1\u200d\U0001f91d\u200d\U0001f9d1",  # woman and man holding hands
    "\U0001f46c": "\U0001f9d1\u200d\U0001f91d\u200d\U0001f9d1",
    "\U0001f46d": "\U0001f9d1\u200d\U0001f91d\u200d\U0001f9d1",
    "\U0001faf1\u200d\U0001faf2": "\U0001f91d",  # two hands of different tones: handshake
    "\U0001f385": "\U0001f9d1\u200d\U0001f384",  # Santa Claus: Mx Claus
    "\U0001f936": "\U0001f9d1\u200d\U0001f384",
}
"""Single code points and the sequences that mean the same."""
SEPARATOR = ";"
"""Stands between the name of a picture and its keywords; no name has it."""


@dataclass(frozen=True)
class Emoji:
    """A sequence of code points that fonts draw as one picture."""

    characters: str
    name: str
    """Normalised by `normalise`."""
    keywords: tuple[str, ...] = ()

    @property
    def code_points(self) -> str:
        """Hexadecimal, as in ``1f469-200d-1f680``."""
        return "-".join(f"{ord(character):x}" for character in self.characters)

    @cached_property
    def concept(self) -> str:
        """What it shows, without tone, gender and the way it faces, as characters."""
        return concept_of(self.characters)

    @property
    def tones(self) -> tuple[str, ...]:
        """The skin tones in it."""
        return tuple(TONES[character] for character in self.characters if character in TONES)

    @property
    def untoned(self) -> str:
        """Its characters without skin tones and without the sign that asks for colour."""
        return "".join(c for c in self.characters if c not in TONES and c != EMOJI_STYLE)


def concept_of(characters: str) -> str:
    """Return the emoji that stands for all forms of one: of "woman astronaut: dark skin tone" astronaut."""
    plain = "".join(c for c in characters if c not in TONES and c != EMOJI_STYLE)
    parts = [NEUTRAL.get(part, part) for part in plain.split(JOINER) if part not in SIGNS]
    if len(parts) > 1 and set(parts) <= {PERSON, CHILD}:
        return FAMILY
    joined = JOINER.join(parts)
    return SEQUENCES.get(joined, joined)


def from_code_points(written: str) -> str:
    """Return the characters of `Emoji.code_points`."""
    return "".join(chr(int(part, 16)) for part in written.split("-"))


def normalise(text: str) -> str:
    """Return a name or a request as the networks are trained on it: lower case, no accents, plain quotes."""
    plain = unicodedata.normalize("NFKD", text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").lower())
    kept = "".join(c for c in plain if not unicodedata.combining(c) and c not in "\N{LEFT DOUBLE QUOTATION MARK}”")
    return " ".join(kept.split())


def read_emoji(cldr: Path) -> Iterator[Emoji]:
    """Yield all emoji that are recommended for general interchange, by code point.

    ``cldr`` is the folder ``common`` of CLDR's data. Raises ValueError for names that two emoji share.
    """
    names: dict[str, str] = {}
    keywords: dict[str, tuple[str, ...]] = {}
    for part in ("annotations", "annotationsDerived"):
        for entry in ElementTree.parse(cldr / part / "en.xml").iter("annotation"):
            if entry.get("type") == "tts":
                names[entry.attrib["cp"]] = entry.text or ""
            else:
                keywords[entry.attrib["cp"]] = tuple(normalise(word) for word in (entry.text or "").split("|"))
    known: dict[str, str] = {}
    for characters in sorted(emoji.EMOJI_DATA):
        if emoji.EMOJI_DATA[characters]["status"] != emoji.STATUS["fully_qualified"]:
            continue
        plain = characters.replace(EMOJI_STYLE, "")
        name = normalise(names.get(plain) or _name_in_package(characters))
        if SEPARATOR in name or known.setdefault(name, characters) != characters:
            raise ValueError(f"name {name!r} of {characters!r} has a {SEPARATOR!r} or is that of {known.get(name)!r}")
        yield Emoji(characters, name, tuple(word for word in keywords.get(plain, ()) if word and word != name))


def _name_in_package(characters: str) -> str:
    """Return a name as CLDR would write it: the tones last, after a colon."""
    tones = [TONES[c] for c in dict.fromkeys(characters) if c in TONES]
    base = "".join(c for c in characters if c not in TONES)
    for candidate in (base, base + EMOJI_STYLE):
        if tones and candidate in emoji.EMOJI_DATA:
            return f"{_spaced(candidate)}: {', '.join(tones)}"
    return _spaced(characters)


def _spaced(characters: str) -> str:
    return emoji.EMOJI_DATA[characters]["en"].strip(":").replace("_", " ")
