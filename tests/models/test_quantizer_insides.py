"""What is used of vector-quantize-pytorch beyond its documentation: an upgrade that changes it fails here by name.

`triforce.models.quantize` sets two private thresholds of the EMA codebook, reads its private counts, and repeats the
bound of FSQ without its rounding. Released weights name the library's tensors.
"""

from __future__ import annotations

import pytest
import torch
from vector_quantize_pytorch import FSQ, SimVQ, VectorQuantize

from triforce.models.quantize import EMAVQQuantizer, FSQQuantizer, GumbelQuantizer, SimVQQuantizer

NUM_CODES, DIM = 8, 3


@pytest.fixture
def vq() -> VectorQuantize:
    """A codebook of separate points that is not initialised from data."""
    torch.manual_seed(0)
    vq = VectorQuantize(dim=DIM, codebook_size=NUM_CODES, decay=0.99, threshold_ema_dead_code=1.0).train()
    vq._codebook.embed.data.copy_(torch.arange(NUM_CODES).view(1, -1, 1).expand(1, NUM_CODES, DIM) * 10.0)
    vq._codebook.embed_avg.data.copy_(vq._codebook.embed)
    return vq


def test_cluster_size_is_the_moving_count_of_each_codes_vectors(vq):
    codebook = vq._codebook
    assert codebook.cluster_size.shape == (1, NUM_CODES)
    codebook.threshold_ema_dead_code = 0.0
    before = codebook.cluster_size.clone()
    x = torch.full((1, 5, DIM), 20.0)  # five vectors at code 2
    vq(x)
    counts = torch.zeros(1, NUM_CODES)
    counts[0, 2] = 5
    torch.testing.assert_close(codebook.cluster_size, 0.99 * before + 0.01 * counts)


def test_threshold_ema_dead_code_is_the_count_under_which_a_code_is_replaced_from_the_batch(vq):
    codebook = vq._codebook
    codebook.cluster_size.data.copy_(torch.arange(NUM_CODES)[None].float() + 0.5)
    codebook.embed_avg.data.copy_(codebook.embed * codebook.cluster_size[..., None])
    codebook.threshold_ema_dead_code, codebook.reset_cluster_size = 3.0, 1.0
    before = vq.codebook.clone()
    x = torch.full((1, 5, DIM), 71.0)  # the nearest code is the last one
    vq(x)
    replaced = (vq.codebook == 71.0).all(-1)
    assert replaced.tolist() == [True] * 3 + [False] * 5  # counts 0.5, 1.5 and 2.5
    torch.testing.assert_close(vq.codebook[3:7], before[3:7], atol=0.1, rtol=0.01)


def test_a_threshold_that_is_zero_at_first_never_replaces(vq):
    """`EMAVQQuantizer` therefore starts with a threshold over 0 and moves it."""
    assert vq._codebook.has_dead_code_replacement
    assert not VectorQuantize(
        dim=DIM, codebook_size=NUM_CODES, threshold_ema_dead_code=0.0
    )._codebook.has_dead_code_replacement


@pytest.mark.parametrize("reset", [1.0, 0.25])
def test_reset_cluster_size_is_the_count_that_a_replaced_code_starts_with(vq, reset):
    codebook = vq._codebook
    codebook.cluster_size.data.fill_(0.5)
    codebook.threshold_ema_dead_code, codebook.reset_cluster_size = 1.0, reset
    vq(torch.full((1, 2 * NUM_CODES, DIM), 71.0))  # a vector replaces one code at most
    assert codebook.cluster_size.tolist() == [[reset] * NUM_CODES]
    torch.testing.assert_close(codebook.embed_avg, torch.full((1, NUM_CODES, DIM), 71.0 * reset))


def test_anneal_moves_both_thresholds():
    quantizer = EMAVQQuantizer(8, NUM_CODES, DIM, 0.25, dead_share=0.1, refresh_share=0.5)
    codebook = quantizer.vq._codebook
    codebook.cluster_size.data.fill_(4.0)
    quantizer.anneal(0.2)
    assert (codebook.threshold_ema_dead_code, codebook.reset_cluster_size) == (1.0, 1.0)
    quantizer.anneal(0.9)
    assert codebook.threshold_ema_dead_code == pytest.approx(0.4)
    assert codebook.reset_cluster_size == 1.0
    codebook.cluster_size.data.fill_(0.5)
    quantizer.anneal(0.9)
    assert codebook.reset_cluster_size == 0.5


def test_the_library_bounds_as_soft_does_and_then_rounds():
    """``FSQ.bound`` rounds; `FSQQuantizer.soft` is the same without that."""
    torch.manual_seed(0)
    levels = (8, 5, 4)
    quantizer = FSQQuantizer(3, levels)  # as many channels as levels: nothing is projected
    z = torch.randn(1, 50, 3) * 2
    half_width = torch.tensor(levels) // 2
    torch.testing.assert_close((quantizer.soft(z) * half_width).round() / half_width, quantizer.fsq.bound(z))
    assert quantizer.fsq._levels.tolist() == quantizer.levels.tolist() == list(levels)
    assert "levels" not in quantizer.state_dict()  # made from the config, never released


def test_fsq_projects_by_public_layers_where_the_channels_differ():
    fsq = FSQ(levels=[8, 5, 4], dim=16)
    assert fsq.project_in.weight.shape == (3, 16)
    assert fsq.project_out.weight.shape == (16, 3)


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
