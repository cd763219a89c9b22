"""Coarser scales: averages over cells, interpolation back, and a diffusion network that has more positions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from triforce.models.blocks.scale import area_average, coarse_size, upsample
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.flow_samplers import SamplerConfig


def test_cells_are_averaged_and_those_at_a_border_over_what_is_there():
    x = torch.rand(2, 3, 7, 10)
    sizes = torch.tensor([[7, 10], [5, 4]])
    made, made_sizes = area_average(x, sizes, 2)
    assert made.shape == (2, 3, 4, 5)
    assert made_sizes.tolist() == [[4, 5], [3, 2]]
    assert torch.allclose(made[0, :, :3], F.avg_pool2d(x[0], 2))
    assert torch.allclose(made[0, :, 3], x[0, :, 6].view(3, 5, 2).mean(-1))
    assert torch.allclose(made[1, :, 2, 0], x[1, :, 4, :2].mean(-1))
    assert not made[1, :, 3:].any()
    assert not made[1, :, :, 2:].any()


@pytest.mark.parametrize("num_dims", [1, 2, 3])
def test_a_ramp_is_interpolated_as_a_ramp_and_padding_changes_nothing(num_dims):
    size = (16,) * num_dims
    ramp = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in size], indexing="ij"))[None]
    sizes = torch.tensor([size])
    coarse, _ = area_average(ramp, sizes, 2)
    fine = upsample(coarse, 2, sizes, size)
    inner = (..., *[slice(4, -4)] * num_dims)
    assert torch.allclose(fine[inner], ramp[inner], atol=0.15)
    odd = torch.tensor([size, (11,) * num_dims])
    padded = upsample(torch.cat([coarse, coarse]), 2, odd, size)
    own = coarse[(..., *[slice(6)] * num_dims)]
    alone = upsample(own, 2, odd[1:], (11,) * num_dims)
    assert torch.equal(padded[:1], fine)
    assert torch.equal(padded[1:][(..., *[slice(11)] * num_dims)], alone)
    assert not padded[1:][(..., slice(11, None))].any()


def test_in_two_dimensions_it_is_torchs_bicubic():
    x = torch.rand(2, 3, 6, 9)
    sizes = torch.tensor([[12, 18]] * 2)
    expected = F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
    assert torch.allclose(upsample(x, 2, sizes, (12, 18)), expected, atol=1e-5)


def test_a_prior_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"a prior of \(6,\) positions .* has to have \(7,\)"):
        upsample(torch.rand(1, 2, 6), 2, torch.tensor([[13]]), (13,))


@pytest.mark.parametrize("fold", [1, 2])
def test_a_network_learns_what_lies_between_the_priors_positions(fold):
    torch.manual_seed(0)
    # Each coarse value fixes its cell: dark to light, or light to dark, which no interpolation knows.
    coarse = (torch.rand(16, 1, 4, 4) > 0.5).float()
    step = torch.tensor([[0.3, -0.3], [0.3, -0.3]]).repeat(4, 4)
    fine = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3) * (1 + step)
    sizes = torch.tensor([[8, 8]] * 16)
    prior, prior_sizes = area_average(fine, sizes, 2)
    assert coarse_size((8, 8), 2) == tuple(prior_sizes[0].tolist())
    config = DiffusionConfig(channels=1, num_dims=2, upsample=2, fold=fold, hidden=32, num_blocks=2, prior_dropout=0)
    model = Diffusion(config)
    start = model.upsampled(prior, sizes, (8, 8))
    model.set_statistics(fine.mean()[None], fine.std()[None], (fine - start).std()[None])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        optimizer.zero_grad()
        model.loss(fine, prior, sizes, generator).backward()
        optimizer.step()
    made = model.eval().sample(prior, config=SamplerConfig(num_steps=8, temperature=1.0))
    assert made.shape == fine.shape
    assert (made - fine).abs().mean() < 0.5 * (start - fine).abs().mean()
    odd = model.sample(prior, torch.tensor([[8, 7]] * 16), SamplerConfig(num_steps=1, temperature=0))
    assert odd.shape == (16, 1, 8, 7)
