import numpy as np
import pytest
import torch
from models.qwen import as_qwen3
from torch.utils.flop_counter import FlopCounterMode

from triforce.models.footprint import footprint, num_parameters
from triforce.models.gpt import GPT, PARTS, GPTConfig, KVCache, segment_positions
from triforce.models.gpt_sampling import (
    Candidate,
    SamplingConfig,
    draw_ids,
    is_loop,
    log_probability,
    noisy_channel_rerank,
    sample_segment,
)
from triforce.models.vocabulary import Modality, Segment, Vocabulary

VOCABULARY = Vocabulary(modalities=(Modality(name="text", num_codes=20), Modality(name="speech", num_codes=30)))


def make_gpt(**settings) -> GPT:
    torch.manual_seed(0)
    shape = {"vocabulary": VOCABULARY, "num_layers": 3, "width": 64, "num_heads": 4, "max_positions": 128}
    model = GPT(GPTConfig(**(shape | settings))).eval()
    for parameter in model.parameters():  # far from the start, where every position would look alike
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


PACES = {"text": 1.9, "speech": 0.7}


@pytest.mark.parametrize("paces", [{}, PACES])
@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 7], [5, 1, 1, 5]])
def test_cached_is_uncached(pieces, paces):
    model = make_gpt(paces=paces)
    ids = torch.randint(0, VOCABULARY.size, (2, 12))
    whole = model(ids)
    cache = KVCache.empty(model.config, 2, 12, model.embedding.weight)
    parts = [model(part, cache=cache) for part in ids.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="larger capacity"):
        model(ids[:, :1], cache=cache)


@pytest.mark.parametrize("paces", [{}, PACES])
def test_fanned_out_cache_is_each_continuation_alone(paces):
    model = make_gpt(paces=paces)
    prompt, tails = torch.randint(0, VOCABULARY.size, (1, 6)), torch.randint(0, VOCABULARY.size, (3, 4))
    cache = KVCache.empty(model.config, 1, 10, model.embedding.weight)
    model(prompt, cache=cache)
    found = model(tails, cache=cache.fan_out(3))
    for row in range(3):
        alone = model(torch.cat([prompt, tails[row : row + 1]], 1))[:, 6:]
        torch.testing.assert_close(found[row : row + 1], alone, atol=2e-5, rtol=1e-4)


def test_segments_that_run_in_parallel_lie_side_by_side():
    """Text at two positions a token before speech: code 2 n and token n are at the same place, so a query of the one
    meets a key of the other as it would its own, and how much text lies between them does not matter.
    """
    model = make_gpt(paces={"text": 2.0})
    text, speech = (VOCABULARY.segment_ids(Segment(n, np.arange(6))) for n in ("text", "speech"))
    ids = torch.from_numpy(np.concatenate([text, speech]))[None]
    found = segment_positions(ids, model.paces, model.begins, None) / PARTS
    assert found[0].tolist() == [0, 2, 4, 6, 8, 10, 12, 13, 0, 1, 2, 3, 4, 5, 6, 7]
    assert not torch.allclose(model(ids), make_gpt()(ids), atol=1e-2)
    with pytest.raises(ValueError, match=r"'smell'.*text, speech"):
        make_gpt(paces={"smell": 1.0})
    with pytest.raises(ValueError, match=r"text 0\.0: must be at least"):
        make_gpt(paces={"text": 0.0})


def test_the_future_changes_nothing():
    model = make_gpt()
    ids = torch.randint(0, VOCABULARY.size, (1, 12))
    changed = ids.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % VOCABULARY.size
    torch.testing.assert_close(model(ids)[:, :8], model(changed)[:, :8])
    assert (model(ids)[:, 8:] - model(changed)[:, 8:]).abs().max() > 0.1


@pytest.mark.parametrize("paces", [{}, PACES])
def test_packed_documents_do_not_see_each_other(paces):
    model = make_gpt(paces=paces)
    first, second = torch.randint(0, VOCABULARY.size, (1, 5)), torch.randint(0, VOCABULARY.size, (1, 9))
    first[:, 0] = second[:, 0] = VOCABULARY.begin("text")
    packed = torch.cat([first, second, torch.zeros(1, 2, dtype=torch.long)], 1)
    documents = torch.tensor([[1] * 5 + [2] * 9 + [0] * 2])
    positions = torch.cat([torch.arange(5), torch.arange(9), torch.zeros(2, dtype=torch.long)])[None]
    hidden = model(packed, positions=positions, documents=documents)
    torch.testing.assert_close(hidden[:, :5], model(first), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(hidden[:, 5:14], model(second), atol=2e-5, rtol=1e-4)


def train_on(model: GPT, documents: list[list[Segment]], steps: int = 150) -> GPT:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    rows = [torch.as_tensor(VOCABULARY.document_ids(document)) for document in documents]
    for _ in range(steps):
        loss = sum(torch.nn.functional.cross_entropy(model.logits(model(row[None, :-1]))[0], row[1:]) for row in rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_what_was_learned_is_sampled_in_both_directions():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocabulary=VOCABULARY, num_layers=2, width=64, num_heads=4, max_positions=64))
    texts = [np.array([1, 2, 3]), np.array([7, 8])]
    speeches = [np.array([5, 6, 7, 8, 9, 10]), np.array([20, 21, 22])]
    pairs = [(Segment("text", t), Segment("speech", s)) for t, s in zip(texts, speeches, strict=True)]
    train_on(model, [document for text, speech in pairs for document in ([text, speech], [speech, text])])
    greedy = SamplingConfig(temperature=0)
    for text, speech in pairs:
        spoken = sample_segment(model, [text], "speech", greedy)[0]
        np.testing.assert_array_equal(spoken.codes, speech.codes)
        assert spoken.reached_end
        np.testing.assert_array_equal(sample_segment(model, [speech], "text", greedy)[0].codes, text.codes)
    assert log_probability(model, [pairs[0][0]], pairs[0][1]) > -1 > log_probability(model, [pairs[0][0]], pairs[1][1])
    assert log_probability(model, [Segment("text", np.zeros(60, int))], pairs[0][1]) == -np.inf
    several = sample_segment(
        model, [pairs[0][0]], "speech", SamplingConfig(temperature=3.0, num_candidates=8, max_codes=8), seed=1
    )
    offered = [Candidate(pairs[1][1].codes, -0.1, True), *several, Candidate(pairs[0][1].codes, -9.0, True)]
    first = noisy_channel_rerank(model, [pairs[0][0]], "speech", offered)[0]
    np.testing.assert_array_equal(first.codes, pairs[0][1].codes)  # it alone says "1 2 3" on the way back


def test_the_score_of_a_segment_is_the_drawn_ones():
    model = make_gpt()
    prompt = [Segment("text", np.array([3, 4]))]
    config = SamplingConfig(num_candidates=6, min_codes=0, max_codes=60)
    for drawn in sample_segment(model, prompt, "speech", config, seed=2):
        if drawn.reached_end and len(drawn.codes) > 1:
            found = log_probability(model, prompt, Segment("speech", drawn.codes)) / (len(drawn.codes) + 1)
            assert found == pytest.approx(drawn.log_probability, abs=2e-4)
            break
    else:
        pytest.fail("none ended by itself")


def test_samples_are_legal_seeded_and_capped():
    model = make_gpt()
    settings = SamplingConfig(num_candidates=5, max_codes=20, temperature=2.0, top_p=1.0)
    prompt = [Segment("text", np.array([3, 4]))]
    candidates = sample_segment(model, prompt, "speech", settings, seed=1)
    assert len(candidates) == 5
    for candidate in candidates:
        assert ((candidate.codes >= 0) & (candidate.codes < 30)).all()
        assert len(candidate.codes) <= 20
        assert candidate.reached_end or len(candidate.codes) == 20
    again = sample_segment(model, prompt, "speech", settings, seed=1)
    assert all(np.array_equal(a.codes, b.codes) for a, b in zip(candidates, again, strict=True))
    other = sample_segment(model, prompt, "speech", settings, seed=2)
    assert not all(np.array_equal(a.codes, b.codes) for a, b in zip(candidates, other, strict=True))


@pytest.mark.parametrize("top_p", [0.05, 0.6, 0.9])
def test_a_nucleus_is_drawn_from_as_its_ids_are_likely(top_p):
    probability = torch.tensor([0.1, 0.3, 0.02, 0.25, 0.13, 0.2])
    inside = {0.05: [1], 0.6: [1, 3, 5], 0.9: [0, 1, 3, 4, 5]}[top_p]
    config = SamplingConfig(temperature=1.0, top_p=top_p)
    rows = probability.log().expand(20_000, -1)
    drawn = draw_ids(rows, config, torch.Generator().manual_seed(0))
    wanted = torch.zeros(6).index_copy(0, torch.tensor(inside), probability[inside])
    shares = torch.bincount(drawn, minlength=6) / len(drawn)
    torch.testing.assert_close(shares, wanted / wanted.sum(), atol=0.012, rtol=0)
    assert not shares[wanted == 0].any()


def test_a_segment_does_not_end_before_its_fewest_codes():
    model = make_gpt(tie_embeddings=False)
    begin = torch.tensor([[VOCABULARY.begin("speech")]])
    with torch.no_grad():  # nothing is likelier than the end
        model.head.weight[VOCABULARY.end("speech")] = 10 * model(begin)[0, -1]
    settings = SamplingConfig(temperature=0, max_codes=9)
    for least, found in ((0, 0), (1, 1), (4, 4)):
        several = settings.model_copy(update={"min_codes": least, "num_candidates": 2})
        assert [len(c.codes) >= found for c in sample_segment(model, [], "speech", several)] == [True, True]
        one = settings.model_copy(update={"min_codes": least})
        assert len(sample_segment(model, [], "speech", one)[0].codes) >= found
    assert not sample_segment(model, [], "speech", settings.model_copy(update={"min_codes": 0}))[0].codes.size
    with pytest.raises(ValueError, match=r"min_codes 10.*max_codes 9"):
        SamplingConfig(min_codes=10, max_codes=9)


def test_top_k_of_one_is_greedy():
    model = make_gpt()
    prompt = [Segment("text", np.array([3, 4]))]
    greedy = sample_segment(model, prompt, "speech", SamplingConfig(temperature=0, max_codes=9))[0]
    narrow = sample_segment(model, prompt, "speech", SamplingConfig(top_k=1, max_codes=9), seed=5)[0]
    np.testing.assert_array_equal(greedy.codes, narrow.codes)


def test_too_much_is_refused():
    model = make_gpt()
    with pytest.raises(ValueError, match="this model reads 128"):
        model(torch.zeros(1, 129, dtype=torch.long))
    with pytest.raises(ValueError, match="leaves no room for speech"):
        sample_segment(model, [Segment("text", np.zeros(126, int))], "speech", SamplingConfig())
    with pytest.raises(ValueError, match="multiple of twice num_heads"):
        GPTConfig(vocabulary=VOCABULARY, width=60, num_heads=4)


def test_hugging_face_agrees_on_the_same_weights():
    model = make_gpt(tie_embeddings=False)
    other = as_qwen3(model).eval()
    ids = torch.randint(0, VOCABULARY.size, (2, 40))
    torch.testing.assert_close(model.logits(model(ids)), other(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_gradients_are_hugging_faces_packed_or_not():
    """The backward passes that are written by hand, through packed documents, against autograd through another's."""
    model = make_gpt()
    other = as_qwen3(model)
    documents = [torch.randint(1, VOCABULARY.size, (length,)) for length in (9, 14, 5)]
    model.train()
    packed = torch.cat([*documents, torch.zeros(4, dtype=torch.long)]).view(2, 16)
    numbers = torch.cat([torch.full((len(d),), i) for i, d in enumerate(documents, 1)] + [torch.zeros(4).long()])
    positions = torch.cat([torch.arange(len(d)) for d in documents] + [torch.zeros(4).long()])
    # The second document runs over the rows' border, so rows are laid end to end.
    hidden = model(packed.view(1, 32), positions=positions[None], documents=numbers[None])[0]
    starts = [0, 9, 23]
    ours = sum(
        torch.nn.functional.cross_entropy(model.logits(hidden[s : s + len(d) - 1]), d[1:])
        for s, d in zip(starts, documents, strict=True)
    )
    theirs = sum(other(input_ids=d[None], labels=d[None]).loss for d in documents)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    ours.backward(), theirs.backward()
    first, last = model.blocks[0], other.model.layers[0]
    pairs = [
        (model.embedding.weight, other.model.embed_tokens.weight),
        (first.attention.q_norm.weight, last.self_attn.q_norm.weight),
        (first.attention.k_norm.weight, last.self_attn.k_norm.weight),
        (first.attention_norm.weight, last.input_layernorm.weight),
        (first.mlp.down.weight, last.mlp.down_proj.weight),
    ]
    grads = [(mine.grad, their.grad) for mine, their in pairs]
    for part, name in zip(first.attention.qkv.weight.grad.chunk(3), "qkv", strict=True):
        grads.append((part, getattr(last.self_attn, f"{name}_proj").weight.grad))
    for mine, their in grads:
        torch.testing.assert_close(mine, their, atol=1e-4, rtol=1e-3)


def test_recomputed_activations_give_the_same_gradients():
    found = []
    for recompute in (False, True):
        model = make_gpt(dropout=0.2).train()
        model.checkpoint_activations = recompute
        torch.manual_seed(3)
        model(torch.arange(1, 13)[None]).square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(found[0], found[1])


def test_a_medium_added_to_a_trained_network_leaves_the_rest_as_it_was():
    model = make_gpt(tie_embeddings=False)
    wider = model.extended(Modality(name="image", num_codes=7, grid=(2, 2))).eval()
    ids = torch.randint(0, VOCABULARY.size, (2, 12))
    torch.testing.assert_close(wider(ids), model(ids), rtol=0, atol=0)
    old = VOCABULARY.size
    assert torch.equal(wider.logits(wider(ids))[..., :old], model.logits(model(ids)))
    assert wider.config.vocabulary.size == old + 9
    assert wider.embedding.weight.shape[0] == old + 9
    assert wider.embedding.weight[old:].std() > 0
    assert GPTConfig.model_validate_json(wider.config.model_dump_json()) == wider.config
    image = sample_segment(wider, [Segment("text", np.array([1]))], "image", SamplingConfig())[0]
    assert image.codes.shape == (4,)
    assert image.reached_end
    assert (image.codes < 7).all()


def test_a_single_candidate_is_drawn_again_by_its_seed_and_a_loop_ends():
    model = make_gpt()
    prompt = [Segment("text", np.array([3, 4]))]
    config = SamplingConfig(max_codes=30, temperature=1.0, stop_loops=0)
    for seed in range(3):
        whole = sample_segment(model, prompt, "speech", config, seed=seed)[0]
        np.testing.assert_array_equal(sample_segment(model, prompt, "speech", config, seed=seed)[0].codes, whole.codes)
    assert is_loop([9, 9, 4, *[1, 2, 3] * 4], 8) is False  # a period of 3 is over a quarter of 8
    assert is_loop([9, 9, 4, *[1, 2] * 6], 8)
    assert not is_loop([*[1, 2] * 5, 1, 3], 8)
    with torch.no_grad():  # whatever was said, the same is said again
        model.norm.weight.zero_()
    looping = sample_segment(
        model, prompt, "speech", SamplingConfig(temperature=0, stop_loops=16, max_codes=100, num_candidates=2)
    )[0]
    assert looping.looped or looping.reached_end
    assert len(looping.codes) <= 32


def test_the_footprint_counts_what_there_is():
    for tied in (True, False):
        model = make_gpt(tie_embeddings=tied)
        assert num_parameters(model.config) == model.num_parameters()
    size = footprint(model.config, context=128, rows=2)
    ids = torch.randint(0, VOCABULARY.size, (2, 128))
    with FlopCounterMode(display=False) as counter:
        model.logits(model(ids)).square().sum().backward()
    attention = 6 * model.config.num_layers * model.config.width * 128  # torch does not count it on a CPU
    assert size.flops_per_token - attention == counter.get_total_flops() / ids.numel()
