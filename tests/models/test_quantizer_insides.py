"""What is used of vector-quantize-pytorch beyond its documentation: an upgrade that changes it fails here by name.

Released weights name the library's tensors, and our own FSQ is what the library's is.
"""

from __future__ import annotations

import pytest
import torch
from vector_quantize_pytorch import FSQ, SimVQ

from triforce.models.quantize import EMAVQQuantizer, FSQQuantizer, GumbelQuantizer, SimVQQuantizer

NUM_CODES, DIM = 8, 3


@pytest.mark.parametrize(("channels", "levels"), [(16, (8, 8, 4, 4)), (3, (8, 5, 4))])
def test_fsq_computes_what_the_library_computes(channels, levels):
    """From the same seed and with the same names: runs and releases that began with the library go on."""
    torch.manual_seed(0)
    library = FSQ(levels=list(levels), dim=channels)
    torch.manual_seed(0)
    quantizer = FSQQuantizer(channels, levels)
    for name, tensor in library.state_dict().items():
        assert torch.equal(tensor, quantizer.state_dict()[f"fsq.{name}"])
    mine = (3 * torch.randn(4, 50, channels)).requires_grad_()
    theirs = mine.detach().clone().requires_grad_()
    found = quantizer(mine, torch.ones(4, 50))
    z_q, codes = library(theirs)
    assert torch.equal(found.codes, codes.long())
    assert len(codes.unique()) > 20
    torch.testing.assert_close(found.z_q, z_q)
    torch.testing.assert_close(quantizer.lookup(found.codes), z_q)
    found.z_q.square().sum().backward()
    z_q.square().sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    every = torch.arange(quantizer.codebook_size)[None]
    torch.testing.assert_close(quantizer.lookup(every), library.indices_to_codes(every))


def test_fsq_decides_codes_in_float32_and_soft_is_what_is_rounded():
    torch.manual_seed(0)
    quantizer = FSQQuantizer(16, (8, 8, 4, 4))
    z, mask = torch.randn(2, 400, 16) * 3, torch.ones(2, 400)
    codes = quantizer(z, mask).codes
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(z, mask).codes, codes)
    plain = FSQQuantizer(3, (8, 5, 4))  # as many channels as levels: nothing is projected
    z = torch.randn(1, 50, 3) * 2
    rounded = (plain.soft(z) * plain.half_width).round() / plain.half_width
    torch.testing.assert_close(rounded, plain(z, mask).z_q)


def test_sim_vq_weighs_the_two_halves_of_its_loss_as_ours_does():
    """Without padding our loss, which leaves padding out, is the library's."""
    torch.manual_seed(0)
    quantizer = SimVQQuantizer(8, NUM_CODES, DIM, commitment=0.3)
    assert isinstance(quantizer.vq, SimVQ)
    assert quantizer.vq.input_to_quantize_commit_loss_weight == 0.3
    z_e = torch.randn(2, 9, 8)
    *_, library = quantizer.vq(quantizer.project_in(z_e))
    torch.testing.assert_close(quantizer(z_e, torch.ones(2, 9)).loss, library)


def test_released_weights_name_these_tensors():
    """A renamed tensor would make every released dVAE unreadable."""
    names = {
        "fsq": FSQQuantizer(16, (8, 5, 4)),
        "ema-vq": EMAVQQuantizer(16, NUM_CODES, DIM, 0.25, 0.1, 0.35),
        "sim-vq": SimVQQuantizer(16, NUM_CODES, DIM, 0.25),
        "gumbel": GumbelQuantizer(16, NUM_CODES, 1e-3),
    }
    projections = {f"project_{way}.{part}" for way in ("in", "out") for part in ("weight", "bias")}
    codebook = {"initted", "cluster_size", "embed", "embed_avg"}
    assert {name: set(quantizer.state_dict()) for name, quantizer in names.items()} == {
        "fsq": {f"fsq.{name}" for name in projections},
        "ema-vq": projections | {f"vq._codebook.{name}" for name in codebook},
        "sim-vq": projections | {"vq.frozen_codebook", "vq.code_transform.weight"},
        "gumbel": {"to_logits.weight", "to_logits.bias", "codebook.weight", "temperature"},
    }
