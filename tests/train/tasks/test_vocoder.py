"""The vocoder: fitted to a corpus, held by the release, and of the published family."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_run
import torch
from corpora import add_recording, sweep

from triforce.ingest.corpus.store import Corpus
from triforce.models.audio.mel import MelConfig, log_mel
from triforce.models.audio.vocoder import GriffinLim, make_vocoder
from triforce.models.audio.vocos import (
    NeuralVocoder,
    Pitch,
    Vocos,
    VocosConfig,
    inverse_stft,
    source_phases,
    source_turns,
)
from triforce.models.release import Release
from triforce.models.release_files import load_stage
from triforce.train.config import train_config
from triforce.train.data.base import SoundBatch
from triforce.train.data.crops import ClipCrops
from triforce.train.data.order import Place
from triforce.train.launch.worker import write_release
from triforce.train.tasks.registry import input_hashes, make_task
from triforce.train.tasks.vocoder import VocoderTask
from triforce.train.tasks.vocoder_losses import PitchLoss, adversarial_losses
from triforce.train.trainer.loop import Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vocoder")
    add_recording(Corpus(str(folder / "corpus")), "feed", "a", 6, seed=1)
    tiny_run.write_release(folder / "release")
    return folder


SETTINGS = {
    "model": {"hidden": 64, "inner": 128, "num_blocks": 2},
    "batch_size": 4,
    "crop_frames": 33,
    "eval_clips": 2,
    "log_every": 1,
    "eval_every": 1000,
}
HARMONIC = {"hidden": 32, "inner": 64, "num_blocks": 1, "harmonics": True}


def make_trainer(folder: Path, **settings) -> Trainer:
    config = train_config(
        stage="vocoder",
        release=str(folder / "release"),
        runs=str(folder / "runs"),
        corpus=str(folder / "corpus"),
        **(SETTINGS | settings),
    )
    return Trainer(make_task(config, Place(0, 1), torch.device("cpu")), config)


def mel_error(vocoder, mel: torch.Tensor) -> float:
    again = log_mel(vocoder(mel), MelConfig())
    return float((again[:, : mel.shape[1]] - mel[:, : again.shape[1]]).abs().mean())


def test_it_learns_the_corpus_and_the_release_speaks_with_it(folder):
    trainer = make_trainer(folder, max_steps=120, optimizer={"learning_rate": 3e-3, "warmup_steps": 10})
    mel = log_mel(sweep(1.5, 77), MelConfig())
    untrained = mel_error(NeuralVocoder(trainer.ema.vocoder), mel)
    assert isinstance(Release.load(str(folder / "release")).vocoder, GriffinLim)
    trainer.fit(lambda *_: None, lambda _: None)
    settings = {"run_name": "vocoder-test", "inputs": input_hashes(trainer.config)}
    write_release(trainer, trainer.task, trainer.config, settings)

    release = Release.load(str(folder / "release"))
    assert isinstance(release.vocoder, NeuralVocoder)
    assert release.info()["vocoder"] == load_stage(release.uri, "vocoder").hash
    assert mel_error(release.vocoder, mel) < 0.6 * untrained  # of a sound that it never heard
    assert release.vocode(mel).shape == ((mel.shape[1] - 1) * 256,)
    assert release.vocode(mel[:, :1]).size == 0
    other = Release.load(release.uri, vocoder="griffin-lim")
    assert isinstance(other.vocoder, GriffinLim)
    assert other.info()["vocoder"] == "griffin-lim"


def test_training_goes_on_from_another_releases_vocoder(folder, tmp_path):
    first = make_trainer(folder, max_steps=6, optimizer={"learning_rate": 3e-3})
    first.fit(lambda *_: None, lambda _: None)
    write_release(first, first.task, first.config, {"run_name": "first", "inputs": input_hashes(first.config)})
    base = shutil.copytree(folder / "release", tmp_path / "base")

    again = make_trainer(folder, init_from=str(base))
    for name, tensor in first.ema.vocoder.state_dict().items():
        assert torch.equal(again.task.model.vocoder.state_dict()[name], tensor), name
    assert all(parameter.requires_grad for parameter in again.task.model.parameters())
    assert input_hashes(again.config)["init_from"] == load_stage(str(base), "vocoder").hash
    with pytest.raises(ValueError, match=r"model\.hidden 32: the vocoder of init_from .* has 64; give the same"):
        make_trainer(folder, init_from=str(base), model=SETTINGS["model"] | {"hidden": 32})
    with pytest.raises(ValueError, match="the release that is written"):
        make_trainer(folder, init_from=str(folder / "release"))
    small = train_config(stage="vocoder", size="small", corpus="c", release="r", runs="x", init_from=str(base))
    assert small.model == first.ema.vocoder.config  # no shape is asked for
    (base / "vocoder/config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no vocoder/config\.json there"):
        make_trainer(folder, init_from=str(base))
    shutil.rmtree(folder / "release/vocoder")


def test_discriminators_and_vocoder_pull_apart_in_one_step(folder):
    trainer = make_trainer(folder, loss_weights={"adversarial": 1.0}, periods=[2, 3])
    networks = trainer.task.model
    made = torch.randn(2, 4096).mul(0.1).requires_grad_()
    losses = adversarial_losses(
        networks.discriminators, made, torch.from_numpy(sweep(0.5, 3))[None, :4096].repeat(2, 1)
    )
    assert len(networks.discriminators) == 5
    before = {}
    for name, weight in networks.discriminators.named_parameters():
        for loss in ("adversarial", "features"):
            assert torch.autograd.grad(losses[loss], weight, retain_graph=True, allow_unused=True) == (None,), name
        assert torch.autograd.grad(losses["discriminator"], weight, retain_graph=True)[0].abs().sum() > 0, name
        before[name] = weight.detach().clone()
    assert torch.autograd.grad(losses["discriminator"], made, retain_graph=True, allow_unused=True) == (None,)
    for loss in ("adversarial", "features"):
        assert torch.autograd.grad(losses[loss], made, retain_graph=True)[0].abs().sum() > 0
    first = trainer.step(0.0)
    assert {"train/mel", "train/stft", "train/adversarial", "train/discriminator", "train/features"} <= set(first)
    for name, now in networks.discriminators.named_parameters():
        # The pulls of real and made sound on the last bias are equal until one of them is told apart.
        assert name.endswith("out.bias") or not torch.equal(before[name], now), name
    assert trainer.task.released(trainer.ema) is trainer.ema.vocoder


def test_losses_fall_with_the_discriminators_on(folder):
    rates = {"learning_rate": 2e-3, "warmup_steps": 1, "decay_share": 0}
    settings = {"loss_weights": {"adversarial": 0.1}, "periods": [3], "batch_size": 2, "crop_frames": 17}
    trainer = make_trainer(folder, optimizer=rates, **settings)
    waveform, mel = trainer.task.next_batch()
    trainer.task.next_batch = lambda: (waveform, mel)
    steps = [trainer.step(0.0) for _ in range(10)]
    for name in ("mel", "stft", "discriminator"):
        assert steps[-1][f"train/{name}"] < 0.9 * steps[0][f"train/{name}"], name


def test_a_share_of_the_mels_is_decoded_by_the_frozen_dvae(folder):
    trainer = make_trainer(folder, decoded_share=0.5)
    task = trainer.task
    mels = task.crops.sounds(Place(0, 1), 4).mel
    waveform, shown = task.next_batch()
    sizes = torch.tensor([[33]] * 4)
    decoded = task.dvae.decode(task.dvae.encode(mels, sizes), sizes)
    torch.testing.assert_close(shown[:2], decoded[:2])
    torch.testing.assert_close(shown[2:], mels[2:])
    assert not torch.allclose(decoded[:2], mels[:2], atol=0.1)
    torch.testing.assert_close(log_mel(waveform, MelConfig()), mels)  # the sound to reach stays the true one
    assert not any(parameter.requires_grad for parameter in task.dvae.parameters())
    assert {"l1_nats", "l1_decoded_nats"} == set(task.evaluate(trainer.ema))
    assert set(input_hashes(trainer.config)) == {"corpus", "dvae"}


def test_crops_that_know_their_decodes_need_no_dvae(folder):
    class Known(ClipCrops):
        def sounds(self, place: Place, count: int) -> SoundBatch:
            found = super().sounds(place, count)
            return found._replace(decoded=found.mel + 1)

    config = make_trainer(folder, decoded_share=1).config
    crops = Known(config, MelConfig(), torch.device("cpu"))
    task = VocoderTask(config, Place(0, 1), torch.device("cpu"), crops=crops)
    waveform, mel = task.next_batch()
    torch.testing.assert_close(mel, log_mel(waveform, MelConfig()) + 1)


@pytest.mark.parametrize(("n_fft", "hop_length"), [(1024, 256), (512, 150)])
def test_the_inverse_stft_is_that_of_torch(n_fft, hop_length):
    window = torch.hann_window(n_fft)
    spectrum = torch.randn(2, n_fft // 2 + 1, 9, dtype=torch.complex64)
    expected = torch.istft(spectrum, n_fft, hop_length, window=window, length=8 * hop_length)
    torch.testing.assert_close(inverse_stft(spectrum.transpose(1, 2), window, hop_length), expected)


def test_the_pitch_is_measured_and_a_source_of_it_keeps_in_step_with_the_sound():
    """A voice that glides: the phases of the sound against those of the source stay what they are, frame by frame."""
    hz = 140 + 30 * torch.sin(2 * torch.pi * 2 * torch.arange(24_000) / 24_000)
    turns = torch.cumsum(hz.double() / 24_000, 0)
    waveform = sum(0.05 / k * torch.cos(2 * torch.pi * k * turns) for k in range(1, 30)).float()[None]
    measure = PitchLoss(24_000, 1024, 256).measure
    log_bins, voiced = measure(waveform)
    inner = slice(5, -5)
    torch.testing.assert_close(log_bins.exp()[0, inner] * 24_000 / 1024, hz[::256][inner], rtol=0.005, atol=0)
    assert voiced.all()
    assert measure(torch.randn(1, 24_000).mul(0.1))[1].mean() < 0.1
    assert not measure(torch.zeros(1, 24_000))[1].any()

    spectrum = torch.stft(waveform, 1024, 256, window=torch.hann_window(1024), return_complex=True)[0].T
    turns = source_turns(Pitch(log_bins, voiced), 1024, 256)
    noise = torch.rand(1, *spectrum.shape, generator=torch.Generator().manual_seed(1))
    offset = spectrum.angle() - source_phases(Pitch(log_bins, voiced), turns, noise)[0]
    drift = torch.polar(spectrum.abs(), offset)[inner]
    drift = (drift[1:] * drift[:-1].conj())[:, 3:40]
    loud = drift.abs() > 0.1 * drift.abs().amax(1, keepdim=True)
    assert drift.angle().abs()[loud].median() < 0.1
    assert source_phases(Pitch(log_bins, -voiced), turns, noise).std() > 1.5


def test_a_network_with_harmonics_learns_the_pitch_and_repeats_with_its_seed(folder, tmp_path):
    rates = {"learning_rate": 2e-3, "warmup_steps": 1, "decay_share": 0}
    trainer = make_trainer(folder, optimizer=rates, model=HARMONIC, decoded_share=0.5)
    batch = trainer.task.next_batch()
    trainer.task.next_batch = lambda: batch
    steps = [trainer.step(0.0) for _ in range(30)]
    assert steps[-1]["train/pitch"] < 0.8 * steps[0]["train/pitch"]
    mel = log_mel(torch.randn(24_000).mul(0.1), MelConfig())
    vocoder = trainer.ema.vocoder
    vocoder.pitch.out.bias[1] = -1e3  # nothing is voiced
    vocode = NeuralVocoder(vocoder)
    assert torch.equal(vocode(mel, seed=1), vocode(mel, seed=1))
    assert not torch.equal(vocode(mel, seed=1), vocode(mel, seed=2))


def test_a_step_is_one_graph(folder):
    """What torch.compile takes whole has no read-back from the device and no branch on a value."""
    trainer = make_trainer(
        folder, loss_weights={"adversarial": 0.1}, periods=[3], batch_size=2, crop_frames=17, model=HARMONIC
    )
    del trainer.task.model.discriminators[1:3]  # of each kind one
    batch = trainer.task.next_batch()
    compiled = torch.compile(trainer.module, fullgraph=True, backend="aot_eager")
    losses = []
    for function in (compiled, trainer.task.loss):
        torch.manual_seed(0)
        losses.append(function(batch)[0])
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
    loss = losses[0]
    loss.backward()


def test_published_weights_load_and_what_does_not_fit_is_refused(tmp_path):
    """The layout of the published files; a network of the same shape stands in for the weights themselves."""
    torch.manual_seed(0)
    model = Vocos(VocosConfig(hidden=32, inner=48, num_blocks=2))
    weights = model.state_dict() | {"feature_extractor.mel_spec.spectrogram.window": torch.ones(1024)}
    torch.save(weights | {"head.istft.window": torch.ones(1024)}, tmp_path / "pytorch_model.bin")
    about = """
feature_extractor: {class_path: vocos.feature_extractors.MelSpectrogramFeatures,
  init_args: {sample_rate: 24000, n_fft: 1024, hop_length: 256, n_mels: 100, padding: center}}
backbone: {class_path: vocos.models.VocosBackbone,
  init_args: {input_channels: 100, dim: 32, intermediate_dim: 48, num_layers: 2}}
head: {class_path: vocos.heads.ISTFTHead, init_args: {dim: 32, n_fft: 1024, hop_length: 256, padding: center}}
"""
    (tmp_path / "config.yaml").write_text(about)
    mel = log_mel(sweep(0.5, 1), MelConfig())
    loaded = make_vocoder(str(tmp_path), MelConfig())
    torch.testing.assert_close(loaded(mel), NeuralVocoder(model)(mel))
    with pytest.raises(ValueError, match="sample_rate 24000, this release has 22050"):
        make_vocoder(str(tmp_path), MelConfig(sample_rate_hz=22_050, f_max_hz=11_025))
    (tmp_path / "config.yaml").write_text(about.replace("padding: center}}\n", "padding: same}}\n"))
    with pytest.raises(ValueError, match="centred frames"):
        make_vocoder(str(tmp_path), MelConfig())


def test_a_network_that_is_nowhere_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="or use griffin-lim"):
        make_vocoder("nobody/nothing", MelConfig())
