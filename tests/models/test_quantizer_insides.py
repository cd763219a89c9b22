"""What is used of vector-quantize-pytorch beyond its documentation: an upgrade that changes it fails here by name.

`triforce.models.quantize` repeats the bound of FSQ without its rounding. Released weights name the library's tensors.
"""

from __future__ import annotations

import torch
from vector_quantize_pytorch import FSQ, SimVQ

from triforce.models.quantize import EMAVQQuantizer, FSQQuantizer, GumbelQuantizer, SimVQQuantizer

NUM_CODES, DIM = 8, 3


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
