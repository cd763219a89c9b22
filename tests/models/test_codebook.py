"""The EMA codebook beside vector-quantize-pytorch's, which computes the same another way, and what ours adds."""

import pytest
import torch
from vector_quantize_pytorch import VectorQuantize

from triforce.models.blocks.codebook import EMACodebook, nearest, rotate
from triforce.models.quantize import EMAVQQuantizer

NUM_CODES, DIM = 32, 4


def pair(dead_below: float = 1e-9) -> tuple[VectorQuantize, EMACodebook]:
    """Return the library's codebook and ours with the same codes, which are used unevenly."""
    torch.manual_seed(0)
    theirs = VectorQuantize(
        dim=DIM, codebook_size=NUM_CODES, decay=0.99, commitment_weight=0.25, threshold_ema_dead_code=dead_below
    ).train()
    ours = EMACodebook(NUM_CODES, DIM, dead_share=0.0).train()
    ours.refreshing = False
    state = theirs._codebook.state_dict()
    state["cluster_size"].copy_(torch.rand(1, NUM_CODES) * 5 + 0.5)
    state["embed_avg"].copy_(state["embed"] * state["cluster_size"][..., None])
    ours.load_state_dict(state)
    return theirs, ours


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(step + 1)
    return torch.randn(3, 40, DIM) * 0.5, (torch.arange(40) < torch.tensor([[40], [31], [1]])).float()


def test_codes_and_moving_averages_are_the_librarys():
    theirs, ours = pair()
    for step in range(20):
        x, mask = batch(step)
        _, codes, _ = theirs(x, mask=mask.bool())
        found, _ = ours(x, mask)
        assert torch.equal(found[mask.bool()], codes[mask.bool()])
    for name, tensor in theirs._codebook.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, msg=name)


def test_gradient_and_commitment_are_the_librarys():
    theirs, ours = pair()
    quantizer = EMAVQQuantizer(DIM, NUM_CODES, DIM, 0.25, 0.0, 0.0).train()
    for layer in (quantizer.project_in, quantizer.project_out):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    quantizer.codebook.load_state_dict(ours.state_dict())
    x, mask = batch(0)
    wanted, towards = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn(x.shape) * mask[..., None]
    z_q, _, loss = theirs(wanted, mask=mask.bool())
    ((z_q * weights).sum() + loss.sum()).backward()
    found = quantizer(towards, mask)
    ((found.z_q * weights).sum() + found.loss).backward()
    torch.testing.assert_close(found.z_q[mask.bool()], z_q[mask.bool()])
    torch.testing.assert_close(found.loss, loss.sum())
    torch.testing.assert_close(towards.grad, wanted.grad)


@pytest.mark.parametrize("num_vectors", [200, 5])
def test_as_many_dead_codes_as_in_the_library_are_replaced_each_by_another_vector(num_vectors):
    theirs, ours = pair(dead_below=1.0)
    ours.refreshing = True
    theirs._codebook.reset_cluster_size = 1.0
    torch.manual_seed(5)
    x, mask = torch.randn(1, num_vectors + 3, DIM), torch.ones(1, num_vectors + 3)
    mask[:, num_vectors:] = 0
    x[:, num_vectors:] = 99.0  # padding must never become a code
    for size in (theirs._codebook.cluster_size, ours.cluster_size):
        size[0] = torch.tensor([0.01, 3.0]).repeat(NUM_CODES // 2)
    theirs(x, mask=mask.bool())
    ours(x, mask)
    codes = (theirs.codebook, ours.embed[0])
    taken = [(code[:, None] == x[0, None, :num_vectors]).all(-1).nonzero() for code in codes]
    assert len(taken[1]) == len(taken[0]) == min(num_vectors, NUM_CODES // 2)
    assert len(taken[1][:, 1].unique()) == len(taken[1])
    replaced = taken[1][:, 0]
    assert (replaced % 2 == 0).all()
    assert (ours.cluster_size[0, replaced] == 1.0).all()
    torch.testing.assert_close(ours.embed_avg[0, replaced], ours.embed[0, replaced])


def test_codes_start_as_means_of_the_first_batch():
    torch.manual_seed(0)
    centres = torch.randn(8, DIM) * 20
    x = centres.repeat_interleave(30, 0)[None] + torch.randn(1, 240, DIM) * 0.01
    codebook = EMACodebook(64, DIM, 0.1).train()
    codes, chosen = codebook(x, torch.ones(1, 240))
    assert bool(codebook.initted)
    assert float((chosen - x).abs().max()) < 0.1
    assert len(codes.unique()) >= 8


def test_a_batch_of_padding_starts_nothing_and_moves_nothing():
    codebook = EMACodebook(8, DIM, 0.1).train()
    with pytest.raises(ValueError, match="every position is padding"):
        codebook(torch.randn(1, 4, DIM), torch.zeros(1, 4))
    _, ours = pair()
    before = ours.embed.clone()
    ours(torch.randn(1, 4, DIM), torch.zeros(1, 4))
    torch.testing.assert_close(ours.embed, before, atol=1e-4, rtol=1e-4)


def test_the_nearest_code_does_not_depend_on_autocast_or_company():
    torch.manual_seed(0)
    codebook, vectors = torch.randn(4096, 16), torch.randn(5000, 16)
    alone = torch.cat([nearest(vector[None], codebook) for vector in vectors[:200]])
    with torch.autocast("cpu", torch.bfloat16):
        together = nearest(vectors, codebook)
    exact = torch.cdist(vectors.double(), codebook.double()).argmin(1)
    assert torch.equal(together[:200], alone)
    assert torch.equal(together, exact)


def test_rotation_keeps_the_angle_between_gradient_and_vector():
    torch.manual_seed(0)
    z_e, z_q = torch.randn(50, DIM, requires_grad=True), torch.randn(50, DIM)
    rotated = rotate(z_e, z_q)
    torch.testing.assert_close(rotated, z_q)
    gradient = torch.randn(50, DIM)
    rotated.backward(gradient)
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(z_e.grad, z_e.detach()), cosine(gradient, z_q))


def test_a_step_reads_no_tensor_once_the_codebook_is_started(monkeypatch):
    codebook = EMACodebook(16, DIM, 0.1).train()
    codebook(*batch(0))
    for name in ("item", "__bool__", "__float__", "__int__", "tolist", "nonzero"):

        def read(self, name=name):
            raise AssertionError(f"{name} waits for the device")

        monkeypatch.setattr(torch.Tensor, name, read)
    for refreshing in (True, False):
        codebook.refreshing = refreshing
        codebook(*batch(1))
