"""Published transcripts as text: what is said, and what only stands there."""

from __future__ import annotations

import pytest

from triforce.ingest.align.published import automatic_reason, published_lines
from triforce.ingest.align.tokens import joined, tokenize


def words(text: str, ending: str) -> str:
    return joined(tokenize(published_lines(text, ending)))


VTT = "WEBVTT\n\n1\n00:00.000 --> 00:00.900 align:left\n<v Bob>Good &amp; well,\n\n00:01.000 --> 00:02.900\nthank you."
SRT = "1\r\n00:00:00,000 --> 00:00:00,900\r\nGood & well,\r\n\r\n2\r\n00:00:01,000 --> 00:00:02,900\r\nthank you.\r\n"
JSON = (
    '{"segments":[{"speaker":"Bob","startTime":0,"endTime":1,"body":"Good & well,"},'
    '{"startTime":1,"body":"thank you."}]}'
)
HTML = (
    "<!DOCTYPE html><html><head><title>No</title><style>p {}</style></head><body><cite>Bob:</cite><time>0:01</time>"
    "<p>Good &amp; w<b>el</b>l,<br>thank<sup>7</sup> you.</p><script>no()</script></body></html>"
)
PLAIN = "[00:01] Bob: Good & well,\n\n00:02 Ann Lee: thank\n0:03 Bob: you.\n0:04 Ann Lee:\n"


@pytest.mark.parametrize(
    ("text", "ending"),
    [(VTT, "vtt"), (SRT, "srt"), (JSON, "json"), (HTML, "html"), (HTML, "txt"), (PLAIN, "txt")],
)
def test_what_is_said_is_read_from_every_format(text, ending):
    assert words(text, ending) == "Good & well, thank you."


def test_captions_that_roll_are_read_once():
    cues = ["Hello and", "Hello and welcome to", "welcome to", "welcome to the show."]
    text = "WEBVTT\n\n" + "\n\n".join(f"00:0{at}.000 --> 00:0{at + 1}.000\n{cue}" for at, cue in enumerate(cues))
    assert words(text, "vtt").startswith("Hello and welcome to")
    assert words(text, "vtt").endswith("the show.")


def test_a_colon_in_a_book_is_no_speaker():
    text = "Note: the gate was shut.\nHe said: come at 10:30 to the gate."
    assert words(text, "txt") == text.replace("\n", " ")


def test_a_machine_s_captions_are_told():
    timed = "WEBVTT\n\n00:00.000 --> 00:02.000\nso<00:00:00.500><c> this</c><00:00:01.000><c> is</c>"
    assert "a time for each word" in automatic_reason(timed, published_lines(timed, "vtt"))
    bare = "so this is what we are going to do today and it is going to be fun\n" * 20
    assert "without capitals" in automatic_reason(bare, published_lines(bare, "txt"))
    assert automatic_reason(VTT, published_lines(VTT, "vtt")) is None
    chinese = "今天天气很好 我们去公园\n" * 10  # no capitals in it
    assert automatic_reason(chinese, published_lines(chinese, "txt")) is None


@pytest.mark.parametrize(
    "text",
    [
        "“Well,” he said — ‘twenty-three men!’ (She laughed.) It cost $5,000 … ¿No?",
        "你好，世界。Hello 世界！",
        "Ça va? Ёлка горит; Straße.",
    ],
)
def test_tokens_keep_what_is_written(text):
    tokens = tokenize([text])
    assert joined(tokens) == text
    assert all(token.units for token in tokens)


def test_units_are_what_two_transcripts_share():
    tokens = tokenize(["Twenty-three, DON’T [laughs] Ёлка你好"])
    assert [token.units for token in tokens] == [
        *(("twenty", "three"), ("dont",), ("laughs",), ("елка",), ("你",), ("好",)),
    ]
    assert [token.is_aside for token in tokens] == [False, False, True, False, False, False]


def test_books_in_plain_text():
    text = "It was _very_ late--too late;\nthe *old gen-\ntleman* had a so-\ncalled\nhalf-hour. snake_case stays."
    assert (
        words(text, "txt")
        == "It was very late--too late; the old gentleman had a socalled half-hour. snake_case stays."
    )
    parts = [token.text for token in tokenize(["late--too late\N{EM DASH}so\N{HORIZONTAL ELLIPSIS}and"])]
    assert parts == ["late--", "too", "late\N{EM DASH}", "so\N{HORIZONTAL ELLIPSIS}", "and"]
