"""Published words dealt out to clips: borders, what is left out, agreement."""

from __future__ import annotations

import pytest

from triforce.ingest.align.clip_texts import Published, RecordingAgreement, deal_out, recording_agreement
from triforce.ingest.align.config import AlignConfig
from triforce.ingest.align.place import Heard
from triforce.ingest.align.tokens import tokenize
from triforce.ingest.corpus.records import Word

CONFIG = AlignConfig()
NOUNS = ("window", "gardener", "carriage", "letter", "monument", "teacher", "violin", "harbour")


def heard(*clips: str, gap_s: float = 1.0) -> list[Heard]:
    """Clips of words, each a third of a second."""
    found, start_s = [], 0.0
    for text in clips:
        words = text.split()
        found.append(
            Heard(tuple(Word(f" {word}", at / 3, at / 3 + 0.3, 0.9) for at, word in enumerate(words)), start_s)
        )
        start_s += len(words) / 3 + gap_s
    return found


def texts(published: list[Published]) -> list[str]:
    return [each.text for each in published]


def test_each_clip_gets_its_words_as_they_are_published():
    found = deal_out(
        heard("the old man sat on the bench", "and waited for the train to come"),
        tokenize(["The old man sat, on the Bench —", "and waited for the train to come."]),
    )
    assert texts(found) == ["The old man sat, on the Bench —", "and waited for the train to come."]
    assert all(each.agreement == 1.0 and each.is_preferred(CONFIG) for each in found)
    assert found[1].words[0] == Word(" and", 0.0, 0.3, 0.9)
    assert found[1].words[-1].end_s == pytest.approx(2.3)
    assert "".join(word.word for word in found[0].words).strip() == found[0].text


def test_misheard_words_are_mended_and_keep_their_times():
    found = deal_out(
        heard("doctor check off lived in melly hova then", "where he wrote many of his plays"),
        tokenize(["Doctor Chekhov lived in Melikhovo then, where he wrote many of his plays."]),
    )
    assert texts(found) == ["Doctor Chekhov lived in Melikhovo then,", "where he wrote many of his plays."]
    name = found[0].words[1]
    assert (name.word, name.start_s) == (" Chekhov", pytest.approx(0.33, abs=0.01))
    assert 0.6 < found[0].agreement < 1.0


def test_numbers_in_figures_are_no_disagreement():
    (found,) = deal_out(
        heard("there were 23 men and 5 boats"), tokenize(["There were twenty-three men and five boats."])
    )
    assert found.text == "There were twenty-three men and five boats."
    assert found.agreement == 1.0


def test_what_nobody_can_have_said_is_left_out():
    skipped = "Then came a long paragraph that the reader of this book did not read at all, not a word of it."
    published = ["The old man sat on the bench.", skipped, "And he waited for the train."]
    assert texts(deal_out(heard("the old man sat on the bench and he waited for the train"), tokenize(published))) == [
        "The old man sat on the bench. And he waited for the train."
    ]
    found = deal_out(heard("the old man sat on the bench", "and he waited for the train"), tokenize(published))
    assert texts(found) == [published[0], published[2]]


def test_a_word_that_was_missed_is_put_back_and_a_remark_is_not():
    clips = heard("the man sat on the bench and waited for the train")
    slow = Heard(
        tuple(
            Word(w.word, w.start_s + (0.5 if at else 0), w.end_s + (0.5 if at else 0), 0.9)
            for at, w in enumerate(clips[0].words)
        ),
        0.0,
    )
    (found,) = deal_out([slow], tokenize(["The old man sat [laughs] on the bench and waited for the train."]))
    assert found.text == "The old man sat on the bench and waited for the train."
    assert found.words[1].probability is None
    assert found.words[0].end_s <= found.words[1].start_s <= found.words[1].end_s <= found.words[2].start_s


def test_an_advert_that_is_not_published_stays_the_recognisers():
    found = deal_out(
        heard("the old man sat on the bench", "order today with the promo code train", "and he waited for the train"),
        tokenize(["The old man sat on the bench.", "And he waited for the train."]),
    )
    assert [each.is_preferred(CONFIG) for each in found] == [True, False, True]


def test_a_clip_whose_end_was_not_published_is_not_preferred():
    found = deal_out(
        heard("the old man sat on the bench over there quietly", "and he waited for the train"),
        tokenize(["The old man sat on the bench. And he waited for the train."]),
    )
    assert [each.is_anchored for each in found] == [False, True]


@pytest.mark.parametrize("is_last", [True, False])
def test_a_word_beyond_music_goes_to_the_clip_of_its_sentence(is_last):
    """Music lies between two clips, and the recogniser put a word on its wrong side."""
    first, second = heard("the old man sat on the bench", "then he left for the train")
    if is_last:
        last = first.words[-1].end_s + 3
        first = Heard((*first.words, Word(" then", last, last + 0.3, 0.9)), 0.0)
        second = Heard(second.words[1:], 9.0)
    else:
        moved = [Word(word.word, word.start_s + 3, word.end_s + 3, 0.9) for word in second.words]
        first, second = Heard(first.words[:-1], 0.0), Heard((Word(" bench", 0.0, 0.3, 0.9), *moved), 9.0)
    found = deal_out([first, second], tokenize(["The old man sat on the bench. Then he left for the train."]))
    assert texts(found) == ["The old man sat on the bench.", "Then he left for the train."]
    assert all(each.is_preferred(CONFIG) for each in found)
    unpaused = deal_out(heard("the old man sat on the bench then", "he left for the train"), tokenize([
        "The old man sat on the bench. Then he left for the train."
    ]))  # fmt: skip
    assert texts(unpaused) == ["The old man sat on the bench. Then", "he left for the train."]


def test_another_text_does_not_agree():
    clips = heard("the old man sat on the bench", "and he waited for the train")
    found = deal_out(clips, tokenize(["Call me Ishmael. Some years ago, never mind how long precisely, I sailed."]))
    assert not recording_agreement(found, clips).is_enough(CONFIG)
    assert recording_agreement(deal_out(clips, []), clips) == RecordingAgreement(0.0, 0.0, 0.0)
    assert deal_out([Heard((), 0.0)], tokenize(["One."]))[0].agreement == 0.0


def test_another_edition_is_told_and_gaps_are_not_taken_for_one():
    """One word in four is another; or all words are right, and every second sentence is missing."""
    said = [f"the {noun} was by the old {place} again" for noun, place in zip(NOUNS, NOUNS[::-1], strict=True)]
    clips = heard(*said)
    other = [text.replace("again", "yesterday").replace("old", "broken") for text in said]
    edition = recording_agreement(deal_out(clips, tokenize(other)), clips)
    assert (edition.covered, edition.is_enough(CONFIG)) == (1.0, False)
    gaps = recording_agreement(deal_out(clips, tokenize(said[::2])), clips)
    assert 0.4 < gaps.covered < 0.6
    assert gaps.is_enough(CONFIG)


def test_scripts_without_spaces():
    words = tuple(Word(text, at, at + 0.9, 0.9) for at, text in enumerate(("今天", "天气", "很", "号")))
    (found,) = deal_out([Heard(words, 0.0)], tokenize(["今天，天气很好。"]))
    assert found.text == "今天，天气很好。"
    assert [word.word for word in found.words][-1] == "好。"


def read_aloud(wrong: set[int], unsure: set[int]) -> tuple[list[Heard], str]:
    """A recording of 400 words in clips of 20: of these places ``wrong`` are others in the transcript, and ``unsure``
    are heard with half the probability."""
    said = [f"{NOUNS[at % 8][:-1]}{at}" for at in range(400)]
    said = ["".join(chr(ord("a") + int(sign)) if sign.isdigit() else sign for sign in word) for word in said]
    clips = heard(*(" ".join(said[at : at + 20]) for at in range(0, 400, 20)))
    clips = [
        Heard(
            tuple(
                word._replace(probability=0.5 if 20 * number + at in unsure else 0.99)
                for at, word in enumerate(clip.words)
            ),
            clip.start_s,
        )
        for number, clip in enumerate(clips)
    ]
    return clips, " ".join("xyzzy" if at in wrong else word for at, word in enumerate(said)) + "."


@pytest.mark.parametrize(
    ("wrong", "unsure", "is_enough"),
    [
        (set(range(5, 400, 20)), set(), False),
        (set(range(5, 400, 20)), set(range(5, 400, 10)), True),  # the recogniser's errors, and it knows them
        (set(range(5, 400, 100)), set(), True),
        (set(), set(), True),
    ],
)
def test_a_transcript_that_contradicts_what_was_surely_heard_is_not_used(wrong, unsure, is_enough):
    clips, transcript = read_aloud(wrong, unsure)
    agreement = recording_agreement(deal_out(clips, tokenize([transcript])), clips)
    assert agreement.covered == 1.0
    assert agreement.median > CONFIG.min_recording_agreement
    assert agreement.is_enough(CONFIG) is is_enough
