"""The demo's training, in a few steps: from a release that goes on to learn the demo's speaker, and from nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import add_recording
from tiny_run import tokenize_here, write_release

from triforce.flows.examples.demo.config import DemoConfig
from triforce.flows.examples.demo.run import pipeline_config, run_demo, step_names, take_vocoder
from triforce.flows.examples.timed_steps import Timings, release_hashes
from triforce.flows.jobs.run_stage import run_train
from triforce.ingest.corpus.store import Corpus
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.release import Release
from triforce.models.release_files import load_card
from triforce.models.voice.bundled import has_voice


def train(folder: Path, config: DemoConfig) -> None:
    """The demo's steps from the corpus on, without Ray."""
    pipeline = pipeline_config(folder, config)
    first, *others = config.minutes_of
    run_train(pipeline.train_config(first))
    tokenize_here(pipeline.tokenize_config())
    for stage in others:
        run_train(pipeline.train_config(stage))


@pytest.fixture
def folder(tmp_path) -> Path:
    add_recording(Corpus(str(tmp_path / "corpus")), "feed", "a", 10, timed=True)
    return tmp_path


def test_a_release_goes_on_to_learn_the_speaker(folder):
    base = Release.load(write_release(folder / "base", stages=("dvae", "gpt", "vocoder"), reads=True))
    config = DemoConfig(init_from=base.uri, max_steps=2, teacher=False)
    train(folder, config)
    assert step_names(config)[-5:] == ["train-gpt", "train-vocoder", "speak", "evaluate", "report"]
    release = Release.load(str(folder / "release"))
    assert release.codes_hash == base.codes_hash
    assert release.reads
    assert release.gpt.config.vocabulary.modalities[:3] == base.gpt.config.vocabulary.modalities
    hashes = release_hashes(folder / "release")
    assert not set(hashes.values()) & set(release_hashes(folder / "base").values())
    for stage in ("gpt", "vocoder"):
        assert load_card(release.uri, stage)["inputs"]["init_from"] == load_card(base.uri, stage)["hash"]
    sampling = SamplingConfig(max_codes_per_word=3, guidance=1.5)
    assert release.speak("One, two.", sampling=sampling).reached_end


@pytest.mark.parametrize("has_one", [True, False])
def test_a_vocoder_that_gets_no_minutes_is_taken_as_it_is(folder, has_one):
    stages = ("dvae", "gpt", "vocoder") if has_one else ("dvae", "gpt")
    base = Release.load(write_release(folder / "base", stages=stages, reads=True))
    config = DemoConfig(init_from=base.uri, shares={"dvae": 1, "gpt": 1} if has_one else {})
    assert list(config.minutes_of) == ["dvae", "gpt"]
    names, lines = step_names(config), list[str]()
    assert names[-5:] == ["train-gpt", "vocoder", "speak", "evaluate", "report"]
    for _ in range(2):
        take_vocoder(base.uri, str(folder / "release"), Timings(folder, names, lines.append))
    assert "done before" in lines[-1]
    taken = load_card(str(folder / "release"), "vocoder")
    assert (taken or {}).get("hash") == (base.vocoder_hash if has_one else None)


def test_a_vocoder_with_minutes_needs_one_to_begin_at(folder):
    base = write_release(folder / "base", stages=("dvae", "gpt"), reads=True)
    config = DemoConfig(init_from=base, shares={"dvae": 1, "gpt": 1, "vocoder": 1})
    with pytest.raises(FileNotFoundError, match="leave vocoder out of shares"):
        run_demo(folder / "run", config=config)


def test_all_networks_learn_from_nothing_by_the_same_front_end(folder):
    config = DemoConfig(init_from="scratch", max_steps=1, teacher=False)
    assert list(config.minutes_of) == ["dvae", "gpt", "diffusion"]
    assert "vocoder" not in step_names(config)
    train(folder, config)
    release = Release.load(str(folder / "release"))
    assert release.reads
    assert release.gpt.config.pointer
    assert release.dvae.config.quantizer == "fsq"
    assert release.diffusion is not None


def test_the_minutes_are_divided_by_shares_and_time_ends_the_training():
    assert DemoConfig().init_from == ("voice" if has_voice() else "scratch")
    voice = DemoConfig(minutes=10, init_from="voice")
    assert voice.minutes_of == {"dvae": 4.4, "gpt": 4.3, "vocoder": 1.3}
    shared = DemoConfig(minutes=10, init_from="voice", shares={"gpt": 1, "dvae": 3})
    assert shared.minutes_of == {"dvae": 7.5, "gpt": 2.5}
    for config in (voice, DemoConfig(minutes=10, init_from="scratch")):
        assert sum(recipe["max_minutes"] for recipe in config.recipes.values()) == pytest.approx(10, abs=0.01)
        assert all(recipe["max_steps"] == 20_000 for recipe in config.recipes.values())
    for shares in ({"gpt": 1}, {"dvae": 1, "gpt": 0}, {"dvae": 1, "gpt": 1, "voice": 1}):
        with pytest.raises(ValueError, match="give dvae and gpt a share over 0"):
            DemoConfig(shares=shares)
