"""The vocoder: fitted to a corpus, held by the release, and of the published family."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_run
import torch
from corpora import add_recording, sweep

from triforce.ingest.corpus.store import Corpus
from triforce.models.audio.mel import MelConfig, log_mel
from triforce.models.audio.vocoder import GriffinLim, make_vocoder
from triforce.models.audio.vocos import NeuralVocoder, Vocos, VocosConfig
from triforce.models.release import Release
from triforce.models.release_files import load_stage
from triforce.train.config import train_config
from triforce.train.data.order import Place
from triforce.train.launch.worker import write_release
from triforce.train.tasks.registry import input_hashes, make_task
from triforce.train.tasks.vocoder import adversarial_losses
from triforce.train.trainer.loop import Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vocoder")
    add_recording(Corpus(str(folder / "corpus")), "feed", "a", 6, seed=1)
    tiny_run.write_release(folder / "release")
    return folder


def make_trainer(folder: Path, **settings) -> Trainer:
    config = train_config(
        stage="vocoder",
        release=str(folder / "release"),
        runs=str(folder / "runs"),
        corpus=str(folder / "corpus"),
        model={"hidden": 64, "inner": 128, "num_blocks": 2},
        **({"batch_size": 4, "crop_frames": 33, "eval_clips": 2, "log_every": 1, "eval_every": 1000} | settings),
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


def test_discriminators_and_vocoder_pull_apart_in_one_step(folder):
    trainer = make_trainer(folder, loss_weights={"adversarial": 1.0})
    networks = trainer.task.model
    made = torch.randn(2, 4096).mul(0.1).requires_grad_()
    losses = adversarial_losses(
        networks.discriminators, made, torch.from_numpy(sweep(0.5, 3))[None, :4096].repeat(2, 1)
    )
    weights = networks.discriminators[0].out.weight
    assert torch.autograd.grad(losses["discriminator"], made, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(losses["adversarial"], weights, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(losses["adversarial"], made, retain_graph=True)[0].abs().sum() > 0
    assert torch.autograd.grad(losses["discriminator"], weights)[0].abs().sum() > 0
    before = weights.detach().clone()
    first = trainer.step(0.0)
    assert {"train/mel", "train/stft", "train/adversarial", "train/discriminator", "train/features"} <= set(first)
    assert not torch.equal(before, networks.discriminators[0].out.weight)
    assert trainer.task.released(trainer.ema) is trainer.ema.vocoder


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
