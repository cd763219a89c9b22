"""Documents of read sentences, made all at once, against those made one by one; packed rows of them."""

import numpy as np
import pytest
import torch

from triforce.models.gpt import GPT, GPTConfig
from triforce.models.reading.interleave import (
    TimedWord,
    WordTimes,
    codes_before,
    interleave,
    reading_weights,
    starts_of_pieces,
    time_words,
)
from triforce.models.reading.phonemes import BOUNDARY, PhonemeTokenizer
from triforce.models.vocabulary import END_OF_DOCUMENT
from triforce.train.data.tokens.reading_corpus import ReadingConfig, ReadingCorpus, ReadingTexts
from triforce.train.data.tokens.rows import RowStream, fill_rows
from triforce.train.tasks.gpt_loss import packed_loss, speech_vocabulary, token_losses

READER = PhonemeTokenizer()
NUM_CODES = 50
VOCABULARY = speech_vocabulary(READER.size, NUM_CODES, reading=True)
SENTENCES = ("Hello, dear world.", "In 1984 we met Xyzzy.", "A well-known quote; nobody knows.", "Oh!", "")
RATE = ReadingConfig().codes_per_s


def samples() -> list[tuple[np.ndarray, str, list[TimedWord] | None]]:
    """Fifty clips; of every seventh the words have no times, of every third those of pieces are known too."""
    generator = np.random.default_rng(0)
    found = []
    for number in range(50):
        text = SENTENCES[number % len(SENTENCES)]
        words = [(word, 0.2 + 0.3 * i, 0.5 + 0.3 * i) for i, word in enumerate(text.split())]
        forms = READER.words(text)
        if number % 3 == 1 and len(forms) == len(words):
            pieces = [
                generator.uniform(word[1], word[2], len(form.read)) for word, form in zip(words, forms, strict=True)
            ]
            words = [(*word, [word[1], *np.sort(own[1:])]) for word, own in zip(words, pieces, strict=True)]
        codes = generator.integers(0, NUM_CODES, int((0.3 * len(words) + 0.5) * RATE))
        found.append((codes, text, words if number % 7 else None))
    return found


def make_corpus(**settings) -> ReadingCorpus:
    found = samples()
    texts = ReadingTexts.make(READER, [(text, words) for _, text, words in found])
    return ReadingCorpus([codes for codes, _, _ in found], texts, VOCABULARY, ReadingConfig(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"spelled_share": 0.0},
        {"text_dropout": 0.4, "spelled_share": 0.5},
        {"layouts": {"text>reading": 1, "text>speech": 2}, "text_dropout": 0.3, "text_weight": 0.1},
        {"units": "pieces", "text_dropout": 0.3, "spelled_share": 0.5},
    ],
)
def test_documents_made_at_once_are_those_made_one_by_one(settings):
    corpus, units = make_corpus(**settings), settings.get("units", "words")
    kinds = set()
    for epoch in range(4):
        documents = corpus.documents(epoch)
        for number, (codes, text, words) in enumerate(samples()):
            part = slice(*documents.starts[number : number + 2])
            ids, weights = documents.ids[part], documents.weights[part]
            if not len(ids):
                assert time_words(READER, text, words or []) is None
                continue
            segments = VOCABULARY.split(ids)
            np.testing.assert_array_equal(VOCABULARY.document_ids(segments), ids)
            assert ids[-1] == END_OF_DOCUMENT
            forms = READER.words(text)
            hidden = segments[0].modality != "text"
            shown = [np.array([BOUNDARY])] * len(forms) if hidden else READER.split(segments[0].codes)
            assert len(shown) == len(forms)
            for pieces, form in zip(shown, forms, strict=True):
                assert hidden or any(np.array_equal(pieces, each) for each in form)
            body = segments[-1]
            expected, wanted = codes, np.concatenate([[0], np.ones(len(codes) + 1)])
            if body.modality == "reading":
                found, flat = time_words(READER, text, words), np.concatenate(shown)
                starts, ends = (each.astype(np.float32) for each in found[1:3])  # as a corpus keeps them
                known = found.pieces_s and [own.astype(np.float32) for own in found.pieces_s]
                times = starts.repeat([len(each) for each in shown])
                if units == "pieces":
                    times = starts_of_pieces(WordTimes(found.words, starts, ends, known), shown)
                expected = interleave(codes, flat, codes_before(times, len(codes), RATE), NUM_CODES)
                wanted = reading_weights(expected, NUM_CODES, units)
            np.testing.assert_array_equal(body.codes, expected)
            np.testing.assert_array_equal(weights[-len(wanted) - 1 :], [*wanted, 0])
            text_weight = settings.get("text_weight", 0.0)
            head = [] if hidden else [0, *[text_weight] * (len(segments[0].codes) + 1)]
            np.testing.assert_allclose(weights[: -len(wanted) - 1], head)
            kinds.add((*(segment.modality for segment in segments), sum(map(len, shown))))
    assert {"reading"} <= {name for kind in kinds for name in kind if isinstance(name, str)}
    if settings.get("spelled_share") == 0.0:
        assert len(kinds) == 4  # as many as sentences: nothing is drawn
    else:
        assert len(kinds) > 6


def test_a_part_of_a_corpus_has_the_same_sentences(tmp_path):
    corpus = make_corpus(spelled_share=0.0)
    rows = np.array([11, 4, 30])
    whole, part = corpus.documents(0), corpus.subset(rows).documents(0)
    for place, row in enumerate(rows):
        np.testing.assert_array_equal(
            part.ids[part.starts[place] : part.starts[place + 1]], whole.ids[whole.starts[row] : whole.starts[row + 1]]
        )
    corpus.texts.save(tmp_path / "texts.npz")
    again = ReadingTexts.load(tmp_path / "texts.npz")
    for name, array in vars(corpus.texts).items():
        np.testing.assert_array_equal(getattr(again, name), array)


def test_rows_hold_each_document_of_an_epoch_once_and_resume():
    corpus = make_corpus()
    stream = RowStream(corpus.documents, 150, 3)
    first, second = stream.num_rows(0), stream.num_rows(1)
    batch = stream.batch(0, first)
    found = []
    for row in range(first):
        numbers = batch.documents[row]
        found += [batch.ids[row][numbers == n].tolist() for n in range(1, int(numbers.max()) + 1)]
    documents = corpus.documents(0)
    expected = [documents.ids[a:b].tolist() for a, b in zip(documents.starts, documents.starts[1:], strict=False)]
    assert sorted(found) == sorted(document for document in expected if document)
    assert (batch.documents > 0).float().mean() > 0.8
    # Rows over the end of an epoch, every other one, are those of a stream that begins there.
    across = stream.batch(first - 3, 4, 2)
    again = RowStream(corpus.documents, 150, 3)
    for one, other in zip(across, again.batch(first - 3, 4, 2), strict=True):
        torch.testing.assert_close(one, other)
    single = [again.batch(first - 3 + 2 * i, 1) for i in range(4)]
    torch.testing.assert_close(across.ids, torch.cat([one.ids for one in single]))
    assert across.starts.shape == stream.batch(first, 4).starts.shape
    assert second > 0


def test_bounds_are_where_documents_start():
    stream = RowStream(make_corpus().documents, 150, 3)
    for first in (0, stream.num_rows(0) - 2):
        batch = stream.batch(first, 4)
        numbers = batch.documents.numpy()
        begins = np.flatnonzero(np.diff(numbers, axis=1, prepend=-1).reshape(-1))
        starts = batch.starts.numpy()
        np.testing.assert_array_equal(np.unique(starts), [*begins, numbers.size])
        assert (np.diff(starts) >= 0).all()


def test_packed_is_unpacked():
    corpus = make_corpus(text_dropout=0.2)
    torch.manual_seed(0)
    shape = {"num_layers": 2, "width": 64, "num_heads": 2, "pointer": True}
    model = GPT(GPTConfig(vocabulary=VOCABULARY, **shape))
    torch.nn.init.normal_(model.embedding.weight, std=0.3)
    batch = RowStream(corpus.documents, 150, 3).batch(0, 4)
    losses, weights = token_losses(model, batch)
    mean = (losses * weights).sum() / weights.sum()
    torch.testing.assert_close(packed_loss(model, batch), mean)
    alone = torch.zeros(())
    for row in range(4):
        for number in range(1, int(batch.documents[row].max()) + 1):
            inside = batch.documents[row] == number
            logits = model.logits(model(batch.ids[row][inside][None]))[0]
            loss = torch.nn.functional.cross_entropy(logits, batch.targets[row][inside], reduction="none")
            alone = alone + (loss * batch.weights[row][inside]).sum()
    torch.testing.assert_close(alone / weights.sum(), mean, rtol=1e-5, atol=1e-5)
    whole = torch.compile(lambda batch: packed_loss(model, batch), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(batch), mean)


def test_rows_are_filled_and_no_document_is_cut():
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 130, 3000)
    rows = fill_rows(lengths, generator.permutation(3000), 120, 5)
    assert (
        sorted(document for row in rows for document in row)
        == np.flatnonzero((lengths > 0) & (lengths <= 120)).tolist()
    )
    sizes = [lengths[row].sum() for row in rows]
    assert max(sizes) <= 120
    assert max(map(len, rows)) == 5
    assert np.mean(sizes) > 0.85 * 120


def test_what_cannot_be_is_refused():
    corpus = make_corpus()
    with pytest.raises(ValueError, match="context 20"):
        RowStream(corpus.documents, 20, 0)
    with pytest.raises(ValueError, match="one text a clip"):
        ReadingCorpus([np.zeros(3)], corpus.texts, VOCABULARY, ReadingConfig())
    with pytest.raises(ValueError, match="vocabulary has 50"):
        ReadingCorpus([np.full(3, 50)] * 50, corpus.texts, VOCABULARY, ReadingConfig())
    with pytest.raises(ValueError, match="speech>text"):
        ReadingConfig(layouts={"speech>text": 1})
