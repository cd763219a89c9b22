import pytest
import torch

from triforce.models.diffusion import Diffusion, DiffusionConfig, SamplerConfig, integrate


def make_diffusion(**settings) -> Diffusion:
    torch.manual_seed(0)
    model = Diffusion(DiffusionConfig(**({"channels": 8, "hidden": 32, "num_blocks": 3} | settings))).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_guidance_zero_is_the_identity_and_more_is_not():
    model = make_diffusion()
    prior = torch.randn(2, 8, 20)
    mask = torch.ones(2, 1, 20)
    x = torch.randn(2, 8, 20)
    plain = model._guided(prior, mask, 0.0)(x, 0.3)
    torch.testing.assert_close(model._guided(prior, mask, 1e-9)(x, 0.3), plain, atol=1e-5, rtol=1e-5)
    assert (model._guided(prior, mask, 2.0)(x, 0.3) - plain).abs().max() > 1e-3


def test_padding_changes_no_sample():
    model = make_diffusion()
    prior = torch.randn(1, 8, 30)
    short = model.sample(prior[:, :, :20], config=SamplerConfig(temperature=0))
    long = model.sample(prior, torch.tensor([[20]]), SamplerConfig(temperature=0))
    torch.testing.assert_close(long[:, :, :20], short, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(long[:, :, 20:], prior[:, :, 20:])


def test_same_seed_same_sample():
    model = make_diffusion()
    prior = torch.randn(1, 8, 20)
    assert torch.equal(model.sample(prior, seed=3), model.sample(prior, seed=3))
    assert not torch.equal(model.sample(prior, seed=3), model.sample(prior, seed=4))


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_samplers_have_their_order(method, order):
    def error(num_steps: int) -> float:  # dx/dt = x from 1 ends at e
        end = integrate(
            lambda x, t: x, torch.ones(1, dtype=torch.float64), SamplerConfig(method=method, num_steps=num_steps)
        )
        return abs(float(end) - 2.718281828459045)

    assert error(20) / error(40) == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("num_dims", [1, 2])
def test_it_learns_what_the_prior_lacks(num_dims):
    torch.manual_seed(0)
    model = Diffusion(DiffusionConfig(channels=4, num_dims=num_dims, hidden=48, num_blocks=2, prior_dropout=0.0))
    truth = torch.randn(2, 4, *[8] * num_dims)
    prior = 0.3 * truth  # blurred: what is missing follows from what is there
    sizes = torch.full((2, num_dims), 8)
    model.set_statistics(
        truth.mean() * torch.ones(4), truth.std() * torch.ones(4), (truth - prior).std() * torch.ones(4)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(250):
        loss = model.loss(truth, prior, sizes, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    restored = model.eval().sample(prior, config=SamplerConfig(num_steps=8))
    assert (restored - truth).abs().mean() < 0.45 * (prior - truth).abs().mean()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="whole numbers from 1"):
        DiffusionConfig(dilation_cycle=(0,))
    with pytest.raises(ValueError, match="method"):
        SamplerConfig(method="ddim")
