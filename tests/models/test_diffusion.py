import pytest
import torch

from triforce.models.blocks.conditions import upsample_latents
from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.flow_samplers import SamplerConfig


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

    def at(guidance: float) -> torch.Tensor:
        return model.guided_velocity(prior, mask, SamplerConfig(guidance=guidance))(x, 0.3)

    torch.testing.assert_close(at(1e-9), at(0.0), atol=1e-5, rtol=1e-5)
    assert (at(2.0) - at(0.0)).abs().max() > 1e-3


def test_guidance_of_latents_pushes_away_from_the_prediction_by_the_prior_alone():
    model = make_diffusion(latent_channels=6)
    x, prior, latents, mask = torch.randn(2, 8, 20), torch.randn(2, 8, 20), torch.randn(2, 6, 20), torch.ones(2, 1, 20)
    config = SamplerConfig(guidance=2.0, guidance_of="latents")
    time, shown = torch.full((2,), 0.3), torch.ones(2)
    known = model.velocity(x, time, prior, mask, shown, latents)
    without = model.velocity(x, time, prior, mask, shown)
    guided = model.guided_velocity(prior, mask, config, latents)(x, 0.3)
    torch.testing.assert_close(guided, 3 * known - 2 * without, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.guided_velocity(prior, mask, config)(x, 0.3), without)  # no text, nothing to stress


@pytest.mark.parametrize("settings", [{}, {"attention_every": 1}, {"fold": 4}, {"path": "cosine", "target": "medium"}])
def test_padding_changes_no_sample(settings):
    model = make_diffusion(**settings)
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


def test_attention_sees_what_no_convolution_reaches():
    prior = torch.randn(1, 8, 200)
    other = prior.clone()
    other[..., 150:] += 1.0
    config = SamplerConfig(num_steps=1, temperature=0)
    for settings, reaches in (({}, False), ({"attention_every": 3}, True)):
        model = make_diffusion(**settings)
        moved = (model.sample(prior, config=config) - model.sample(other, config=config))[..., :100].abs().max()
        assert (moved > 1e-5) == reaches


@pytest.mark.parametrize("fold", [1, 2, 4])
def test_latents_are_used_where_they_are_given_and_guidance_hides_them(fold):
    model = make_diffusion(latent_channels=6, fold=fold)
    prior, latents = torch.randn(1, 8, 186), torch.randn(1, 6, 47)
    config = SamplerConfig(temperature=0)
    without, with_them = model.sample(prior, config=config), model.sample(prior, config=config, latents=latents)
    assert (without - with_them).abs().max() > 1e-3
    last = latents.clone()
    last[..., 46] += 3.0  # the code of frames 184 and 185
    moved = (model.sample(prior, config=config, latents=last) - with_them).abs().amax((0, 1))
    assert moved[184:].max() > 1e-4
    assert moved[: 184 - config.num_steps * model.config.context].max() < 1e-6
    assert upsample_latents(latents, (186,))[0, 0].tolist() == latents[0, 0].repeat_interleave(4)[:186].tolist()
    assert torch.isfinite(model.loss(prior, prior + 1, torch.tensor([[186]]), latents=latents))


@pytest.mark.parametrize("target", ["residual", "medium"])
def test_a_late_start_begins_at_the_prior(target):
    """An untrained network predicts no velocity on the straight path, so the start is what comes out."""
    torch.manual_seed(0)
    model = Diffusion(DiffusionConfig(channels=4, target=target, num_blocks=1, hidden=16)).eval()
    model.set_statistics(torch.full((4,), 2.0), torch.full((4,), 3.0), torch.full((4,), 0.5))
    prior = 2 + 3 * torch.randn(1, 4, 16)
    late = model.sample(prior, config=SamplerConfig(start_time=0.999, temperature=1.0))
    torch.testing.assert_close(late, prior, atol=0.05, rtol=0.01)
    early = model.sample(prior, config=SamplerConfig(temperature=1.0))
    assert (early - prior).abs().mean() > 0.3


def _train(model: Diffusion, data: torch.Tensor, prior: torch.Tensor, num_steps: int) -> None:
    sizes = torch.full((data.shape[0], model.config.num_dims), data.shape[-1])
    model.set_statistics(*(x * torch.ones(data.shape[1]) for x in (data.mean(), data.std(), (data - prior).std())))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_steps):
        loss = model.loss(data, prior, sizes, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize(
    ("num_dims", "settings"),
    [
        (1, {}),
        (2, {}),
        (2, {"fold": 2}),
        (1, {"skip": True}),
        (1, {"path": "cosine"}),
        (2, {"target": "medium", "attention_every": 2}),
    ],
)
def test_it_learns_what_the_prior_lacks(num_dims, settings):
    torch.manual_seed(0)
    config = DiffusionConfig(channels=4, num_dims=num_dims, hidden=64, num_blocks=2, prior_dropout=0.0, **settings)
    model = Diffusion(config)
    data = torch.randn(2, 4, *[8] * num_dims)
    prior = 0.3 * data  # blurred: what is missing follows from what is there
    _train(model, data, prior, 250)
    for method in ("euler", "dpm++2m", "mean"):
        restored = model.sample(prior, config=SamplerConfig(method=method, num_steps=8))
        assert (restored - data).abs().mean() < 0.45 * (prior - data).abs().mean(), method


def test_the_mean_is_nearer_and_a_sample_is_livelier():
    """Data that the prior says nothing of: the mean is their average, samples have their standard deviation."""
    torch.manual_seed(0)
    model = Diffusion(DiffusionConfig(channels=4, hidden=32, num_blocks=1, dilation_cycle=(1,), prior_dropout=0.0))
    prior = torch.zeros(256, 4, 8)
    data = 1.5 + torch.randn(256, 4, 8)
    _train(model, data, prior, 120)
    mean = model.sample(prior, config=SamplerConfig(method="mean", num_steps=4))
    drawn = model.sample(prior, config=SamplerConfig(num_steps=8, temperature=1.0))
    assert (mean - data).pow(2).mean() < 0.7 * (drawn - data).pow(2).mean()
    assert mean.std() < 0.5 * data.std()
    assert drawn.std() == pytest.approx(float(data.std()), rel=0.25)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="whole numbers from 1"):
        DiffusionConfig(dilation_cycle=(0,))
    with pytest.raises(ValueError, match="multiple of 32"):
        DiffusionConfig(hidden=48, attention_every=2)


def test_the_old_name_of_the_target_is_read_and_the_new_one_written():
    old = DiffusionConfig.model_validate({"flows": "medium"})
    assert old == DiffusionConfig(target="medium")
    assert old.model_dump()["target"] == "medium"
    assert "flows" not in old.model_dump()
    assert DiffusionConfig.model_validate_json(old.model_dump_json()) == old
    with pytest.raises(ValueError, match="flow"):
        DiffusionConfig.model_validate({"flow": "medium"})


@pytest.mark.parametrize("fold", [1, 4])
def test_codes_and_pieces_are_used_where_they_are_told_and_guidance_hides_the_pieces(fold):
    model = make_diffusion(num_codes=9, num_pieces=5, fold=fold)
    prior, tokens = torch.randn(1, 8, 186), torch.stack([torch.arange(47) % 9, torch.arange(47) % 5])[None]
    config = SamplerConfig(temperature=0)
    without, told = model.sample(prior, config=config), model.sample(prior, config=config, tokens=tokens)
    assert (without - told).abs().max() > 1e-3
    torch.testing.assert_close(model.sample(prior, config=config, tokens=torch.full_like(tokens, -1)), without)
    x, time, shown, mask = torch.randn(1, 8, 186), torch.full((1,), 0.3), torch.ones(1), torch.ones(1, 1, 186)
    silent = tokens.clone()
    silent[:, 1] = -1
    known, wordless = (model.velocity(x, time, prior, mask, shown, tokens=each) for each in (tokens, silent))
    guided = model.guided_velocity(prior, mask, SamplerConfig(guidance=2.0, guidance_of="latents"), tokens=tokens)
    torch.testing.assert_close(guided(x, 0.3), 3 * known - 2 * wordless, atol=1e-4, rtol=1e-4)


def test_windows_are_told_their_own_codes():
    model = make_diffusion(num_codes=9, fold=4)
    prior, tokens = torch.randn(1, 8, 800), torch.randint(0, 9, (1, 1, 200))
    whole = model.sample(prior, config=SamplerConfig(temperature=0, num_steps=2), tokens=tokens)
    parts = model.sample(
        prior, config=SamplerConfig(temperature=0, num_steps=2, window=400, overlap=192), tokens=tokens
    )
    torch.testing.assert_close(parts, whole, atol=1e-3, rtol=1e-3)
