"""Samplers on a flow whose solution is known, and windows whose seams cannot be found."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from triforce.models.diffusion import Diffusion, DiffusionConfig
from triforce.models.flow_samplers import Path, SamplerConfig, integrate, window_spans, window_weights

MEAN, STD = 0.7, 0.4


def gaussian(path: Path, calls: list[float] | None = None):
    """Return the exact velocity for Gaussian data: the best estimate of data and noise from ``x``."""

    def velocity(x: torch.Tensor, time: float) -> torch.Tensor:
        if calls is not None:
            calls.append(time)
        signal, noise, signal_slope, noise_slope = path.at(time)
        variance = (signal * STD) ** 2 + noise**2
        centred = x - signal * MEAN
        data = MEAN + signal * STD**2 / variance * centred
        return signal_slope * data + noise_slope * noise / variance * centred

    return velocity


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize(("method", "order", "evaluations"), [("euler", 1, 1), ("heun", 2, 2), ("dpm++2m", 1.75, 1)])
def test_every_sampler_reaches_the_gaussian_at_its_order(name, method, order, evaluations):
    """Of dpm++2m's second order a logarithm is missing: at both ends even the shortest step is long in log-SNR."""
    path, start = Path(name), torch.tensor([-1.5, 0.2, 2.0], dtype=torch.float64)
    exact = MEAN + STD * start

    def error(num_steps: int) -> float:
        calls: list[float] = []
        config = SamplerConfig(method=method, num_steps=num_steps)
        end = integrate(gaussian(path, calls), start, config, path)
        assert len(calls) == config.num_evaluations == evaluations * num_steps
        return float((end - exact).abs().max())

    errors = [error(n) for n in (128, 256, 512)]  # at few steps dpm++2m's errors of both signs cancel
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25), errors


def test_second_order_pays_at_equal_evaluations():
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)

    def error(method: str, num_steps: int) -> float:
        end = integrate(gaussian(Path()), start, SamplerConfig(method=method, num_steps=num_steps))
        return float((end - (MEAN + STD * start)).abs().max())

    for num_evaluations in (8, 32):
        assert error("dpm++2m", num_evaluations) < 0.5 * error("euler", num_evaluations)
        assert error("heun", num_evaluations // 2) < 0.5 * error("euler", num_evaluations)


def test_the_velocity_leads_to_the_data():
    data, noise = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    for path in (Path("linear"), Path("cosine")):
        for time in (0.0, 0.3, 1.0):
            at = path.at(time)
            u = at.signal_slope * data + at.noise_slope * noise
            torch.testing.assert_close(path.data(at.signal * data + at.noise * noise, u, time), data)
        slope = (torch.tensor(path.at(0.301)[:2]) - torch.tensor(path.at(0.299)[:2])) / 0.002 / path.speed
        torch.testing.assert_close(slope, torch.tensor(path.at(0.3)[2:]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_skip_leaves_the_least_of_the_velocity(name):
    torch.manual_seed(0)
    data, noise = torch.randn(2, 200_000, dtype=torch.float64)
    for time in (0.0, 0.3, 0.8, 1.0):
        at = Path(name).at(torch.tensor(time, dtype=torch.float64))
        x, u = at.signal * data + at.noise * noise, at.signal_slope * data + at.noise_slope * noise
        rest = u - at.skip * x
        assert float((rest * x).mean()) == pytest.approx(0, abs=0.02)
        assert float(rest.std()) == pytest.approx(float(at.scale), rel=0.02)
    at = Path("linear").at(0.0)
    assert (at.skip, at.scale) == (-1.0, 1.0)  # x is the noise: what is left of u is the data


@pytest.mark.parametrize("cell", [1, 4])
@pytest.mark.parametrize(("length", "window", "overlap"), [(100, 40, 10), (41, 40, 20), (1000, 64, 16), (30, 40, 10)])
def test_windows_cover_and_weights_sum_to_one(length, window, overlap, cell):
    spans = window_spans(length, window, overlap, cell)
    assert not any(span.start % cell for span in spans)
    total = torch.zeros(length)
    for span, weight in zip(spans, window_weights(spans, length), strict=True):
        total[span] += weight
    torch.testing.assert_close(total, torch.ones(length))
    assert all(a.stop - b.start >= overlap for a, b in itertools.pairwise(spans))


def lively(**settings) -> Diffusion:
    torch.manual_seed(0)
    model = Diffusion(DiffusionConfig(**({"channels": 8, "hidden": 32, "num_blocks": 3} | settings))).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("settings", [{}, {"fold": 2, "num_blocks": 1}])
def test_windows_of_enough_overlap_give_the_whole(settings):
    """A quarter of the overlap is as wide as the convolutions see: then windows change nothing at all."""
    model = lively(**settings)
    overlap = 4 * model.config.context
    prior = torch.randn(1, 8, 301)
    settings = {"method": "heun", "num_steps": 2, "temperature": 1.0}
    whole = model.sample(prior, config=SamplerConfig(window=4096, **settings))
    parts = model.sample(prior, config=SamplerConfig(window=2 * overlap, overlap=overlap, **settings))
    assert len(window_spans(301, 2 * overlap, overlap)) > 3
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)


def test_windows_leave_no_seam_where_attention_sees_less():
    """Nothing steps at the joins although windows differ inside: frame to frame, joins move as everywhere else."""
    model = lively(attention_every=1)
    prior = torch.sin(torch.arange(600) / 9)[None, None].expand(1, 8, 600).contiguous()
    config = SamplerConfig(window=100, overlap=30, num_steps=4, temperature=0.0)
    whole = model.sample(prior, config=config.model_copy(update={"window": 4096}))
    parts = model.sample(prior, config=config)
    assert (parts - whole).abs().max() > 1e-4
    steps = parts.diff(dim=-1).abs().amax(1)[0]
    spans = window_spans(600, 100, 30)
    joins = [i for a, b in itertools.pairwise(spans) for i in range(b.start, a.stop - 1)]
    borders = sorted({edge for span in spans for edge in (span.start, span.stop) if 0 < edge < 600})
    rest = steps[[i for i in range(60, 540) if i not in joins]]
    assert steps[[i - 1 for i in borders]].max() <= 1.1 * rest.max()
    hard = torch.cat([model.sample(prior[..., i : i + 100], config=config) for i in range(0, 600, 100)], -1)
    assert steps[99:500:100].max() < 0.7 * hard.diff(dim=-1).abs().amax(1)[0][99:500:100].max()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="at most half of window"):
        SamplerConfig(window=100, overlap=51)
    with pytest.raises(ValueError, match="method"):
        SamplerConfig(method="ddim")
    with pytest.raises(ValueError, match=r"Diffusion\.sample"):
        integrate(lambda x, t: x, torch.ones(1), SamplerConfig(method="mean"))
