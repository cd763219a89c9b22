"""From clips whose words have times, over shards and training, to a release that reads word by word."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import add_recording
from tiny_run import tokenize_here

from triforce.flows.speech.speaker import SpeakConfig, Speaker
from triforce.ingest import storage
from triforce.ingest.corpus.store import Corpus
from triforce.models.audio.mel import MelConfig
from triforce.models.dvae import DVAE, DVAEConfig
from triforce.models.footprint import footprint
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.reading.interleave import codes_before, interleave, reading_weights
from triforce.models.reading.phonemes import BOUNDARY, PhonemeTokenizer
from triforce.models.release import Release
from triforce.models.release_files import load_card, load_stage, load_tokenizer_of, require_dvae, stage_files
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.inspect.verify import verify_tokens
from triforce.tokenize.shards import load_tokenizer
from triforce.train.config import train_config
from triforce.train.data.order import Place
from triforce.train.data.tokens.token_store import Where
from triforce.train.launch.worker import write_release
from triforce.train.tasks.gpt import GPTTask
from triforce.train.tasks.registry import input_hashes
from triforce.train.trainer.loop import Trainer


def tokenize(folder: Path, name: str, **settings) -> TokenizeConfig:
    places = {"corpus": str(folder / "corpus"), "release": str(folder / "release"), "tokens": str(folder / name)}
    config = TokenizeConfig(clips_per_shard=8, **places, **settings)
    tokenize_here(config)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Sixteen timed clips of two speakers and eight that are not, a dVAE, and shards of phonemes and of BPE."""
    folder = tmp_path_factory.mktemp("readings")
    corpus = Corpus(str(folder / "corpus"))
    for number in range(3):
        add_recording(corpus, "feed", str(number), 8, seed=number, timed=number < 2)
    torch.manual_seed(0)
    dvae = DVAE(DVAEConfig(hidden=16, stem=16, num_blocks=1, num_outer_blocks=0, fsq_levels=(4, 4, 4)))
    dvae.set_statistics(torch.full((100,), -2.5), torch.full((100,), 2.0))
    card = {"mel": MelConfig().model_dump(mode="json")}
    for name, data in stage_files("dvae", dvae.eval(), card).items():
        storage.write_bytes(folder / "release/dvae" / name, data)
    tokenize(folder, "tokens", text="phonemes")
    tokenize(folder, "bpe", text_vocabulary_size=256)
    return folder


def make_config(folder: Path, layouts: dict[str, float], tokens: str = "tokens", **settings):
    places = {"release": str(folder / "release"), "runs": "x", "tokens": str(folder / tokens)}
    shape = {"num_layers": 2, "width": 32, "num_heads": 2}
    fields = {"batch_size": 2, "context": 256, "validation_share": 0.0, "eval_clips": 4, "model": shape}
    return train_config(stage="gpt", layouts=layouts, **(places | fields | settings))


def make_task(folder: Path, layouts: dict[str, float], **settings) -> GPTTask:
    torch.manual_seed(0)
    return GPTTask(make_config(folder, layouts, **settings), Place(0, 1), torch.device("cpu"))


def test_shards_of_phonemes_carry_words_and_are_verified(folder):
    places = {"corpus": str(folder / "corpus"), "release": str(folder / "release")}
    assert not verify_tokens(str(folder / "tokens"), recompute=2, **places).faults
    with pytest.raises(ValueError, match="begun with text phonemes, this run has bpe"):
        tokenize(folder, "tokens")
    with pytest.raises(ValueError, match="begun with text bpe, this run has characters"):
        tokenize(folder, "bpe", text="characters")
    task = make_task(folder, {"text>speech": 1}, tokens="bpe")
    assert "words" not in task.store.sample(Where(0, 0)).metadata


def test_readings_are_of_the_clips_codes_words_and_times(folder):
    task = make_task(folder, {"text>reading": 1, "speech>text": 1, "voice+text>reading": 1}, spelled_share=0.5)
    vocabulary, reader = task.model.config.vocabulary, PhonemeTokenizer()
    assert task.model.config.pointer
    kinds, spelt = set(), 0
    for position in range(96):
        segments = task.documents.segments(position)
        sample = task.store.sample(Where(*task.documents.order(position)))
        ids, weights = task.documents.tokens(segments)
        assert len(ids) == len(weights)
        kind = ">".join(segment.modality for segment in segments)
        kinds.add(kind)
        if not sample.metadata.get("words"):
            assert kind == "speech>text"
            continue
        pieces = reader.split(next(segment.codes for segment in segments if segment.modality == "text"))
        spelt += not np.array_equal(np.concatenate(pieces), sample.text)
        for word, form in zip(pieces, reader.words(sample.metadata["text"]), strict=True):
            assert any(np.array_equal(word, each) for each in form)
        if segments[-1].modality == "reading":
            starts = np.array([start for _, start, _ in sample.metadata["words"]])
            before = codes_before(starts, sample.codes.size, 24_000 / 256 / 4)
            flat = np.concatenate(pieces)
            expected = interleave(sample.codes, flat, before.repeat([len(each) for each in pieces]), 64)
            # The rate is taken from the clip's own length, which may move a code over a word's start.
            assert abs(np.flatnonzero(segments[-1].codes == 64) - np.flatnonzero(expected == 64)).max() <= 1
            assert sorted(segments[-1].codes) == sorted(expected)
            assert weights[-1] == 0
            assert weights[-len(expected) - 3 : -1].sum() == reading_weights(expected, 64).sum()
    assert kinds == {"text>reading", "speech>text", "voice>text>reading"}
    assert spelt > 30
    assert task.documents.num_untimed > 0
    unseen = task._documents(lambda _: True, as_it_is=True)
    for position in range(24):
        text = next(s.codes for s in unseen.segments(position) if s.modality == "text")
        np.testing.assert_array_equal(text, task.store.sample(Where(*unseen.order(position))).text)
    assert vocabulary.modality("reading").interleaves == "text"


def test_hidden_texts_leave_the_begins_of_words(folder):
    task = make_task(folder, {"text>reading": 1}, text_dropout=0.5)
    found = [s for s in map(task.documents.segments, range(24)) if s]
    kinds = [">".join(segment.modality for segment in segments) for segments in found]
    assert set(kinds) == {"reading", "text>reading"}
    for kind, segments in zip(kinds, found, strict=True):
        pieces = segments[-1].codes[segments[-1].codes >= 64] - 64
        assert (pieces == BOUNDARY).sum() == 4
        assert (pieces == BOUNDARY).all() == (kind == "reading")


def test_readings_need_words_kept_apart(folder):
    with pytest.raises(ValueError, match="--set text=phonemes"):
        make_task(folder, {"text>reading": 1}, tokens="bpe")


def test_a_release_reads_word_by_word(folder):
    optimizer = {"learning_rate": 3e-3, "warmup_steps": 5}
    config = make_config(
        folder, {"text>reading": 1}, max_steps=12, eval_every=12, text_dropout=0.1, optimizer=optimizer
    )
    torch.manual_seed(0)
    trainer = Trainer(GPTTask(config, Place(0, 1), torch.device("cpu")), config)
    trainer.fit(lambda *_: None, lambda _: None)
    assert trainer.state.history[-1]["train/loss"] < trainer.state.history[0]["train/loss"]
    inputs = {"dvae": require_dvae(config.release).hash}
    write_release(trainer, trainer.task, config, {"run_name": "gpt-test", "inputs": inputs})
    release = Release.load(str(folder / "release"), precision="float32")  # else rounding decides between near codes
    assert release.reads
    texts = ["One, two; Xyzzy é 3!", "In 1984 it was $5."]
    sampling = SamplingConfig(num_candidates=2, max_codes_per_word=6, guidance=1.5)
    both = release.draw_all(texts, seeds=[3, 4], sampling=sampling)
    for text, seed, candidates in zip(texts, (3, 4), both, strict=True):
        assert [len(candidate.units) for candidate in candidates] == [len(release.tokenizer.words(text))] * 2
        alone = release.draw(text, seed=seed, sampling=sampling)
        for one, other in zip(alone, candidates, strict=True):
            np.testing.assert_array_equal(one.codes, other.codes)
    voice = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    speech = release.speak(texts[0], voice=voice, sampling=sampling)
    assert speech.reached_end
    assert speech.waveform.size > 1000
    spoken = Speaker(release, SpeakConfig(sampling=sampling, rank="likeliest")).speak("Привет, 3 dogs!")
    assert spoken.reached_end
    with pytest.raises(ValueError, match="nothing to say"):
        release.draw("Привет")


@pytest.fixture(scope="module")
def base(folder) -> str:
    """A release that reads."""
    config = make_config(folder, {"text>reading": 1}, max_steps=2, eval_every=2, text_dropout=0.2)
    trainer = Trainer(GPTTask(config, Place(0, 1), torch.device("cpu")), config)
    trainer.fit(lambda *_: None, lambda _: None)
    uri = str(folder / "base")
    shutil.copytree(folder / "release/dvae", folder / "base/dvae")
    inputs = {"dvae": require_dvae(uri).hash}
    write_release(
        trainer, trainer.task, config.model_copy(update={"release": uri}), {"run_name": "b", "inputs": inputs}
    )
    return uri


def go_on(folder: Path, base: str, **settings):
    places = {"release": str(folder / "release"), "runs": str(folder / "runs"), "tokens": str(folder / "tokens")}
    fields = {"batch_size": 2, "max_steps": 3, "eval_every": 3, "validation_share": 0.0, "eval_clips": 4}
    return train_config(stage="gpt", init_from=base, **(places | fields | settings))


def test_a_release_goes_on_reading_as_it_was_made_to(folder, base):
    tokenize(folder, "own", init_from=base)
    assert load_tokenizer(str(folder / "own")).to_json() == load_tokenizer_of(base).to_json()
    config = go_on(folder, base, tokens=str(folder / "own"), model={"dropout": 0.3})
    assert (config.layouts, config.context, config.text_dropout) == ({"text>reading": 1.0}, 256, 0.2)
    assert go_on(folder, base, layouts={"speech>text": 1}).layouts == {"speech>text": 1.0}
    begun = load_stage(base, "gpt")
    assert GPTTask.describe(config) == str(footprint(begun.model.config, config.context, config.part_size))
    trainer = Trainer(GPTTask(config, Place(0, 1), torch.device("cpu")), config)
    model = trainer.task.model
    assert model.config == begun.model.config.model_copy(update={"dropout": 0.3})
    assert all(torch.equal(tensor, begun.model.state_dict()[name]) for name, tensor in model.state_dict().items())
    inputs = input_hashes(config)
    assert inputs["init_from"] == begun.hash
    trainer.fit(lambda *_: None, lambda _: None)
    write_release(trainer, trainer.task, config, {"run_name": config.run_name(inputs), "inputs": inputs})
    tuned = Release.load(config.release)
    assert tuned.reads
    assert load_card(config.release, "gpt")["hash"] != begun.hash
    # A release whose card says no more than its layouts, as those have that were trained without a config.
    path = Path(base) / "gpt/config.json"
    card = json.loads(path.read_text())
    shutil.copytree(base, folder / "bare")
    (folder / "bare/gpt/config.json").write_text(json.dumps({k: v for k, v in card.items() if k != "training"}))
    assert go_on(folder, str(folder / "bare")).layouts == {"text>reading": 1.0}


def test_a_release_that_does_not_fit_the_shards_is_refused(folder, base):
    with pytest.raises(ValueError, match=r"another text front end than .*base reads; .*--set init_from="):
        input_hashes(go_on(folder, base, tokens=str(folder / "bpe")))
    with pytest.raises(ValueError, match=r"model.width 96: the GPT of init_from .* has 32; leave it out"):
        input_hashes(go_on(folder, base, model={"width": 96}))
    with pytest.raises(ValueError, match="its text front end is used; leave text"):
        TokenizeConfig(corpus="c", release="r", tokens="t", init_from=base, text="phonemes")
    with pytest.raises(ValueError, match="begun with text bpe, this run has phonemes"):
        tokenize(folder, "bpe", init_from=base)
    other = folder / "other"
    shutil.copytree(base, other)
    card = json.loads((other / "gpt/config.json").read_text())
    (other / "gpt/config.json").write_text(json.dumps(card | {"dvae_hash": "0" * 64}))
    with pytest.raises(ValueError, match=r"the GPT of init_from .*other knows those of 000000000000: tokenize with"):
        input_hashes(go_on(folder, str(other)))
