"""Loops of the recogniser are told from speech that says a word twice."""

from __future__ import annotations

from triforce.ingest.asr.repetition import compression_ratio, is_loop, repeats_its_end

SENTENCE = "She wrote a short letter to her brother and folded it twice."


def test_repetition_compresses_and_no_text_is_no_repetition():
    assert compression_ratio("") == 0
    assert compression_ratio("and so on " * 20) > 2.4 > compression_ratio(SENTENCE)
    assert is_loop("and so on " * 20)
    assert not is_loop(SENTENCE)
    assert not is_loop("")


def test_a_phrase_said_again_at_the_end_is_seen_and_a_doubled_word_is_fine():
    assert repeats_its_end("One moment please. Thank you for your patience. Thank you for your patience.")
    assert repeats_its_end("Press star, press star")
    assert not repeats_its_end("It is very, very good that that is so.")
    assert not repeats_its_end("Thank you for your patience. Thank you for your time.")
    assert not repeats_its_end("No no")
