"""Figures and signs in words by language, and what is pasted in plain characters."""

import pytest
from test_front_end import NORMALISED

from triforce.models.reading.figures import in_words
from triforce.models.reading.normalise import normalise
from triforce.models.reading.tidy import tidy

TIDY = {
    "soft\u00adhyphen zero\u200bwidth \ufeffmark \u202bright\u202c": "softhyphen zerowidth mark right",
    "Ｈｅｌｌｏ １２３ 𝐇𝐞𝐥𝐥𝐨 ① ㎏ Ⅳ ﬁne": "Hello 123 Hello 1 kg IV fine",
    "\u0410pple, M\u043eскв\u0430 and \u041c\u043eсква": "Apple, Москва and Москва",
    "‘Hello there’ don’t rock ’n’ roll": "\"Hello there\" don't rock 'n' roll",
    "**bold** and [a link](https://x.example/y), `code`": "bold and a link, code",
    "😂😂😂 👍🏽 🇩🇪 👩\u200d🚀": "face with tears of joy thumbs up Germany woman astronaut",
    "می\u200cخواهم नमस्ते สวัสดี": "می\u200cخواهم नमस्ते สวัสดี",
    "half a pair \ud800": "half a pair \ufffd",
    "© 2024 Acme™": "2024 Acme",
    "tab\tbell\x07line\nend": "tab bell line end",
}
WORDS = {
    ("de", "1999 kostete es 3,50 €, 50 % Rabatt, Kapitel IV, Dr. Schmidt, 15:45 Uhr, am 3. Mai, -5 Grad"): (
        "neunzehnhundertneunundneunzig kostete es drei Euro fünfzig, fünfzig Prozent Rabatt, Kapitel vier, "
        "Doktor Schmidt, fünfzehn Uhr fünfundvierzig, am dritten Mai, minus fünf Grad"
    ),
    ("de", "1.234.567 und 2,5 und 007"): (
        "eine Million zweihundertvierunddreißigtausendfünfhundertsiebenundsechzig und zwei Komma fünf und "
        "null null sieben"
    ),
    ("fr", "Louis XIV, le 1er janvier, 1\u202f234 et 50 % à 15:45"): (
        "Louis quatorze, le premier janvier, mille deux cent trente-quatre et cinquante pour cent à quinze heures "
        "quarante-cinq"
    ),
    ("es", "$3.50, el 2º piso, capítulo V, 3:00 ❤️"): (
        "tres dólares cincuenta, el segundo piso, capítulo cinco, tres corazón rojo"
    ),
    ("ru", "В главе 5: 20%"): "В главе пять: двадцать процентов",
    ("zh", "1999年花了3.5美元，打50%，15:45"): "一九九九年花了三点五美元，打百分之五十，十五点四十五分",
    ("zh", "1,234和3.500"): "一千二百三十四和三点五〇〇",
    ("fi", "3,5 km"): "kolme pilkku viisi km",
    ("ar", "في ٢٠ يوما"): "في عشرون يوما",
    ("xx", "5 %"): "5 %",
}


@pytest.mark.parametrize("text", TIDY)
def test_tidy(text):
    assert tidy(text) == TIDY[text]
    assert tidy(TIDY[text]) == TIDY[text]


@pytest.mark.parametrize(("language", "text"), WORDS)
def test_figures_are_said_in_their_language(language, text):
    said = WORDS[language, text]
    assert in_words(text, language) == said
    assert in_words(said, language) == said


@pytest.mark.parametrize("text", NORMALISED)
def test_what_is_said_twice_is_the_same(text):
    assert normalise(in_words(text)) == NORMALISED[text]


def test_letters_and_accents_stay_and_signs_have_names():
    assert in_words("Crème brûlée – 5×3 ≤ 20 °C, α and β") == (
        "Crème brûlée – five times three less than or equal to twenty degrees Celsius, alpha and beta"
    )
    assert in_words("1990–2000: ₹5 → x²") == "nineteen ninety to two thousand: indian rupee five → x squared"
