"""What the vocoder is trained by: spectrograms at several resolutions, and discriminators of two kinds.

Period discriminators (Kong et al. 2020, arXiv 2010.05646) see the waveform folded, and so its phases; spectrogram
discriminators (Jang et al. 2021, arXiv 2106.07889; complex as in Defossez et al. 2022, arXiv 2210.13438) its texture.
All are slim: they take most of a step's time, and there is one voice to know, not the world's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from triforce.models.audio.vocos import Pitch

RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))
"""FFT length and hop of the losses, samples: short ones see onsets, long ones pitch (Yamamoto et al. 2020)."""
LOG_FLOOR = 1e-3
"""Magnitude under which the losses hear silence: near the rounding noise of 16 bits."""
SLOPE = 0.1
PERIOD_CHANNELS = (16, 64, 128, 256, 256)
"""A quarter of the published widths, a sixteenth of the work."""
SPECTROGRAM_CHANNELS = (16, 32, 32, 64, 64)
SPECTROGRAM_STRIDES = ((1, 1), (2, 1), (2, 1), (2, 2), (2, 2))
"""Of frequency and time."""
COMPRESSION = 0.3
"""Exponent of the magnitudes that spectrogram discriminators see: what is 60 dB down counts an eighth."""
COMPRESSION_FLOOR = 1e-4
"""Magnitude from which on that is so, with 1 for a sine at full scale: -80 dB."""

PITCHES_HZ = (60, 450)
"""Of voices that read aloud. Assumed."""
FIRST_PEAK = 0.9
"""A peak this near the highest counts if it is the first: multiples of the period are nearly as high. Assumed."""
VOICED = 0.5
"""Autocorrelation from which on a frame is voiced; Boersma 1993 has 0.45."""
AUDIBLE_POWER = 1e-6
"""Mean square of a frame, -60 dB under full scale, from which on it can be voiced. Assumed."""


class Discriminator(nn.Module):
    """2-D convolutions; the output of each is a feature, that of the last are scores, high for what seems real."""

    def __init__(
        self,
        channels: Sequence[int],
        kernel: tuple[int, int],
        strides: Sequence[tuple[int, int]],
        out_kernel: tuple[int, int],
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], kernel, stride, padding=_same(kernel))
            for i, stride in enumerate(strides)
        )
        self.out = nn.Conv2d(channels[-1], 1, out_kernel, padding=_same(out_kernel))
        for conv in [*self.convs, self.out]:  # as large an output as input: they are to see from the first step on
            nn.init.kaiming_normal_(conv.weight, SLOPE)
            nn.init.zeros_(conv.bias)
        self.to(memory_format=torch.channels_last)

    def view(self, waveform: torch.Tensor) -> torch.Tensor:
        """Turn samples ``(B, N)`` into the image ``(B, C, H, W)`` that the convolutions see."""
        raise NotImplementedError

    def forward(self, waveform: torch.Tensor) -> list[torch.Tensor]:
        x = self.view(waveform).contiguous(memory_format=torch.channels_last)
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        return [*features, self.out(x)]


class PeriodDiscriminator(Discriminator):
    """Sees every ``period``-th sample as a column."""

    def __init__(self, period: int) -> None:
        strides = [(3, 1)] * (len(PERIOD_CHANNELS) - 1) + [(1, 1)]
        super().__init__((1, *PERIOD_CHANNELS), (5, 1), strides, (3, 1))
        self.period = period

    def view(self, waveform: torch.Tensor) -> torch.Tensor:
        padded = F.pad(waveform, (0, -waveform.shape[1] % self.period), mode="reflect")
        return padded.unflatten(1, (-1, self.period))[:, None]


class SpectrogramDiscriminator(Discriminator):
    """Sees real and imaginary parts of an STFT, of compressed magnitude."""

    window: torch.Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__((2, *SPECTROGRAM_CHANNELS), (5, 3), SPECTROGRAM_STRIDES, (3, 3))
        self.n_fft, self.hop_length = n_fft, hop_length
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def view(self, waveform: torch.Tensor) -> torch.Tensor:
        parts = stft(waveform, self.window, self.hop_length) * (4 / self.n_fft)
        power = parts.square().sum(-1, keepdim=True) + COMPRESSION_FLOOR**2
        return (parts * power ** ((COMPRESSION - 1) / 2)).permute(0, 3, 1, 2)


class StftLoss(nn.Module):
    """Mean over `RESOLUTIONS` of the log magnitudes' L1 and the spectral convergence, of samples ``(B, N)``."""

    def __init__(self) -> None:
        super().__init__()
        for n_fft, _ in RESOLUTIONS:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        total = made.new_zeros(())
        for n_fft, hop_length in RESOLUTIONS:
            window = self.get_buffer(f"window_{n_fft}")
            # The floor is added in squares, where the gradient has no pole
            a, b = (stft(x, window, hop_length).square().sum(-1) + LOG_FLOOR**2 for x in (made, real))
            convergence = (a.sqrt() - b.sqrt()).norm() / b.sum().sqrt()
            total = total + 0.5 * (a.log() - b.log()).abs().mean() + convergence
        return total / len(RESOLUTIONS)


def stft(waveform: torch.Tensor, window: torch.Tensor, hop_length: int) -> torch.Tensor:
    """``(B, N)`` to real and imaginary parts ``(B, n_fft // 2 + 1, T, 2)``."""
    return torch.view_as_real(torch.stft(waveform, len(window), hop_length, window=window, return_complex=True))


class PitchLoss(nn.Module):
    """Distance of a predicted pitch from that of the sound: cross-entropy of the voicing, and L1 of the logarithm where
    there is a voice.
    """

    def __init__(self, sample_rate_hz: int, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.shortest, self.longest = (round(sample_rate_hz / hz) for hz in reversed(PITCHES_HZ))
        window = torch.hann_window(3 * self.longest)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("envelope", _autocorrelation(window), persistent=False)

    def forward(self, pitch: Pitch, waveform: torch.Tensor) -> torch.Tensor:
        log_bins, voiced = self.measure(waveform)
        error = ((pitch.log_bins - log_bins).abs() * voiced).sum() / voiced.sum().clamp_min(1)
        return error + F.binary_cross_entropy_with_logits(pitch.voiced, voiced)

    @torch.no_grad()
    def measure(self, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pitch of samples ``(B, N)`` in log bins ``(B, T)``, and 1 where they are voiced: the first high peak of the
        autocorrelation, over that of the window (Boersma 1993).
        """
        half = len(self.window) // 2
        frames = F.pad(waveform, (half, half), mode="reflect").unfold(1, len(self.window), self.hop_length)
        correlation = _autocorrelation((frames - frames.mean(-1, keepdim=True)) * self.window)
        power = correlation[..., :1]
        relative = correlation / (power + 1e-6) / (self.envelope / self.envelope[0]).clamp_min(1e-3)
        before, here, after = (relative[..., self.shortest + i : self.longest + i] for i in (-1, 0, 1))
        is_peak = (here >= before) & (here >= after) & (here > FIRST_PEAK * here.amax(-1, keepdim=True))
        place = is_peak.float().argmax(-1, keepdim=True)
        a, b, c = (part.gather(-1, place) for part in (before, here, after))
        shift = (0.5 * (a - c) / (a - 2 * b + c).clamp_max(-1e-6)).clamp(-0.5, 0.5)  # of a parabola through the three
        period = (place + self.shortest + shift)[..., 0]
        voiced = (b > VOICED) & (power > AUDIBLE_POWER * len(self.window))
        return (self.n_fft / period).log(), voiced[..., 0].float()


def _autocorrelation(frames: torch.Tensor) -> torch.Tensor:
    """Of ``(..., N)``, at lags up to N / 2, which do not wrap around in 3 N / 2 points."""
    size = 1 << (3 * frames.shape[-1] // 2 - 1).bit_length()
    power = torch.view_as_real(torch.fft.rfft(frames, size)).square().sum(-1)
    return torch.fft.irfft(power, size)[..., : frames.shape[-1] // 2]


def adversarial_losses(
    discriminators: Iterable[nn.Module], made: torch.Tensor, real: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Hinge losses of the discriminators and of the vocoder, in one backward pass; means over the discriminators.

    The vocoder's gradient goes through frozen copies of the discriminators, theirs stops at the sound, so one optimizer
    step lowers the loss of each. ``features`` is the distance between the layers' outputs (Kumar et al. 2019), relative
    to their size as in Defossez et al. 2022, since the discriminators decide that.
    """
    losses: dict[str, list[torch.Tensor]] = {"discriminator": [], "adversarial": [], "features": []}
    both = torch.cat([real, made.detach()])
    for discriminator in discriminators:
        *seen, score = discriminator(both)
        real_score, made_score = score.float().chunk(2)
        losses["discriminator"].append(F.relu(1 - real_score).mean() + F.relu(1 + made_score).mean())
        frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        *judged, score = functional_call(discriminator, frozen, (made,))
        losses["adversarial"].append(F.relu(1 - score.float()).mean())
        losses["features"].append(_feature_distance(judged, [feature.detach().chunk(2)[0] for feature in seen]))
    return {name: torch.stack(each).mean() for name, each in losses.items()}


def _feature_distance(judged: list[torch.Tensor], seen: list[torch.Tensor]) -> torch.Tensor:
    with torch.autocast(judged[0].device.type, enabled=False):  # it would first copy all features to float32
        distances = torch.stack([F.l1_loss(a, b) for a, b in zip(judged, seen, strict=True)])
        sizes = torch.stack([b.abs().mean() for b in seen])
    return (distances.float() / sizes.float().clamp_min(1e-4)).mean()


def _same(kernel: tuple[int, int]) -> tuple[int, int]:
    return kernel[0] // 2, kernel[1] // 2
