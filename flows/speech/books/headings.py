"""Which lines of plain text are headings of chapters, in the languages that books are found in."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import NamedTuple

from triforce.models.reading.numerals import roman_value

CHAPTERS = {
    "en": "chapter|part|book|volume|canto|act|scene|letter|section|stave",
    "de": "kapitel|teil|buch|band|akt|szene|aufzug|auftritt|abschnitt|gesang|brief",
    "fr": "chapitre|partie|livre|tome|acte|scène|chant|lettre",
    "es": "capítulo|capitulo|parte|libro|tomo|acto|escena|canto|carta|jornada",
    "it": "capitolo|parte|libro|atto|scena|canto|lettera",
    "pt": "capítulo|capitulo|parte|livro|tomo|ato|acto|cena|canto|carta",
    "nl": "hoofdstuk|deel|boek|bedrijf|toneel",
    "sv": "kapitel|kapitlet|del|bok|akt|scen",
    "da": "kapitel|del|bog|akt|scene",
    "no": "kapittel|kapitel|del|bok|akt|scene",
    "fi": "luku|osa|kirja|näytös",
    "pl": "rozdział|część|księga|tom|akt|scena",
    "cs": "kapitola|část|kniha|díl|jednání|výstup",
    "hu": "fejezet|rész|könyv|felvonás|jelenet",
    "ro": "capitolul|partea|cartea|actul|scena",
    "ru": "глава|часть|книга|том|действие|явление|письмо",
    "uk": "розділ|частина|книга|дія",
    "bg": "глава|част|книга",
    "el": "κεφάλαιο|μέρος|βιβλίο",
    "tr": "bölüm|kısım|kitap",
    "vi": "chương|phần|hồi",
    "id": "bab|bagian|buku",
    "ar": "الفصل|الباب|الجزء",
    "he": "פרק|חלק|ספר",
    "hi": "अध्याय|भाग",
}
"""Words before or behind a chapter's number, by ISO 639 code."""
ALONE = frozenset({
    "prolog", "prologue", "epilog", "epilogue", "preface", "introduction", "foreword", "afterword",
    "conclusion", "appendix", "vorwort", "nachwort", "einleitung", "anhang", "préface", "épilogue", "avant-propos",
    "postface", "prólogo", "epílogo", "prefacio", "introducción", "prefácio", "introdução", "prologo", "epilogo",
    "prefazione", "introduzione", "voorwoord", "proloog", "epiloog", "inleiding", "nawoord", "förord", "forord",
    "esipuhe", "przedmowa", "wstęp", "předmluva", "úvod", "előszó", "пролог", "эпилог", "предисловие",
    "введение", "послесловие", "передмова", "πρόλογος", "επίλογος", "önsöz",
    "giriş", "序", "序章", "序言", "前言", "楔子",
    "引子", "尾声", "尾聲", "后记", "後記", "プロローグ", "エピローグ",
    "あとがき", "まえがき", "はじめに", "おわりに", "머리말", "프롤로그", "에필로그", "서문",
})  # fmt: skip
"""Headings of one word that have no number."""
CONTENTS = frozenset({
    "contents", "table of contents", "inhalt", "inhaltsverzeichnis", "table des matières", "sommaire", "índice",
    "indice", "indice generale", "inhoud", "inhoudsopgave", "innehåll", "indhold", "spis treści", "obsah",
    "tartalom", "содержание", "оглавление", "зміст", "目录",
    "目錄", "目次", "차례", "içindekiler", "contenido", "sumário",
})  # fmt: skip
"""Headings of a table of contents."""
CJK_NUMBER = "[0-9０-９一二三四五六七八九十百千零〇两兩壱弐参]{1,8}"
CJK = re.compile(
    rf"^(?:第\s*{CJK_NUMBER}\s*[章回节節卷巻部篇集话話幕折][\s　:：、.．]*.{{0,40}}"
    r"|제\s*\d{1,4}\s*[장부편화권막].{0,40})$"
)
NUMERAL = r"(?:\d{1,4}|[ivxlcdm]{1,8})"
IN_WORDS = r"[^\W\d_]+(?:[ -][^\W\d_]+)?"
AFTER = r"(?:\s*[.:)\u2013\u2014-]+)?"
TITLE = r"(?:\s+(?P<title>\S.{0,80}))?"
LEADERS = re.compile(r"(?:[\s.·…_]{3,}|\t|\s{2,})[\divxlc]{1,5}\s*$", re.IGNORECASE)
"""The dots and the page number of an entry of a table of contents."""
MAX_CHARS = 110
LARGEST_NUMBER_IN_WORDS = 100


class Heading(NamedTuple):
    """A heading that was found."""

    language: str | None
    """ISO 639 code of its word; None for one without a word of a language."""


@cache
def _numbers(language: str) -> frozenset[str]:
    """Return the first numbers of a language in words, small letters: one, first, and so on."""
    from unicode_rbnf import FormatPurpose, RbnfEngine

    if language not in RbnfEngine.get_supported_languages():
        return frozenset()
    engine, found = RbnfEngine.for_language(language), set()
    for value in range(1, LARGEST_NUMBER_IN_WORDS + 1):
        for purpose in (FormatPurpose.CARDINAL, FormatPurpose.ORDINAL):
            try:
                found |= set(engine.format_number(value, purpose).text_by_ruleset.values())
            except ValueError:  # a language whose ordinals have no rules
                continue
    words = {word.replace("\xad", "").casefold() for word in found} | EXTRA_NUMBERS.get(language, set())
    return frozenset(words | {word.replace("-", " ") for word in words})


EXTRA_NUMBERS = {
    "en": {"the last", "last"},
    "fr": {"premier", "première"},
    "de": {f"{stem}{end}" for stem in ("erst", "zweit", "dritt", "viert", "letzt") for end in ("er", "es", "e")},
    "pl": {"pierwszy", "drugi", "trzeci", "pierwsza", "druga", "trzecia"},
    "cs": {"první", "druhá", "třetí"},
}
"""Numbers that the rules lack."""


@cache
def _patterns() -> list[tuple[str, re.Pattern[str], re.Pattern[str]]]:
    """Return for each language: the word before what may be a number, and behind it."""
    flags = re.IGNORECASE
    return [
        (
            language,
            re.compile(rf"^(?:{words})\s+(?P<number>{NUMERAL}(?![^\W_])|{IN_WORDS}){AFTER}{TITLE}$", flags),
            re.compile(rf"^(?:the\s+)?(?P<number>\d{{1,4}}|{IN_WORDS})\.?\s+(?:{words}){AFTER}{TITLE}$", flags),
        )
        for language, words in CHAPTERS.items()
    ]


def find_heading(line: str) -> Heading | None:
    """Return what a line is as a heading of a chapter; None for any other line."""
    line = " ".join(line.strip(" \t*_=#~—–-").split())
    if not line or len(line) > MAX_CHARS:
        return None
    if CJK.match(line):
        return Heading("ko" if line[0] == "제" else None)
    if line.casefold().rstrip(".:") in ALONE:
        return Heading(None)
    if re.fullmatch(r"[IVXLCDM]{1,8}\.|[IVXLC]{2,8}|[ivxlc]{2,8}\.", line) and roman_value(line.rstrip(".")):
        return Heading(None)
    for language, before, behind in _patterns():
        for pattern in (before, behind):
            found = pattern.match(line)
            if found and _is_number(found["number"], language) and _is_title(found["title"]):
                return Heading(language)
    return None


def _is_number(text: str, language: str) -> bool:
    if text.isdigit():
        return True
    if roman_value(text) is not None and (text.isupper() or text.islower()):
        return True
    return text.casefold() in _numbers(language)


def _is_title(text: str | None) -> bool:
    """Whether what follows a chapter's number is its title: no sentence that goes on."""
    return text is None or not (text[0].islower() or text.startswith((",", ";")))


def is_contents(line: str) -> bool:
    """Whether a line is the heading of a table of contents."""
    return line.casefold().strip(" .:*_") in CONTENTS


SCRIPTS = (
    ("HANGUL", "ko"),
    ("HIRAGANA", "ja"),
    ("KATAKANA", "ja"),
    ("CJK", "zh"),
    ("CYRILLIC", "ru"),
    ("GREEK", "el"),
    ("ARABIC", "ar"),
    ("HEBREW", "he"),
    ("DEVANAGARI", "hi"),
    ("THAI", "th"),
)
"""Scripts by the beginning of their characters' names, and the language most written in each."""
WRITTEN_IN = {
    **dict.fromkeys(("ru", "uk", "bg", "sr", "mk", "be", "kk", "mn"), "CYRILLIC"),
    **dict.fromkeys(("ar", "fa", "ur"), "ARABIC"),
    **dict.fromkeys(("hi", "mr", "ne"), "DEVANAGARI"),
    **dict.fromkeys(("zh", "ja", "yue"), "CJK"),
    **dict.fromkeys(("he", "yi"), "HEBREW"),
    **{"ko": "HANGUL", "el": "GREEK", "th": "THAI"},
}
THREE_LETTERS = {
    "eng": "en", "ger": "de", "deu": "de", "fre": "fr", "fra": "fr", "spa": "es", "ita": "it", "por": "pt", "dut": "nl",
    "nld": "nl", "swe": "sv", "dan": "da", "nor": "no", "nob": "no", "fin": "fi", "pol": "pl", "cze": "cs", "ces": "cs",
    "hun": "hu", "rum": "ro", "ron": "ro", "rus": "ru", "ukr": "uk", "gre": "el", "ell": "el", "tur": "tr", "chi": "zh",
    "zho": "zh", "jpn": "ja", "kor": "ko", "ara": "ar", "heb": "he", "hin": "hi", "lat": "la", "epo": "eo",
    "english": "en", "german": "de", "french": "fr", "spanish": "es", "italian": "it", "portuguese": "pt",
    "dutch": "nl", "swedish": "sv", "danish": "da", "norwegian": "no", "finnish": "fi", "polish": "pl", "czech": "cs",
    "hungarian": "hu", "russian": "ru", "greek": "el", "chinese": "zh",
    "japanese": "ja", "korean": "ko", "latin": "la", "esperanto": "eo",
}  # fmt: skip
"""Two-letter codes of languages by their three-letter codes and English names, as files declare them."""


FREQUENT = {
    "en": "the and of to was that he with", "de": "der die und das nicht ist ein sie", "nl": "de het een en van niet",
    "fr": "le les et des une dans est que", "es": "el los y que una en se las", "it": "il che di gli una non e la",
    "pt": "o não os uma que do da se", "ro": "și nu că de la în un pe", "sv": "och att det som en är var inte",
    "da": "og det at som en er ikke af", "no": "og det som en er ikke på av", "fi": "ja on ei että oli hän se",
    "pl": "się nie na jest że i w do", "cs": "se na je že a to byl v", "hu": "a az és nem hogy egy volt",
    "tr": "bir ve bu için çok gibi da", "id": "yang dan di itu dengan tidak",
}  # fmt: skip
"""The most frequent words of languages in Latin letters."""
MIN_FREQUENT, MIN_WORDS = 0.08, 5
"""Share and number of frequent words from which a text is of a language. Assumed: in prose they are a fifth."""


def _by_frequent_words(text: str) -> str | None:
    """Return the language whose most frequent words a text has more of than any other's; None where that is unclear."""
    words = re.findall(r"[^\W\d_]+", text[:20_000].casefold())
    counts = {language: sum(map(words.count, frequent.split())) for language, frequent in FREQUENT.items()}
    first, second = sorted(counts, key=counts.__getitem__, reverse=True)[:2]
    enough = counts[first] >= max(MIN_WORDS, MIN_FREQUENT * len(words))
    return first if enough and counts[first] > counts[second] + 1 else None


def language_of(declared: str | None, text: str, headings: str | None = None) -> str:
    """Return the ISO 639 code of a book's language: as declared, unless its letters are of another script.

    ``headings`` is the language of its headings, where it is known. Without any sign it is English.
    """
    code = re.split(r"[-_ ;,(]", (declared or "").strip().lower())[0]
    code = THREE_LETTERS.get(code, code)
    code = code if len(code) == 2 or code == "yue" else ""
    letters = [c for c in text[:20_000] if c.isalpha() and ord(c) > 127]
    names = [unicodedata.name(c, "").split()[0] for c in letters[:4000]]
    counts = {script: names.count(script) for script, _ in SCRIPTS}
    latin = sum(c.isascii() and c.isalpha() for c in text[:20_000]) * min(1, 4000 / max(1, len(letters)))
    script = max(counts, key=counts.__getitem__)
    if counts["HIRAGANA"] + counts["KATAKANA"] > 0.1 * max(1, counts["CJK"]) and counts["HIRAGANA"] > 3:
        script = "HIRAGANA"
    if counts[script] > latin:
        group = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}.get(script, script)
        found = dict(SCRIPTS)[script]
        return code if WRITTEN_IN.get(code) == group and not (script == "HIRAGANA" and code == "zh") else found
    return code if code and code not in WRITTEN_IN else _by_frequent_words(text) or headings or "en"
