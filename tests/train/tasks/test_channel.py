"""Mels as through another microphone: level, tone, band and noise change, of some crops and over all their frames."""

import math

import pytest
import torch

from triforce.models.audio.mel import MelConfig
from triforce.train.tasks.channel import GAIN_NATS, LOWEST_CUT, NOISE_NATS, TONE_NATS, jitter_channel

FLOOR = MelConfig().log_floor


@pytest.fixture(scope="module")
def mels() -> tuple[torch.Tensor, torch.Tensor]:
    """Mels far above the floor, and what becomes of them."""
    torch.manual_seed(0)
    mel = torch.randn(400, 100, 8) * 0.5
    return mel, jitter_channel(mel, 0.5, FLOOR)


def test_a_share_of_the_crops_is_changed_and_the_others_are_as_they_were(mels):
    before, after = mels
    same = (before == after).all(2).all(1)
    assert 0.4 < float(same.float().mean()) < 0.6
    torch.manual_seed(0)
    torch.randn(400, 100, 8)
    assert torch.equal(jitter_channel(before, 0.5, FLOOR), after)


def test_a_change_is_the_same_in_all_frames_and_within_its_bounds(mels):
    before, after = mels
    low = (after - before)[:, : int(LOWEST_CUT * 100) - 1]  # below every cut, where noise adds next to nothing
    assert float(low.std(2).max()) < 0.15
    assert 0.5 * GAIN_NATS < float(low.abs().mean(2).max()) < GAIN_NATS + TONE_NATS + 0.1
    assert 0 < float(low.mean(2).diff(dim=1).abs().mean()) < 2 * TONE_NATS / (99 / 5)  # tone is smooth


def test_some_bands_end_and_silence_gets_noise_but_never_less_than_the_floor(mels):
    _, after = mels
    assert 0.05 < float((after[:, -1].amax(1) < FLOOR + NOISE_NATS + 0.1).float().mean()) < 0.3
    silence = torch.full((400, 100, 8), FLOOR)
    heard = jitter_channel(silence, 1.0, FLOOR)
    assert float(heard.min()) > FLOOR - 1e-6
    loudest = 0.5 * math.log(math.exp(2 * NOISE_NATS) + math.exp(2 * (GAIN_NATS + TONE_NATS)))
    assert 1.5 < float(heard.max()) - FLOOR < loudest + 0.01
