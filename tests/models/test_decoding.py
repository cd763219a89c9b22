"""The network for sampling against the GPT: the same hidden states, scores and readings, within a stated error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.ctranslate import as_ctranslate2
from torch.nn import functional as F

from triforce.models.blocks.kv_cache import KVCache, SlotCache
from triforce.models.blocks.positions import text_pointers
from triforce.models.decoding import products
from triforce.models.decoding.compiler import find_compiler
from triforce.models.decoding.network import PackedNetwork, PlainNetwork, for_sampling
from triforce.models.gpt import GPT, GPTConfig
from triforce.models.gpt_sampling import SamplingConfig, sample_segment
from triforce.models.reading.interleave import begins_unit, interleave
from triforce.models.release import Release
from triforce.models.vocabulary import Modality, Segment, Vocabulary

TEXTS = ("A narrow path led down to the water.", "Yes.", "Nobody had thought of asking the captain for his opinion.")
LIMITS = {
    "float32": (1e-4, 1e-7),
    "bfloat16": (0.25, 5e-4),
    "int8": (0.6, 1e-3),
    "int8 compiled": (0.6, 1e-3),
}
"""Largest difference of log-probabilities of ids over 0.001, and mean divergence (Kullback-Leibler) of what is drawn,
both in nats, that are allowed for the voice that comes along. Measured: 3e-5 and 9e-9, 0.12 and 1.2e-4, 0.35 and
4.0e-4."""
VOCABULARY = Vocabulary(modalities=(Modality(name="text", num_codes=20), Modality(name="speech", num_codes=30)))


def make_gpt(**settings) -> GPT:
    torch.manual_seed(0)
    shape = {"vocabulary": VOCABULARY, "num_layers": 3, "width": 64, "num_heads": 4, "max_positions": 128}
    model = GPT(GPTConfig(**(shape | settings))).eval().requires_grad_(False)
    for parameter in model.parameters():  # far from the start, where norms do nothing and positions look alike
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def make_network(gpt: GPT, name: str) -> PackedNetwork:
    precision, _, compiled = name.partition(" ")
    if compiled and find_compiler() is None:
        pytest.skip("no C compiler: apt-get install gcc")
    return PackedNetwork(gpt, precision, "yes" if compiled else "no")


@pytest.fixture(scope="module")
def voice() -> Release:
    return Release.load(precision="float32")


@pytest.fixture(scope="module")
def reading(voice) -> torch.Tensor:
    """Ids ``(3, T)`` of readings that the voice drew, each behind its text and padded with the last one's end."""
    vocabulary, rows = voice.gpt.config.vocabulary, []
    sampling = SamplingConfig(guidance=1, max_codes=40)
    for text, found in zip(TEXTS, voice.draw_all(TEXTS, seeds=[1, 2, 3], sampling=sampling), strict=True):
        pieces = voice.tokenizer.encode(text)
        begun = begins_unit(pieces, voice.gpt.config.reading_units)
        units = np.cumsum(begun) - 1
        read = pieces[units < len(found[0].units)]
        before = found[0].units[units[units < len(found[0].units)]]
        codes = interleave(found[0].codes, read, before, vocabulary.modality("speech").num_codes)
        segments = [Segment("text", pieces), Segment("reading", codes)]
        rows.append(np.concatenate([vocabulary.segment_ids(segment) for segment in segments]))
    longest = max(map(len, rows))
    return torch.from_numpy(np.stack([np.pad(row, (0, longest - len(row)), constant_values=1) for row in rows]))


def by_slots(network, ids: torch.Tensor, starts: list[int], capacity: int = 256) -> torch.Tensor:
    """Hidden states of rows that begin at different times: first all prompts at once, then a token or two each."""
    gpt = network.gpt
    pointers = text_pointers(ids, gpt.reads, gpt.begins, None) if gpt.config.pointer else None
    # The rows in use are some of a larger cache, as in a server.
    whole = SlotCache.empty(gpt.config, len(ids) + 2, capacity, ids.device, network.cache_dtype)
    rows = torch.arange(len(ids))[:, None]
    cache = SlotCache(whole.store[:, :, 1 : 1 + len(ids)], rows, capacity, rows)
    found = torch.zeros(*ids.shape, gpt.config.width)

    def feed(places: torch.Tensor) -> None:
        cache.slots, cache.visible = places, min(capacity, -(-(int(places.max()) + 1) // 64) * 64)
        given = None if pointers is None else pointers.gather(1, places)
        hidden = network(ids.gather(1, places), positions=places, pointers=given, cache=cache)
        found.scatter_(1, places[:, :, None].expand(-1, -1, hidden.shape[-1]), hidden.float())

    feed(torch.arange(max(starts)).expand(len(ids), -1))  # what lies behind a row's own start is written again
    at, last = torch.tensor(starts), ids.shape[1] - 1
    while int(at.min()) <= last:
        along = torch.arange(2 if int(at[0]) % 3 == 0 else 1)
        feed((at[:, None] + along).clamp_max(last))
        at = at + len(along)
    return found


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("rows", [1, 3])
def test_scores_along_a_reading_are_the_gpts(voice, reading, precision, rows):
    gpt, ids = voice.gpt, reading[:rows]
    network = make_network(gpt, precision)
    hidden = by_slots(network, ids, [9, 5, 20][:rows])
    legal = torch.arange(gpt.config.vocabulary.size)
    found = network.head(legal)(hidden.flatten(0, 1)).log_softmax(-1)
    wanted = gpt.logits(gpt(ids)).flatten(0, 1).log_softmax(-1)
    divergence = float((wanted.exp() * (wanted - found)).sum(-1).mean())
    largest = float((found - wanted)[wanted.exp() > 1e-3].abs().max())
    most, mean = LIMITS[precision]
    assert largest < most
    assert abs(divergence) < mean
    if precision != "float32":
        assert divergence > 1e-6  # it did compute in that precision


@pytest.mark.parametrize("settings", [{}, {"paces": {"text": 1.9, "speech": 0.7}}, {"pointer": True}])
@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 7], [5, 1, 1, 5]])
def test_with_a_growing_cache_it_is_the_gpt(pieces, settings):
    model = make_gpt(**settings)
    network = PackedNetwork(model, "float32")
    ids = torch.randint(0, VOCABULARY.size, (2, 12), generator=torch.Generator().manual_seed(1))
    ids[0, 4] = VOCABULARY.begin("speech")
    cache = KVCache.empty(model.config, 2, 12, model.embedding.weight)
    parts = [network(part, cache=cache) for part in ids.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids), atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="larger capacity"):
        network(ids[:, :1], cache=cache)


def test_weights_near_nothing_are_normed_as_by_the_gpt():
    """Where a row is so short that the epsilon of a norm matters."""
    model = make_gpt()
    model.embedding.weight.mul_(2e-3)
    ids = torch.arange(6)[None]
    cache = KVCache.empty(model.config, 1, 6, model.embedding.weight)
    torch.testing.assert_close(PackedNetwork(model, "float32")(ids, cache=cache), model(ids), atol=2e-5, rtol=1e-4)


def test_too_much_is_refused():
    network = PackedNetwork(make_gpt(), "float32")
    cache = KVCache.empty(network.config, 1, 200, torch.empty(0))
    with pytest.raises(ValueError, match="reads 128"):
        network(torch.zeros(1, 129, dtype=torch.int64), cache=cache)
    pointed, ids = PackedNetwork(make_gpt(pointer=True), "float32"), torch.zeros(1, 1, dtype=torch.int64)
    slots = SlotCache.empty(network.config, 1, 8, torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="knows no pointers"):
        pointed(ids, positions=ids, cache=slots)


@pytest.mark.parametrize("candidates", [1, 5])
def test_a_packed_network_draws_what_the_gpt_draws(candidates):
    model = make_gpt()
    prompt = [Segment("text", np.array([3, 4]))]
    config = SamplingConfig(num_candidates=candidates, max_codes=40, temperature=1.0)
    plain = sample_segment(model, prompt, "speech", config, seed=3)
    packed = sample_segment(for_sampling(model, "float32"), prompt, "speech", config, seed=3)
    for one, other in zip(plain, packed, strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
    again = [sample_segment(for_sampling(model, "int8"), prompt, "speech", config, seed=3) for _ in range(2)]
    assert [c.codes.tolist() for c in again[0]] == [c.codes.tolist() for c in again[1]]


def test_without_guidance_by_the_text_it_is_as_if_there_were_none():
    """Guidance of 0, also at the steps where the end is not allowed: there the pushed score is 0 times infinity."""
    model, found = make_gpt(), {}
    for prompt, guidance in (([Segment("text", np.array([3, 4]))], 0.0), ([], 1.0)):
        config = SamplingConfig(max_codes=30, min_codes=12, temperature=1.0, guidance=guidance)
        found[guidance] = sample_segment(model, prompt, "speech", config, seed=3)[0]
    np.testing.assert_array_equal(found[0.0].codes, found[1.0].codes)
    assert len(found[0.0].codes) >= 12
    assert np.isfinite(found[0.0].log_probability)


def test_a_release_draws_in_the_precision_that_is_asked_for(voice, monkeypatch):
    sampling = SamplingConfig(temperature=0, max_codes=12)
    packed, kept = voice.draw(TEXTS[0], sampling=sampling)[0], voice.decoder
    assert isinstance(kept, PackedNetwork)
    assert kept.precision == "float32"
    monkeypatch.setitem(voice.__dict__, "decoder", PlainNetwork(voice.gpt))
    np.testing.assert_array_equal(packed.codes, voice.draw(TEXTS[0], sampling=sampling)[0].codes)
    silent = PackedNetwork(voice.gpt, "float32")
    silent._norm = torch.zeros_like(silent._norm)
    monkeypatch.setitem(voice.__dict__, "decoder", silent)  # it is this network that draws
    assert not np.array_equal(packed.codes, voice.draw(TEXTS[0], sampling=sampling)[0].codes)
    assert Release.load().precision == "auto"
    with pytest.raises(ValueError, match="precision"):
        Release.load(precision="int4")


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 16, 33])
@pytest.mark.parametrize("inputs", [32, 96, 24])
def test_products_are_those_of_the_matrix(rows, inputs):
    """The kernel of int8 reads past the end of rows that are no multiple of 32: those it must not get."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(40, inputs, generator=generator), torch.randn(rows, inputs, generator=generator)
    wanted = F.linear(x, weight)
    torch.testing.assert_close(products.pack(weight, "float32")(x), wanted)
    for precision, limit in (("bfloat16", 0.01), ("int8", 0.012)):
        found = products.pack(weight, precision)(x.bfloat16()).float()
        assert (found - wanted).norm() / wanted.norm() < limit


def test_a_channel_of_zeros_stays_zero():
    weight = torch.zeros(8, 32)
    weight[1] = 1
    found = products.pack(weight, "int8")(torch.ones(1, 32, dtype=torch.bfloat16))
    assert found.tolist() == [[0, 32, 0, 0, 0, 0, 0, 0]]


def test_without_units_for_bfloat16_int8_serves_rows_of_any_number(monkeypatch):
    monkeypatch.setattr(products, "has_bfloat16_units", lambda: False)
    weight, x = torch.randn(40, 64), torch.randn(16, 64)
    found = products.pack(weight, "int8")(x.bfloat16()).float()
    assert (found - F.linear(x, weight)).norm() / F.linear(x, weight).norm() < 0.012
    odd = products.pack(weight[:, :24], "int8")(x[:, :24].bfloat16()).float()
    assert (odd - F.linear(x[:, :24], weight[:, :24])).norm() / F.linear(x[:, :24], weight[:, :24]).norm() < 0.012
    assert products.resolve("auto") == "int8"
    monkeypatch.setattr(products, "has_int8", lambda: False)
    assert products.resolve("auto") == "float32"
    with pytest.raises(ValueError, match="precision int8"):
        products.resolve("int8")


def test_ctranslate2_has_the_same_weights(tmp_path):
    """So that the benchmark compares like with like."""
    model = make_gpt()
    generator = as_ctranslate2(model, tmp_path, "float32", 1)
    ids = torch.randint(0, VOCABULARY.size, (1, 12), generator=torch.Generator().manual_seed(1))
    found = generator.forward_batch([[str(number) for number in ids[0].tolist()]])
    torch.testing.assert_close(torch.from_numpy(np.array(found)), model.logits(model(ids)), atol=1e-3, rtol=1e-3)


def test_int8_weights_are_multiplied_and_scaled_by_channel():
    """Pins `torch._weight_int8pack_mm`."""
    steps = torch.randint(-127, 128, (8, 64), dtype=torch.int8)
    scale, x = torch.rand(8).bfloat16(), torch.randn(2, 64).bfloat16()
    found = torch._weight_int8pack_mm(x, steps, scale)
    torch.testing.assert_close(found.float(), x.float() @ steps.float().T * scale.float(), rtol=0.02, atol=0.1)


def test_a_matrix_packed_by_onednn_gives_its_product():
    """Pins `torch.ops.mkldnn._reorder_linear_weight` and `_linear_pointwise`."""
    weight, x = torch.randn(8, 64).bfloat16(), torch.randn(2, 64).bfloat16()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    found = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    torch.testing.assert_close(found.float(), x.float() @ weight.float().T, rtol=0.02, atol=0.1)
