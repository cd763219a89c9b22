"""Figures and signs in words, by language: English by the rules of `normalise`, others by the CLDR's spelling rules.

``unicode-rbnf`` spells numbers in some eighty languages. Words of signs stand in their plain form, whatever the grammar
around them asks for: ``5 %`` in Russian says the nominative.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from triforce.models.reading.normalise import english_in_words
from triforce.models.reading.numerals import roman_value, spelling
from triforce.models.reading.tidy import tidy


class Signs(NamedTuple):
    """How a language says signs, the mark before a fraction, and a time of day."""

    point: str
    words: dict[str, str]
    time: str = "{hour} {minute}"
    """The time at ``{minute}`` past ``{hour}``."""
    abbreviations: Mapping[str, str] = MappingProxyType({})
    ordinal: str = r"(?!)"
    """Pattern of an ordinal number, whose group 1 is the number."""
    ruleset: str = ""
    """Name of the CLDR's rule for that form of the ordinal."""


KEYS = ("%", "&", "+", "=", "€", "$", "£", "°")


def _words(*said: str) -> dict[str, str]:
    return dict(zip(KEYS, said, strict=True))


SIGNS = {
    "de": Signs(
        "Komma",
        _words("Prozent", "und", "plus", "gleich", "Euro", "Dollar", "Pfund", "Grad"),
        "{hour} Uhr {minute}",
        {"z. B.": "zum Beispiel", "z.B.": "zum Beispiel", "d. h.": "das heißt", "d.h.": "das heißt",
         "u. a.": "unter anderem", "usw.": "und so weiter", "bzw.": "beziehungsweise", "Dr.": "Doktor",
         "Hr.": "Herr", "Fr.": "Frau", "Nr.": "Nummer", "ca.": "circa", "Prof.": "Professor"},
        r"\b(\d{1,2})\.(?= ?(?:Jan|Feb|März|Apr|Mai|Juni|Juli|Aug|Sept|Okt|Nov|Dez|Jahrhundert|Kapitel))",
        "spellout-ordinal-n",
    ),
    "fr": Signs(
        "virgule",
        _words("pour cent", "et", "plus", "égale", "euros", "dollars", "livres", "degrés"),
        "{hour} heures {minute}",
        {"M.": "monsieur", "Mme": "madame", "Mlle": "mademoiselle", "Dr": "docteur", "etc.": "et cetera"},
        r"\b(\d+)(?:er|re|e|ème)\b",
        "spellout-ordinal-masculine",
    ),
    "es": Signs(
        "coma",
        _words("por ciento", "y", "más", "igual a", "euros", "dólares", "libras", "grados"),
        "{hour} y {minute}",
        {"Sr.": "señor", "Sra.": "señora", "Srta.": "señorita", "Dr.": "doctor", "Dra.": "doctora", "Ud.": "usted",
         "etc.": "etcétera"},
        r"\b(\d+)\.?[ºª]",
        "spellout-ordinal-masculine",
    ),
    "it": Signs(
        "virgola",
        _words("per cento", "e", "più", "uguale", "euro", "dollari", "sterline", "gradi"),
        "{hour} e {minute}",
        {"Sig.": "signor", "Dott.": "dottor", "ecc.": "eccetera"},
        r"\b(\d+)[ºª°](?= ?[a-z])",
        "spellout-ordinal-masculine",
    ),
    "pt": Signs(
        "vírgula",
        _words("por cento", "e", "mais", "igual a", "euros", "dólares", "libras", "graus"),
        "{hour} e {minute}",
        {"Sr.": "senhor", "Sra.": "senhora", "Dr.": "doutor", "etc.": "et cetera"},
        r"\b(\d+)\.?[ºª]",
        "spellout-ordinal-masculine",
    ),
    "nl": Signs(
        "komma",
        _words("procent", "en", "plus", "is", "euro", "dollar", "pond", "graden"),
        "{hour} uur {minute}",
        {"bijv.": "bijvoorbeeld", "enz.": "enzovoort", "dhr.": "de heer", "mevr.": "mevrouw", "nr.": "nummer"},
        r"\b(\d+)(?:ste|de|e)\b",
        "spellout-ordinal",
    ),
    "sv": Signs("komma", _words("procent", "och", "plus", "är lika med", "euro", "dollar", "pund", "grader")),
    "pl": Signs("przecinek", _words("procent", "i", "plus", "równa się", "euro", "dolarów", "funtów", "stopni")),
    "cs": Signs("čárka", _words("procent", "a", "plus", "rovná se", "eur", "dolarů", "liber", "stupňů")),
    "ru": Signs("запятая", _words("процентов", "и", "плюс", "равно", "евро", "долларов", "фунтов", "градусов")),
    "tr": Signs("virgül", _words("yüzde", "ve", "artı", "eşittir", "euro", "dolar", "sterlin", "derece")),
    "zh": Signs("点", _words("百分之", "和", "加", "等于", "欧元", "美元", "英镑", "度"), "{hour}点{minute}分"),
    "ja": Signs(
        "点",
        _words("パーセント", "と", "足す", "イコール", "ユーロ", "ドル", "ポンド", "度"),
        "{hour}時{minute}分",
    ),
    "ko": Signs(
        "점",
        _words("퍼센트", "그리고", "더하기", "는", "유로", "달러", "파운드", "도"),
        "{hour}시 {minute}분",
    ),
}  # fmt: skip
FRACTION_BY_POINT = frozenset({"en", "zh", "ja", "ko", "th", "he", "hi", "bn", "ta", "sw", "ms", "fil"})
"""Languages that write 3.5; all others write 3,5."""
SAYS_HUNDREDS = frozenset({"de", "nl", "sv", "da", "no"})
"""Languages that say a year by its hundreds."""
CHAPTER = "kapitel|chapitre|capítulo|capitolo|hoofdstuk|rozdział|kapitola|глава"
"""Words before a numeral of one letter."""
SHARE_FIRST = frozenset({"zh", "tr"})
"""Languages that say the sign of a share before its number."""
UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my"})
"""Languages that put no spaces between words."""


def in_words(text: str, language: str = "en") -> str:
    """Return ``text`` as it is said: tidied, with figures and signs in words of ``language``, an ISO 639 code.

    Text in words comes back as it is. In a language whose numbers nobody spells here, figures stay figures.
    """
    text = tidy(text, language)
    if language == "en":
        return english_in_words(text)
    if not any(c.isdigit() or c in KEYS for c in text) and not re.search(r"[IVX]{2}|\w\.", text):
        return text
    speller = _speller(language)
    return speller(text) if speller else text


@cache
def _speller(language: str) -> Callable[[str], str] | None:
    return None if spelling(language) is None else _Speller(language)


class _Speller:
    """Figures to words in one language."""

    def __init__(self, language: str) -> None:
        self.language, self.engine = language, spelling(language)
        self.signs = SIGNS.get(language, Signs("", {}))
        self.gap = "" if language in UNSPACED else " "
        point, group = (r"\.", ",") if language in FRACTION_BY_POINT else (",", r".'\u00a0\u202f ")
        # The language's sign between groups of three digits parts thousands; any other parts the fraction.
        self.grouped = re.compile(rf"\d{{1,3}}(?:[{group}]\d{{3}})+(?!\d)(?:{point}\d+)?")
        self.number = rf"{self.grouped.pattern}|\d+(?:[.,]\d+)?"
        self.separator = re.compile(rf"(?<=\d)[{group}](?=\d{{3}}(?!\d))")

    def __call__(self, text: str) -> str:
        text = text.replace("٫", ",")
        for short, full in self.signs.abbreviations.items():
            text = re.sub(rf"(?<!\w){re.escape(short)}(?!\w)", full, text)
        text = re.sub(self.signs.ordinal, lambda m: self._ordinal(int(m[1])), text)
        text = re.sub(r"\b([01]?\d|2[0-3]):([0-5]\d)(?!\d)(?: ?(?:Uhr|uur|h)\b)?", self._time, text)
        text = re.sub(r"(?<=\w )[IVX]{2,}\b", self._roman, text)
        text = re.sub(rf"(?i:\b({CHAPTER})) ([IVXL])\b", self._chapter, text)
        text = re.sub(rf"([€$£]) ?({self.number})", r"\2 \1", text)
        text = re.sub(r"(?<=\d)[.,](\d\d) ?([€$£])", lambda m: f" {m[2]} {int(m[1]) or ''}", text)
        if self.language in SHARE_FIRST:
            text = re.sub(rf"({self.number}) ?%", r"%\1", text)
        text = re.sub(r"(?<=\d) ?[-–] ?(?=\d)", f"{self.gap}-{self.gap}", text)
        text = re.sub(r"\b(\d{4})(?=年)", lambda m: self._spell(int(m[1]), year=True), text)
        text = re.sub(rf"(?<![\w.,])([-−])?({self.number})(?![\d])|({self.number})", self._number, text)
        for sign, word in self.signs.words.items():
            text = text.replace(sign, f"{self.gap}{word}{self.gap}")
        return re.sub(r" +([.,;:!?)])", r"\1", " ".join(text.split()))

    def _spell(self, value: int | str, *, year: bool = False) -> str:
        """Return a number in words; in figures where the language's rules do not reach."""
        from unicode_rbnf import FormatPurpose
        from unicode_rbnf.engine import RbnfError

        try:
            return tidy(self.engine.format_number(value, FormatPurpose.YEAR if year else FormatPurpose.CARDINAL).text)
        except (RbnfError, ValueError):
            return str(value)

    def _number(self, m: re.Match[str]) -> str:
        sign, written = m[1], m[2] or m[3]
        plain = self.separator.sub("", written) if self.grouped.fullmatch(written) else written
        whole, _, part = plain.replace(",", ".").partition(".")
        if len(whole) > 15 or (len(whole) > 1 and whole[0] == "0"):
            said = self.gap.join(self._spell(int(digit)) for digit in whole)
        elif part and not self.signs.point:
            said, part = self._spell(f"{int(whole)}.{''.join(str(int(digit)) for digit in part)}"), ""
        else:
            hundreds = self.language in SAYS_HUNDREDS and not part and len(written) == 4 and 1100 <= int(whole) < 2000
            said = self._spell(int(whole), year=hundreds)
        if part:
            said = self.gap.join([said, self.signs.point, *(self._spell(int(digit)) for digit in part)])
        if sign:
            said = self._spell(-1).replace(self._spell(1), "").strip() + self.gap + said
        return f"{self.gap}{said}{self.gap}"

    def _ordinal(self, value: int) -> str:
        from unicode_rbnf import FormatPurpose

        found = self.engine.format_number(value, FormatPurpose.ORDINAL)
        return tidy(found.text_by_ruleset.get(self.signs.ruleset, found.text))

    def _time(self, m: re.Match[str]) -> str:
        hour, minute = int(m[1]), int(m[2])
        said = self.signs.time.format(hour=self._spell(hour), minute=self._spell(minute) if minute else "")
        return said if minute else re.sub(r"( [ye] |分)$", "", said).strip()

    def _chapter(self, m: re.Match[str]) -> str:
        return f"{m[1]} {self._spell(roman_value(m[2]) or 0)}"

    def _roman(self, m: re.Match[str]) -> str:
        value = roman_value(m[0])
        return m[0] if value is None else self._spell(value)
