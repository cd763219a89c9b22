"""Other microphones, levels and lines, drawn in the mel domain: what a dVAE must not take for the voice."""

from __future__ import annotations

import torch

GAIN_NATS = 0.7
"""Largest change of level: 6 dB. Assumed, as are the others."""
TONE_NATS = 0.35
"""Largest change of tone at each of `NUM_KNOTS` places of the mel scale, between which it is linear: 3 dB."""
NUM_KNOTS = 6
BAND_SHARE = 0.3
"""Share of the changed crops that lose what is above some bin, as MP3, Opus and telephones cut it off."""
LOWEST_CUT = 0.6
"""Lowest such bin, as a share of all bins: 3.8 kHz of 12."""
NOISE_NATS = 2.3
"""Highest level of steady noise above the mel's floor: 20 dB."""


def jitter_channel(mel: torch.Tensor, share: float, log_floor: float) -> torch.Tensor:
    """Change level, tone, band and noise of a ``share`` of log-mels ``(B, num_mels, T)``, each over all its frames.

    Draws from torch's generator of the device, and waits for no GPU.
    """
    batch, bins, _ = mel.shape

    def drawn(count: int, low: float, high: float) -> torch.Tensor:
        return torch.rand(batch, 1, count, device=mel.device) * (high - low) + low

    tone = torch.nn.functional.interpolate(
        drawn(NUM_KNOTS, -TONE_NATS, TONE_NATS), bins, mode="linear", align_corners=True
    ).transpose(1, 2)
    changed = mel + tone + drawn(1, -GAIN_NATS, GAIN_NATS)
    cut = torch.where(drawn(1, 0, 1) < BAND_SHARE, drawn(1, LOWEST_CUT, 1) * bins, float(bins))
    above = torch.arange(bins, device=mel.device)[:, None] >= cut
    changed = torch.where(above, log_floor, changed)
    noise = drawn(1, log_floor - NOISE_NATS, log_floor + NOISE_NATS)
    changed = 0.5 * torch.logaddexp(2 * changed, 2 * noise)  # magnitudes of what is independent add in squares
    return torch.where(drawn(1, 0, 1) < share, changed, mel).clamp_min(log_floor)
