import librosa
import numpy as np
import pytest
import torch

from triforce.models.audio.mel import MelConfig, log_mel, mel_filterbank
from triforce.models.audio.vocoder import GriffinLim, invert_mel

CONFIG = MelConfig()


def chirp(duration_s: float = 1.0, rate_hz: int = 24_000) -> np.ndarray:
    """A harmonic sweep with a little noise: every bin has something in it."""
    time = np.arange(int(duration_s * rate_hz)) / rate_hz
    phase = 2 * np.pi * np.cumsum(120 + 60 * np.sin(2 * np.pi * time)) / rate_hz
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 40))
    noise = np.random.default_rng(0).normal(size=time.shape)
    return (0.1 * harmonics + 0.003 * noise).astype(np.float32)


def test_filterbank_is_librosas():
    expected = librosa.filters.mel(sr=24_000, n_fft=1024, n_mels=100, htk=True, norm=None)
    np.testing.assert_allclose(mel_filterbank(CONFIG).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("num_samples", [24_000, 24_001, 25_599, 25_600])
def test_log_mel_is_librosas(num_samples):
    waveform = chirp(2)[:num_samples]
    magnitude = np.abs(librosa.stft(waveform, n_fft=1024, hop_length=256, pad_mode="reflect"))
    filters = librosa.filters.mel(sr=24_000, n_fft=1024, n_mels=100, htk=True, norm=None)
    expected = np.log(np.maximum(filters @ magnitude, CONFIG.floor))
    mel = log_mel(waveform, CONFIG)
    assert mel.shape[1] == CONFIG.num_frames(num_samples)
    np.testing.assert_allclose(mel.numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("num_samples", [0, 1, 255, 256, 513])
def test_very_short_waveforms_have_their_frames(num_samples):
    assert log_mel(np.zeros(num_samples, np.float32), CONFIG).shape == (100, 1 + num_samples // 256)


def test_inverted_mel_has_the_same_mel():
    mel = log_mel(chirp(), CONFIG)
    again = (mel_filterbank(CONFIG) @ invert_mel(mel, CONFIG)).clamp_min(CONFIG.floor).log()
    assert (again - mel).abs().mean() < 0.03


def test_griffin_lim_gives_back_the_mel_and_repeats_with_its_seed():
    mel = log_mel(chirp(), CONFIG)
    vocode = GriffinLim(CONFIG)
    waveform = vocode(mel, seed=1)
    assert len(waveform) == CONFIG.num_samples(mel.shape[1])
    assert (log_mel(waveform, CONFIG) - mel).abs().mean() < 0.25
    assert torch.equal(waveform, vocode(mel, seed=1))
    assert not torch.equal(waveform, vocode(mel, seed=2))


@pytest.mark.parametrize("num_frames", [0, 1, 2, 3, 5])
def test_griffin_lim_of_almost_nothing(num_frames):
    waveform = GriffinLim(CONFIG)(torch.full((100, num_frames), -11.5))
    assert len(waveform) == max(0, num_frames - 1) * 256


def test_bad_settings_name_the_limit():
    with pytest.raises(ValueError, match="at most half of sample_rate_hz"):
        MelConfig(sample_rate_hz=16_000)
    with pytest.raises(ValueError, match=r"give \(100, T\)"):
        GriffinLim(CONFIG)(torch.zeros(80, 10))


def test_what_inference_made_training_can_use():
    """Filters and windows are cached: whoever comes first must not spoil them for the gradient."""
    config = MelConfig(num_mels=37)
    waveform = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        log_mel(waveform, config)
    waveform.requires_grad_()
    log_mel(waveform, config).sum().backward()
    assert waveform.grad is not None
    assert float(waveform.grad.abs().sum()) > 0
