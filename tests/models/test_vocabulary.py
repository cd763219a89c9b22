import numpy as np
import pytest

from triforce.models.text import TextTokenizer, clean_text
from triforce.models.vocabulary import Modality, Segment, Vocabulary

VOCABULARY = Vocabulary(
    modalities=(
        Modality(name="text", num_codes=300),
        Modality(name="speech", num_codes=100),
        Modality(name="voice", num_codes=100, shares="speech"),
    )
)


def test_documents_round_trip_in_any_order():
    generator = np.random.default_rng(0)
    for order in (["text", "speech"], ["speech", "text"], ["voice", "text", "speech"], ["speech"], ["text", "text"]):
        segments = [
            Segment(name, generator.integers(0, VOCABULARY.modality(name).num_codes, generator.integers(0, 9)))
            for name in order
        ]
        ids = VOCABULARY.document_ids(segments)
        assert ids.min() >= 0
        assert ids.max() < VOCABULARY.size
        found = VOCABULARY.split(ids)
        assert [segment.modality for segment in found] == order
        for segment, expected in zip(found, segments, strict=True):
            np.testing.assert_array_equal(segment.codes, expected.codes)


def test_ids_are_distinct_and_shared_where_said():
    ids = [id_ for m in VOCABULARY.modalities for id_ in (VOCABULARY.begin(m.name), VOCABULARY.end(m.name))]
    ids += [
        VOCABULARY.offset(name) + code
        for name in ("text", "speech")
        for code in range(VOCABULARY.modality(name).num_codes)
    ]
    assert sorted(ids) == list(range(2, VOCABULARY.size))
    assert VOCABULARY.offset("voice") == VOCABULARY.offset("speech")


def test_adding_a_modality_moves_no_id():
    larger = Vocabulary(modalities=(*VOCABULARY.modalities, Modality(name="image", num_codes=50)))
    document = [Segment("text", np.arange(5)), Segment("voice", np.arange(5))]
    np.testing.assert_array_equal(larger.document_ids(document), VOCABULARY.document_ids(document))
    assert larger.size == VOCABULARY.size + 52


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="this vocabulary has 0 to 99"):
        VOCABULARY.segment_ids(Segment("speech", np.array([100])))
    with pytest.raises(ValueError, match="this vocabulary has text, speech, voice"):
        VOCABULARY.begin("image")
    with pytest.raises(ValueError, match="registered before it"):
        Vocabulary(modalities=(Modality(name="voice", num_codes=3, shares="speech"),))
    with pytest.raises(ValueError, match="registered twice"):
        Vocabulary(modalities=(Modality(name="text", num_codes=3), Modality(name="text", num_codes=3)))


@pytest.mark.parametrize("size", [256, 300])
def test_text_round_trips_whatever_it_is(size):
    tokenizer = TextTokenizer.train(["the cat sat on the mat"] * 20, size)
    assert tokenizer.size <= size
    for text in ("the cat", "", " ", "Grüße, 東京!", "\x00\x07", "👩‍🚀 e\u0301", "tabs\tand\nlines"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    again = TextTokenizer(tokenizer.to_json())
    np.testing.assert_array_equal(again.encode("the cat sat"), tokenizer.encode("the cat sat"))


def test_more_pieces_make_shorter_text():
    texts = ["the cat sat on the mat"] * 20
    assert len(TextTokenizer.train(texts, 300).encode(texts[0])) < len(TextTokenizer.train(texts, 256).encode(texts[0]))
    with pytest.raises(ValueError, match="from 256"):
        TextTokenizer.train(texts, 100)


def test_clean_text_leaves_single_spaces():
    assert clean_text("  a\n\tb  c ") == "a b c"
