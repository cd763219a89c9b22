"""Sampling from a flow: paths from noise to data, samplers that integrate them in few steps, windows for long media.

A network predicts ``u``, the velocity of the path at ``x`` and time ``t``; nothing here needs more than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

Velocity = Callable[[torch.Tensor, float], torch.Tensor]
"""Gives ``u`` at ``x`` ``(B, C, *size)`` and a time from 0 to 1."""


class SamplerConfig(BaseModel):
    """Sampler, number of steps, guidance and windows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["euler", "heun", "dpm++2m", "mean"] = Field(
        "euler",
        description="`heun` evaluates the network twice a step; `dpm++2m` (Lu et al. 2022, arXiv 2211.01095) once, "
        "reusing the step before; `mean` gives the expected result, averaged over `num_steps` draws of the noise.",
    )
    num_steps: int = Field(4, ge=1, le=1000, description="Steps from noise to result.")
    guidance: float = Field(
        0.0,
        ge=0,
        le=20,
        description="Scale of classifier-free guidance, away from the prediction without the condition; 0 is off.",
    )
    guidance_of: Literal["all", "latents"] = Field(
        "all",
        description="Condition that the unguided prediction lacks: prior and latents, or the latents alone, which "
        "emphasises what they say of the words.",
    )
    temperature: float = Field(
        0.25,
        ge=0,
        le=2,
        description="Standard deviation of the starting noise; 0 starts at the prior itself, 1 is as in training. "
        "Measured on the demo's network: 1 is as sharp as the original and loses words, 0.25 gains half of the "
        "sharpness and loses few.",
    )
    start_time: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Time on the path from noise to data at which to start, with the prior in place of the data "
        "(shallow flow matching, arXiv 2505.12226); 0 starts at noise.",
    )
    window: int = Field(1024, ge=16, description="Positions of the last axis that the network sees at once.")
    overlap: int = Field(256, ge=4, description="Positions that neighbouring windows share; they are cross-faded.")

    @model_validator(mode="after")
    def _check(self) -> SamplerConfig:
        if 2 * self.overlap > self.window:
            raise ValueError(f"overlap {self.overlap}: at most half of window, {self.window // 2}")
        return self

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the network for one result; guidance doubles them."""
        return self.num_steps * (2 if self.method == "heun" else 1) * (2 if self.guidance else 1)


class Coefficients(NamedTuple):
    """Coefficients of ``x = signal * data + noise * n`` and ``u = signal_slope * data + noise_slope * n``."""

    signal: torch.Tensor | float
    noise: torch.Tensor | float
    signal_slope: torch.Tensor | float
    noise_slope: torch.Tensor | float

    @property
    def skip(self) -> torch.Tensor | float:
        """Coefficient of ``x`` in the best linear prediction of ``u``, for data and noise of standard deviation 1."""
        variance = self.signal * self.signal + self.noise * self.noise
        return (self.signal * self.signal_slope + self.noise * self.noise_slope) / variance

    @property
    def scale(self) -> torch.Tensor | float:
        """Standard deviation of ``u - skip * x``."""
        determinant = self.signal_slope * self.noise - self.noise_slope * self.signal
        return determinant / (self.signal * self.signal + self.noise * self.noise) ** 0.5


@dataclass(frozen=True)
class Path:
    """The path from noise at time 0 to data at time 1.

    ``linear`` is flow matching's straight line (Lipman et al. 2023, arXiv 2210.02747). On ``cosine``, the
    variance-preserving quarter circle, ``u`` is the negative ``v`` of Salimans and Ho (2022, arXiv 2202.00512).
    """

    name: Literal["linear", "cosine"] = "linear"

    @property
    def speed(self) -> float:
        """``dx/dt = speed * u``."""
        return 1.0 if self.name == "linear" else math.pi / 2

    def at(self, time: torch.Tensor | float) -> Coefficients:
        """Return the coefficients at a time, or at times ``(B, 1, ...)``."""
        if self.name == "linear":
            return Coefficients(time, 1 - time, 1.0, -1.0)
        signal: torch.Tensor | float
        noise: torch.Tensor | float
        if isinstance(time, torch.Tensor):
            signal, noise = (time * math.pi / 2).sin(), (time * math.pi / 2).cos()
        elif time >= 1:
            signal, noise = 1.0, 0.0
        else:
            signal, noise = math.sin(time * math.pi / 2), math.cos(time * math.pi / 2)
        return Coefficients(signal, noise, noise, -signal)

    def data(self, x: torch.Tensor, u: torch.Tensor, time: float) -> torch.Tensor:
        """Return the data that velocity ``u`` at ``x`` leads to; both paths have determinant -1, so no division."""
        _, noise, _, noise_slope = self.at(time)
        return noise * u - noise_slope * x


def integrate(velocity: Velocity, x: torch.Tensor, config: SamplerConfig, path: Path | None = None) -> torch.Tensor:
    """Integrate the flow from ``config.start_time`` to 1 in equal steps.

    Raises ValueError for the method ``mean``, which integrates nothing.
    """
    path = path or Path()
    span = 1 - config.start_time
    times = [config.start_time + span * i / config.num_steps for i in range(config.num_steps)] + [1.0]
    if config.method == "dpm++2m":
        return _dpm_solver(velocity, x, times, path)
    if config.method == "mean":
        raise ValueError("method 'mean' integrates no flow: call Diffusion.sample, which handles it")
    for now, then in pairwise(times):
        step = (then - now) * path.speed
        slope = velocity(x, now)
        if config.method == "heun":
            slope = (slope + velocity(x + step * slope, then)) / 2
        x = x + step * slope
    return x


def _dpm_solver(velocity: Velocity, x: torch.Tensor, times: list[float], path: Path) -> torch.Tensor:
    """DPM-Solver++(2M): extrapolate the predicted data in the logarithm of signal over noise.

    Steps that touch pure noise or pure data, where that logarithm is infinite, are of first order, as is usual.
    """
    before: tuple[torch.Tensor, float] | None = None
    for now, then in pairwise(times):
        data = estimate = path.data(x, velocity(x, now), now)
        signal, noise, *_ = path.at(now)
        next_signal, next_noise, *_ = path.at(then)
        if before is not None and next_noise > 0:
            ratio = (_log_snr(path, now) - before[1]) / (_log_snr(path, then) - _log_snr(path, now))
            estimate = data + (data - before[0]) / (2 * ratio)
        shrink = next_noise / noise
        x = shrink * x + (next_signal - shrink * signal) * estimate
        before = data, _log_snr(path, now)
    return x


def _log_snr(path: Path, time: float) -> float:
    signal, noise, *_ = path.at(time)
    return math.log(signal / noise) if signal > 0 else -math.inf


def window_spans(length: int, window: int, overlap: int, cell: int = 1) -> list[slice]:
    """Return windows over ``length`` positions, each sharing at least ``overlap`` with the next; one if all fits in it.

    Windows start at multiples of ``cell``, so the last may be longer.
    """
    if length <= window:
        return [slice(0, length)]
    shared = overlap + cell - 1  # starts move by less than a cell
    count = max(2, math.ceil((length - shared) / (window - shared)))
    starts = [int(i * (length - window) / (count - 1)) // cell * cell for i in range(count)]
    return [*(slice(start, start + window) for start in starts[:-1]), slice(starts[-1], length)]


def window_weights(spans: list[slice], length: int) -> list[torch.Tensor]:
    """Return weights ``(window,)`` for each of ``spans``; at every position they sum to 1.

    The overlap of two windows is cross-faded in its middle half. In its outer quarters the window whose border is near
    has weight 0, because it does not see what lies beyond.
    """
    weights = []
    for index, span in enumerate(spans):
        weight = torch.ones(span.stop - span.start)
        if index:
            shared = spans[index - 1].stop - span.start
            weight[:shared] = _fade_in(shared)
        if index + 1 < len(spans):
            shared = span.stop - spans[index + 1].start
            weight[-shared:] = weight[-shared:] * (1 - _fade_in(shared))
        weights.append(weight)
    return weights


def _fade_in(length: int) -> torch.Tensor:
    position = (torch.arange(length) + 0.5) / length
    return 0.5 - 0.5 * torch.cos(math.pi * ((position - 0.25) * 2).clamp(0, 1))


def over_windows(field: Callable[[slice], Velocity], length: int, config: SamplerConfig, cell: int = 1) -> Velocity:
    """Return the velocity over ``length`` positions of the last axis, joined from one field per window.

    ``field`` gives the velocity of one window; windows start at multiples of ``cell``. They are joined at every
    evaluation, not once at the end: neighbours follow one flow together, and no seam appears between them.
    """
    spans = window_spans(length, config.window, config.overlap, cell)
    if len(spans) == 1:
        return field(spans[0])
    fields, weights = [field(span) for span in spans], window_weights(spans, length)

    def velocity(x: torch.Tensor, time: float) -> torch.Tensor:
        joined = torch.zeros_like(x)
        for span, part, weight in zip(spans, fields, weights, strict=True):
            joined[..., span] += part(x[..., span], time) * weight.to(x)
        return joined

    return velocity
