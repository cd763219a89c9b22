"""Readings: where the pieces of words stand between codes, pointers into the text, and drawing word by word."""

import itertools

import numpy as np
import pytest
import torch
from tiny_reader import NUM_CODES, READER, TEXTS, VOCABULARY, make_gpt, words_of

from triforce.models.blocks import packed_attention
from triforce.models.blocks.kv_cache import KVCache
from triforce.models.blocks.packed_attention import Bounds
from triforce.models.blocks.positions import text_pointers
from triforce.models.gpt import GPT
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.reading import decide
from triforce.models.reading.decide import draw_codes
from triforce.models.reading.interleave import (
    begins_unit,
    codes_before,
    interleave,
    piece_times,
    reading_weights,
    time_words,
)
from triforce.models.reading.phonemes import BOUNDARY, SYMBOLS
from triforce.models.reading.pool import ReadingPool
from triforce.models.reading.sampling import read_aloud
from triforce.models.vocabulary import Segment


def test_pieces_stand_before_the_codes_that_say_them():
    # Ten codes a second: code k has its centre at k + 0.5 tenths.
    timed = [("Dear", 0.25, 0.5), ("world.", 0.5, 0.9)]
    found = time_words(READER, "Dear world.", timed)
    before = codes_before(found.starts_s, 10, 10.0)
    assert before.tolist() == [2, 5]  # the centre of code 2 is at 0.25
    dear, world = (word.read for word in found.words)
    codes, pieces = np.arange(10), np.concatenate([dear, world])
    segment = Segment("reading", interleave(codes, pieces, before.repeat([len(dear), len(world)]), NUM_CODES))
    ids = VOCABULARY.segment_ids(segment)
    first, text = VOCABULARY.offset("speech"), VOCABULARY.offset("text")
    begin, end = VOCABULARY.begin("reading"), VOCABULARY.end("reading")
    expected = [begin, *(first + codes[:2]), *(text + dear), *(first + codes[2:5]), *(text + world)]
    assert ids.tolist() == [*expected, *(first + codes[5:]), end]
    again = VOCABULARY.split(ids)[0]
    assert again.modality == "reading"
    np.testing.assert_array_equal(again.codes, segment.codes)
    weights = reading_weights(segment.codes, NUM_CODES)
    given = [*dear[1:], *world[1:]]
    assert weights.sum() == 10 + 2 + 1
    assert ids[weights == 0].tolist() == [begin, *(text + np.array(given))]


def test_by_pieces_each_stands_before_its_own_codes():
    timed = [('"Dear', 0.2, 0.54), ("world,", 0.6, 1.0), ("go", 1.3, 1.5)]
    found = time_words(READER, '"Dear world, go', timed)
    pieces = [word.read for word in found.words]
    owner = np.repeat(np.arange(3), [len(word) for word in pieces])
    flat = np.concatenate(pieces)
    starts = piece_times(flat, owner, found.starts_s, found.ends_s)
    assert READER.decode(flat) == '"{D IH1 R} {W ER1 L D}, {G OW1}'
    # The boundary and the opening mark go with the first sound; D, IH and R last 49, 43 and 47 ms on average.
    np.testing.assert_allclose(starts[:5], [0.2, 0.2, 0.2, 0.2 + 0.34 * 49 / 139, 0.2 + 0.34 * 92 / 139])
    comma = flat.tolist().index(SYMBOLS.index(","))
    np.testing.assert_allclose(starts[comma], 1.0)  # what is left before the next word is the comma's
    joined = piece_times(flat, owner, found.starts_s, np.array([0.54, 1.3, 1.5]))  # the next word begins at its end
    np.testing.assert_allclose(joined[comma], 1.3 - 0.7 * 105 / (37 + 93 + 57 + 49 + 105))
    begun = begins_unit(flat, "pieces")
    assert begun[:6].tolist() == [True, False, False, True, True, True]  # the last is the second word's boundary
    assert begun.sum() == len(flat) - 4
    assert begins_unit(flat, "words").sum() == 3
    codes = interleave(np.arange(16), flat, codes_before(starts, 16, 10.0), NUM_CODES)
    assert codes[:9].tolist() == [0, 1, *(NUM_CODES + flat[:3]), 2, NUM_CODES + flat[3], 3, NUM_CODES + flat[4]]
    assert reading_weights(codes, NUM_CODES, "pieces").sum() == 16 + begun.sum() + 1


def test_times_of_words_that_do_not_fit_are_refused():
    year = [("In", 0, 0.2), ("1984", 0.2, 0.8), ("rain", 0.8, 1.0)]
    found = time_words(READER, "In 1984 rain", year)
    assert len(found.words) == 5
    np.testing.assert_allclose(found.starts_s, [0, 0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(found.ends_s, [0.2, 0.4, 0.6, 0.8, 1.0])
    hyphen = [(" All", 0, 0.2), (" non", 0.2, 0.4), ("-administrator", 0.4, 0.9), (" users.", 0.9, 1.2)]
    found = time_words(READER, "All non-administrator users.", hyphen)
    assert len(found.words) == 3
    np.testing.assert_allclose(found.starts_s, [0, 0.2, 0.9])
    assert time_words(READER, "In 1984 rain fell", year) is None
    assert time_words(READER, "one two", [("one", 0.5, 0.6), ("two", 0.2, 0.3)]) is None
    assert time_words(READER, "", []) is None
    assert codes_before(np.array([-0.1, 0.3, 9.0]), 5, 10.0).tolist() == [0, 3, 5]


def test_pointers_by_hand():
    begin, end, t, c = VOCABULARY.begin("text"), VOCABULARY.end("text"), VOCABULARY.offset("text"), 120
    reading = VOCABULARY.begin("reading")
    model = make_gpt(pointer=True)
    row = [begin, t, t + 1, t + 2, t, end, reading, c, t, t + 1, t + 2, c, c, t, c, VOCABULARY.end("reading"), 1]
    row += [begin, t + 5, end]  # the next document of a packed row
    expected = [0, 1, 2, 3, 4, 4, 0, 0, 1, 2, 3, 3, 3, 4, 4, 4, 4, 0, 1, 1]
    found = text_pointers(torch.tensor([row]), model.reads, model.begins, None)
    assert found[0].tolist() == expected
    for cut in (3, 9, 14):
        first = text_pointers(torch.tensor([row[:cut]]), model.reads, model.begins, None)
        rest = text_pointers(torch.tensor([row[cut:]]), model.reads, model.begins, first[:, -1:])
        assert rest[0].tolist() == expected[cut:]


def test_a_pointer_turns_every_other_pair():
    model = make_gpt(pointer=True)
    ids = torch.tensor([[VOCABULARY.begin("text"), 2 + 2, 2 + 3, VOCABULARY.begin("reading"), 120]])
    cos, _ = model.angles(ids, torch.arange(5)[None], None, None)
    places = torch.stack([torch.arange(5), torch.tensor([0, 1, 2, 0, 0])], 1).repeat(1, 4)
    torch.testing.assert_close(cos, torch.stack([model.cos[places[:, i], i] for i in range(8)], 1))


@pytest.mark.parametrize("pieces", [[1] * 12, [5, 7], [5, 1, 1, 5]])
def test_cached_is_uncached(pieces):
    model = make_gpt(pointer=True)
    ids = torch.randint(0, VOCABULARY.size, (2, 12), generator=torch.Generator().manual_seed(1))
    ids[0, 4] = VOCABULARY.begin("reading")
    whole = model(ids)
    cache = KVCache.empty(model.config, 2, 12, model.embedding.weight)
    parts = [model(part, cache=cache) for part in ids.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=1e-4)


def test_rows_by_the_kernel_for_all_lengths_are_the_documents(monkeypatch):
    """The kernel itself needs a GPU: here plain attention takes its place, with the same arguments."""

    def plain(q, k, v, starts, starts_2, longest, longest_2, *, window_size):
        assert window_size == (-1, 0)
        parts = [slice(a, b) for a, b in itertools.pairwise(starts.tolist()) if b > a]
        assert max(part.stop - part.start for part in parts) <= longest
        return torch.cat(
            [
                torch.nn.functional.scaled_dot_product_attention(
                    *(x[part].transpose(0, 1)[None] for x in (q, k, v)), is_causal=True
                )[0].transpose(0, 1)
                for part in parts
            ]
        )

    monkeypatch.setattr(packed_attention, "varlen_attn", plain)
    monkeypatch.setattr(packed_attention, "CAUSAL", {"window_size": (-1, 0)})  # as with a GPU
    model = make_gpt(pointer=True)
    ids = torch.randint(0, VOCABULARY.size, (2, 9), generator=torch.Generator().manual_seed(1))
    documents = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 0, 0], [1] * 9])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 0], list(range(9))])
    ids[:, 0] = ids[0, 3] = VOCABULARY.begin("reading")
    bounds = Bounds(torch.tensor([0, 3, 7, 9, 18, 18, 18], dtype=torch.int32), 9)
    found = model(ids, positions=positions, bounds=bounds)
    torch.testing.assert_close(found, model(ids, positions=positions, documents=documents), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[0, 3:7], model(ids[:1, 3:7])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"pointer": True}, {"pointer": False}, {"reading_units": "pieces"}])
@pytest.mark.parametrize("guidance", [1.0, 1.8])
def test_a_reading_has_each_word_once_and_the_scores_of_the_whole(settings, guidance):
    """A network that knows nothing reads every word in its order and then ends; scores are those of a forward pass."""
    model, texts = make_gpt(**settings), [words_of(text) for text in TEXTS]
    config = SamplingConfig(
        num_candidates=2, guidance=guidance, top_p=0.9, min_codes_per_word=2, max_codes_per_word=12, max_codes=300
    )
    drawn = read_aloud(model, texts, config, seeds=[5, 6, 7])
    for number, (words, candidates) in enumerate(zip(texts, drawn, strict=True)):
        flat = np.concatenate(words)
        begun = begins_unit(flat, model.config.reading_units)
        assert all(candidate.reached_end for candidate in candidates)
        for candidate in candidates:
            assert len(candidate.units) == begun.sum()
            begins = candidate.units[flat[begun] == BOUNDARY]
            assert len(begins) == len(words)
            spans = np.diff([*begins, len(candidate.codes)])
            assert begins[0] <= 12
            assert ((spans >= 2) & (spans <= 12)).all()
            assert candidate.log_probability == pytest.approx(uncached(model, words, candidate, guidance), abs=1e-4)
        alone = read_aloud(model, [words], config, seeds=[5 + number])[0]
        for one, other in zip(alone, candidates, strict=True):
            np.testing.assert_array_equal(one.codes, other.codes)
            np.testing.assert_array_equal(one.units, other.units)
    assert not np.array_equal(drawn[0][0].codes, drawn[0][1].codes)


@pytest.mark.parametrize("units", ["words", "pieces"])
@pytest.mark.parametrize("guidance", [1.0, 1.8])
def test_one_reading_alone_is_as_beside_others(monkeypatch, guidance, units):
    """Alone on a CPU, the pieces of a unit are fed at once."""
    model, texts = make_gpt(pointer=True, reading_units=units), [words_of(text) for text in TEXTS]
    config = SamplingConfig(guidance=guidance, max_codes_per_word=12)
    beside = read_aloud(model, texts, config, seeds=[5, 6, 7])
    fed = []
    plain = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, **known: (fed.append(ids.shape[1]), plain(ids, **known))[1])
    for number, words in enumerate(texts):
        del fed[:]
        [alone] = read_aloud(model, [words], config, seeds=[5 + number])[0]
        np.testing.assert_array_equal(alone.codes, beside[number][0].codes)
        np.testing.assert_array_equal(alone.units, beside[number][0].units)
        assert alone.log_probability == pytest.approx(beside[number][0].log_probability, abs=1e-4)
        begins = [*np.flatnonzero(begins_unit(np.concatenate(words), units)), sum(map(len, words))]
        assert [length for length in fed[1:] if length > 1] == [size for size in np.diff(begins) if size > 1]


def uncached(model: GPT, words: list[np.ndarray], candidate, guidance: float) -> float:
    """The mean log-probability of what was decided, by forward passes over the whole document."""
    flat, units = np.concatenate(words), model.config.reading_units
    begun = begins_unit(flat, units)
    before = candidate.units[np.cumsum(begun) - 1]
    is_word = np.append(flat[begun] == BOUNDARY, True)  # the end too

    def scores(shown: bool) -> torch.Tensor:
        """The scores of going on and of each code before each decision; without text, where it knows of any."""
        kept = np.ones(len(flat), bool) if shown else flat == BOUNDARY
        reading = Segment("reading", interleave(candidate.codes, flat[kept], before[kept], NUM_CODES))
        segments = [Segment("text", flat), reading] if shown else [reading]
        ids = np.concatenate([VOCABULARY.segment_ids(segment) for segment in segments])
        logits = model.logits(model(torch.from_numpy(ids)[None]))[0]
        decisions = np.flatnonzero(reading_weights(reading.codes, NUM_CODES, units)) - 1
        return logits[decisions + int(np.flatnonzero(ids == VOCABULARY.begin("reading"))[0])]

    ahead = [*(VOCABULARY.offset("text") + flat[begun]), VOCABULARY.end("reading")]
    first = VOCABULARY.offset("speech")
    events = np.insert(candidate.codes, candidate.units, -1)  # what was decided, in order: -1 is to go on
    events = np.append(events, -1)
    told, blind = scores(True), scores(False)
    total, unit, place = [], 0, 0
    for event in events:
        legal = [ahead[unit], *range(first, first + NUM_CODES)]
        read = told[len(total), legal].log_softmax(-1)
        if guidance != 1:
            without = blind[place, legal].log_softmax(-1)
            both = (without + guidance * (read - without)).log_softmax(-1)
            if not is_word[unit]:
                both = torch.cat([read[:1], (1 - read[0].exp()).log() + both[1:].log_softmax(-1)])
            read = both
        total.append(read[event + 1 if event >= 0 else 0])
        place += event >= 0 or bool(is_word[unit])
        unit += event < 0
    return float(torch.stack(total).mean())


def test_a_reading_that_is_cut_off_says_so():
    model = make_gpt(pointer=True)
    config = SamplingConfig(min_codes_per_word=5, max_codes=12)
    found = read_aloud(model, [words_of(TEXTS[1])], config)[0][0]
    assert not found.reached_end
    assert len(found.codes) == 12
    with pytest.raises(ValueError, match="no room"):
        read_aloud(make_gpt(max_positions=64), [words_of(TEXTS[1] * 9)], config)
    with pytest.raises(ValueError, match="nothing to say"):
        read_aloud(model, [[]], config)
    assert read_aloud(model, [], config) == []


def test_a_prompt_before_the_text_is_read():
    model = make_gpt(pointer=True)
    prefix = [Segment("speech", np.arange(9))]
    config = SamplingConfig(max_codes_per_word=8)
    with_prompt = read_aloud(model, [words_of(TEXTS[0])], config, prefix=prefix)[0][0]
    assert with_prompt.reached_end
    assert with_prompt.log_probability != read_aloud(model, [words_of(TEXTS[0])], config)[0][0].log_probability


def test_codes_are_drawn_by_their_probability():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(20_000, 4)
    noise = torch.from_numpy(np.random.default_rng(0).random(20_000, np.float32))

    def shares(temperature=1.0, top_k=4, top_p=1.0) -> list[float]:
        settings = (torch.tensor([value]).expand(20_000) for value in (temperature, top_k, top_p))
        drawn = draw_codes(logits, *settings, noise)
        return [round(share, 2) for share in (drawn.bincount(minlength=4) / len(drawn)).tolist()]

    assert shares() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.011)
    assert shares(top_p=0.9) == pytest.approx([0.53, 0.32, 0.16, 0], abs=0.011)
    assert shares(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.011)
    assert shares(temperature=0.0) == [1, 0, 0, 0]


def test_of_many_codes_the_likeliest_are_enough_where_they_hold_all_that_may_be_drawn(monkeypatch):
    """The same draws as from all in order; flat rows, and rows beside them, need all."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(600, 1024, generator=generator) * torch.tensor([6.0, 3.0, 0.1]).repeat_interleave(200)[:, None]
    settings = {"temperature": (0.7, 0.0, 1.3), "top_k": (1024, 1024, 1024, 5), "top_p": (0.95, 0.5, 1.0, 0.8, 0.9)}
    given = [torch.tensor(values).repeat(600)[:600] for values in settings.values()]
    noise = torch.rand(600, generator=generator)
    drawn = [draw_codes(logits[i : i + 1], *(x[i : i + 1] for x in given), noise[i : i + 1]) for i in range(600)]
    together = draw_codes(logits, *given, noise)
    monkeypatch.setattr(decide, "LIKELIEST", 1024)
    in_order = draw_codes(logits, *given, noise)
    assert torch.equal(together, in_order)
    assert torch.equal(torch.cat(drawn), in_order)
    place = (logits > logits.gather(1, in_order[:, None])).sum(-1)
    assert int(place.max()) > 64  # some lay beyond those that were put in order
    monkeypatch.setattr(decide, "LIKELIEST", 64)
    monkeypatch.setattr(decide, "ROUNDING", -1.0)  # the test sees what it should
    assert not torch.equal(draw_codes(logits, *given, noise), in_order)


def test_steps_end_when_all_rows_have(monkeypatch):
    """Not at the most codes that could be drawn."""
    steps = []
    model = make_gpt(pointer=True)
    plain = ReadingPool.step
    monkeypatch.setattr(ReadingPool, "step", lambda self: (steps.append(1), plain(self))[1])
    config = SamplingConfig(max_codes_per_word=3, max_codes=400)
    read_aloud(model, [words_of(TEXTS[2])], config)
    assert len(steps) <= 32
