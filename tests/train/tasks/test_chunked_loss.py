"""The chunked loss is the plain one, in value and in gradients, and holds less at once."""

import pytest
import torch
from torch.nn import functional as F

from triforce.models.blocks.chunked_loss import CHUNK_LOGITS, summed_cross_entropy
from triforce.models.gpt import GPT, GPTConfig
from triforce.train.data.tokens.rows import PackedBatch
from triforce.train.tasks.gpt_loss import packed_loss, speech_vocabulary, token_losses


def make_inputs(num_tokens: int = 70, size: int = 300) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(num_tokens, 24).requires_grad_()
    head = (0.5 * torch.randn(size, 24)).requires_grad_()
    weights = torch.rand(num_tokens)
    weights[::5] = 0
    return hidden, head, torch.randint(0, size, (num_tokens,)), weights


@pytest.mark.parametrize("chunk", [1, 32, 70, 1000])
def test_value_and_gradients_are_the_plain_ones(chunk):
    hidden, head, targets, weights = make_inputs()
    plain = (F.cross_entropy(hidden @ head.T, targets, reduction="none") * weights).sum()
    wanted = torch.autograd.grad(3 * plain, (hidden, head))
    chunked = summed_cross_entropy(hidden, head, targets, weights, chunk=chunk)
    found = torch.autograd.grad(3 * chunked, (hidden, head))
    torch.testing.assert_close(chunked, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    hidden, head, targets, weights = (x.double() if x.is_floating_point() else x for x in make_inputs(5, 7))
    inputs = hidden.detach().requires_grad_(), head.detach().requires_grad_()

    def loss(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        return summed_cross_entropy(hidden, head, targets, weights, chunk=2)

    # Losses are summed in float32, so differences are taken over wide steps.
    torch.autograd.gradcheck(loss, inputs, eps=1e-2, atol=2e-3, rtol=1e-2)


def test_in_half_precision_it_is_as_near_as_the_plain_one():
    hidden, head, targets, weights = make_inputs()
    exact = (F.cross_entropy(hidden @ head.T, targets, reduction="none") * weights).sum()
    wanted = torch.autograd.grad(exact, (hidden, head))
    with torch.autocast("cpu", torch.bfloat16):
        plain = (F.cross_entropy(F.linear(hidden, head).float(), targets, reduction="none") * weights).sum()
        chunked = summed_cross_entropy(hidden, head, targets, weights, chunk=32)
    assert chunked.dtype == torch.float32
    by_plain, by_chunks = (torch.autograd.grad(loss, (hidden, head)) for loss in (plain, chunked))
    for exact_one, plain_one, chunked_one in zip(wanted, by_plain, by_chunks, strict=True):
        assert chunked_one.dtype == torch.float32
        assert (chunked_one - exact_one).norm() < 1.1 * (plain_one - exact_one).norm()


def test_a_network_learns_the_same_by_it(monkeypatch):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocabulary=speech_vocabulary(40, 64), num_layers=2, width=32, num_heads=2, max_positions=64))
    ids = torch.randint(3, model.config.vocabulary.size, (3, 41))
    ids[2, 30:] = 0
    documents = (ids[:, :-1] > 0).long()
    places = torch.arange(40).expand(3, 40)
    weights = torch.rand(3, 40) * (ids[:, 1:] > 0)
    batch = PackedBatch(ids[:, :-1], ids[:, 1:], weights, places, documents, None)

    def step() -> tuple[torch.Tensor, list[torch.Tensor]]:
        loss = packed_loss(model, batch)
        return loss, list(torch.autograd.grad(loss, list(model.parameters())))

    plain = step()
    monkeypatch.setitem(CHUNK_LOGITS, "cpu", 7 * model.config.vocabulary.size)
    torch.testing.assert_close(step(), plain, rtol=1e-5, atol=1e-7)
    whole = torch.compile(lambda batch: packed_loss(model, batch), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(batch), plain[0])
    with torch.no_grad():
        by_parts, real = token_losses(model, batch)
    torch.testing.assert_close((by_parts * real).sum() / real.sum(), plain[0])
