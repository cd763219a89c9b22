"""For every drop reason a clip that triggers it and one that just does not, and judging a corpus again."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triforce.ingest import storage
from triforce.ingest.asr.repetition import compression_ratio
from triforce.ingest.asr.writing import plain_words, repeatable_units, spaced_words
from triforce.ingest.clips.filters import TEXT_SCOPES, FilterConfig, drop_reason
from triforce.ingest.clips.refilter import refilter
from triforce.ingest.corpus.records import (
    PUBLISHED,
    RECOGNISER,
    Clip,
    DropReason,
    Media,
    Recording,
    Word,
    make_clip_id,
)
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.encode import encode_flac

RECORDING = Recording("aa", "talks", "files", "aa", "https://example.org/aa")


def _words(start_s: float, end_s: float) -> tuple[Word, ...]:
    """The first word begins at ``start_s``, the last ends at ``end_s``."""
    return Word(" Nobody", start_s, 0.6, 0.9), Word(" find.", 5.5, end_s, 0.9)


GOOD = Clip.cut(
    RECORDING,
    0,
    6 * 24_000,
    24_000,
    text="Nobody knew how long the journey would take, or what they would find.",
    language="en",
    language_probability=0.99,
    words=_words(0.2, 5.8),
    avg_logprob=-0.2,
    no_speech_prob=0.01,
    compression_ratio=1.2,
    chars_per_s=12.0,
    snr_db=30.0,
    bandwidth_hz=8_000.0,
    clipped_share=0.0,
    rms_dbfs=-20.0,
    modulation_db=9.0,
    edge_db=-30.0,
    cut_blind=False,
    voice_similarity=0.9,
    dnsmos_ovrl=3.2,
)
AT_EDGE, NEAR_EDGE = _words(0.04, 5.8), _words(0.06, 5.94)

CASES = [
    (DropReason.TOO_SHORT, {"duration_s": 2.99}, {"duration_s": 3.0}),
    (DropReason.TOO_LONG, {"duration_s": 20.1}, {"duration_s": 20.0}),
    (DropReason.CUT_WORD, {"words": AT_EDGE, "edge_db": -5.0}, {"words": NEAR_EDGE, "edge_db": -5.0}),
    (DropReason.CUT_WORD, {"words": AT_EDGE, "edge_db": -5.9}, {"words": AT_EDGE, "edge_db": -6.1}),
    (DropReason.CUT_WORD, {"cut_blind": True}, {"cut_blind": None}),
    (DropReason.NO_TEXT, {"text": " ... "}, {"text": "No."}),
    (
        DropReason.NO_SPEECH,
        {"no_speech_prob": 0.61, "avg_logprob": -1.01},
        {"no_speech_prob": 0.61, "avg_logprob": -0.99},
    ),
    (DropReason.LOW_CONFIDENCE, {"avg_logprob": -1.01}, {"avg_logprob": -1.0}),
    (DropReason.REPETITION, {"compression_ratio": 2.41}, {"compression_ratio": 2.4}),
    (DropReason.REPETITION, {"text": "go on and stop " + "go " * 6}, {"text": "go on and stop it " + "go " * 5}),
    (DropReason.LONG_WORD, {"text": "oh " + "a" * 25}, {"text": "oh " + "a" * 24}),
    (DropReason.PHANTOM_PHRASE, {"text": "Thanks for watching!"}, {"text": "Thanks for watching the house."}),
    (DropReason.DISAGREEMENT, {"agreement": 0.59}, {"agreement": 0.6}),
    (DropReason.SPEAKING_RATE, {"chars_per_s": 21.1}, {"chars_per_s": 21.0}),
    (DropReason.SPEAKING_RATE, {"chars_per_s": 4.9}, {"chars_per_s": 5.0}),
    (DropReason.WRONG_LANGUAGE, {"language": "de"}, {"language": "fr"}),
    (DropReason.WRONG_LANGUAGE, {"language_probability": 0.79}, {"language_probability": 0.8}),
    (
        DropReason.WRONG_LANGUAGE,
        {"language_probability": 0.79, "text_source": RECOGNISER},
        {"language_probability": 0.79, "text_source": PUBLISHED},
    ),
    (DropReason.CLIPPED, {"clipped_share": 0.0011}, {"clipped_share": 0.001}),
    (DropReason.NOISY, {"snr_db": 9.9}, {"snr_db": 10.0}),
    (DropReason.MUSIC, {"modulation_db": 3.4}, {"modulation_db": 3.5}),
    (DropReason.MANY_SPEAKERS, {"voice_similarity": 0.69}, {"voice_similarity": 0.7}),
    (DropReason.MANY_SPEAKERS, {"overlap_share": 0.13}, {"overlap_share": 0.12}),
    (DropReason.LOW_DNSMOS, {"dnsmos_ovrl": 2.9}, {"dnsmos_ovrl": 3.0}),
    (DropReason.NARROW_BAND, {"bandwidth_hz": 3_390.0}, {"bandwidth_hz": 3_400.0}),
    (DropReason.QUIET, {"rms_dbfs": -45.1}, {"rms_dbfs": -45.0}),
]
CONFIG = FilterConfig(
    languages=("en", "fr"), min_bandwidth_hz=3_400, min_dnsmos=3.0, min_agreement=0.6, max_overlap_share=0.12
)


def test_no_reason_is_without_its_cases():
    assert {reason for reason, _, _ in CASES} | {DropReason.MARKED_WRONG} == set(DropReason)


def test_a_good_clip_is_kept_and_missing_scores_are_not_judged():
    assert drop_reason(GOOD, CONFIG) is None
    assert drop_reason(Clip.cut(RECORDING, 0, 5 * 24_000, 24_000), CONFIG) is None


@pytest.mark.parametrize(("reason", "bad", "just_good"), CASES)
def test_each_reason_has_its_limit(reason, bad, just_good):
    assert drop_reason(replace(GOOD, **bad), CONFIG) == reason
    assert drop_reason(replace(GOOD, **just_good), CONFIG) is None


def _corpus(folder: Path, rates: list[float]) -> Corpus:
    corpus = Corpus(str(folder))
    audio = Media(encode_flac(np.zeros(2_400, np.int16)))
    for number, name in enumerate(("aa", "bb")):
        recording = replace(RECORDING, recording_id=name, source_id=name, url=f"https://example.org/{name}")
        corpus.write_recording(recording)
        clips = []
        for index, rate in enumerate(rates[number::2]):
            place = {"clip_id": make_clip_id(name, index), "start_sample": index, "end_sample": index + 1}
            clips.append(replace(GOOD, **place, recording_id=name, audio=audio, chars_per_s=rate))
        corpus.write_clips(recording, clips)
    return corpus


def _digest(corpus: Corpus, name: str) -> str:
    return hashlib.sha256(storage.read_bytes(corpus.clips_uri("talks", name))).hexdigest()


def test_refilter_writes_only_what_changed_and_can_be_undone(tmp_path: Path):
    corpus = _corpus(tmp_path, [12.0, 13.0, 18.0, 13.0])
    before = {name: _digest(corpus, name) for name in ("aa", "bb")}
    strict = FilterConfig(max_chars_per_s=15)

    assert refilter(corpus, FilterConfig()).num_rows == 0
    assert refilter(corpus, strict, dry_run=True).num_rows == 1
    assert {name: _digest(corpus, name) for name in before} == before

    changes = refilter(corpus, strict).to_pylist()
    assert [(row["clip_id"], row["before"], row["after"]) for row in changes] == [
        (make_clip_id("aa", 1), None, "speaking_rate")
    ]
    assert _digest(corpus, "bb") == before["bb"]
    assert corpus.clips(["clip_id"], kept_only=True).num_rows == 3

    assert refilter(corpus, FilterConfig()).to_pylist()[0]["after"] is None
    assert _digest(corpus, "aa") == before["aa"]


def test_refilter_drops_the_rates_that_are_unusual_in_a_source_of_enough_clips(tmp_path: Path):
    usual = [12.0 + index % 5 * 0.2 for index in range(22)]
    changes = refilter(_corpus(tmp_path / "many", [*usual, 20.0]), FilterConfig(max_rate_iqr=1.5)).to_pylist()
    assert [row["after"] for row in changes] == ["speaking_rate"]
    assert refilter(_corpus(tmp_path / "few", [*usual[:10], 20.0]), FilterConfig(max_rate_iqr=1.5)).num_rows == 0


CHINESE = "我们今天要讨论的是城市交通的未来，以及它会怎样改变人们的生活方式。"
JAPANESE = "今日は町の交通のこれからと、それが人々の暮らしをどのように変えるかについて話します。"
KOREAN = "오늘 우리는 도시 교통의 미래와 그것이 사람들의 삶을 어떻게 바꿀지 이야기하려고 합니다."
THAI = "วันนี้เราจะพูดถึงอนาคตของการเดินทางในเมืองและผลที่มีต่อชีวิตของผู้คน"
HINDI = "आज हम शहर के यातायात के भविष्य के बारे में बात करेंगे और यह लोगों के जीवन को कैसे बदलेगा।"
RUSSIAN = "Сегодня мы поговорим о будущем городского транспорта и о том, как он изменит жизнь людей."
ARABIC = "سنتحدث اليوم عن مستقبل النقل في المدينة وكيف سيغير حياة الناس."
GERMAN = "Die Rechtsschutzversicherungsgesellschaften und die Geschwindigkeitsbegrenzung waren das Thema."
FINNISH = "Lentokonesuihkuturbiinimoottoriapumekaanikko kertoi tästä eilen illalla."


def heard(text: str, language: str, chars_per_s: float) -> Clip:
    ratio = compression_ratio(text)
    return replace(GOOD, text=text, language=language, chars_per_s=chars_per_s, compression_ratio=ratio)


@pytest.mark.parametrize(
    ("text", "language", "chars_per_s"),
    [
        (CHINESE, "zh", 4.7),
        (CHINESE, "zh", 3.0),
        (CHINESE + "AI" + CHINESE, "zh", 4.7),
        (JAPANESE, "ja", 6.0),
        (KOREAN, "ko", 6.0),
        (THAI, "th", 12.0),
        (HINDI, "hi", 12.0),
        (HINDI * 2, "hi", 12.0),
        (RUSSIAN * 2, "ru", 14.0),
        (ARABIC, "ar", 9.0),
        (GERMAN, "de", 15.0),
        (FINNISH, "fi", 13.0),
        (GERMAN, None, 15.0),
    ],
)
def test_speech_in_any_script_is_kept(text, language, chars_per_s):
    assert drop_reason(heard(text, language, chars_per_s), FilterConfig()) is None


@pytest.mark.parametrize(
    ("reason", "clip"),
    [
        (DropReason.SPEAKING_RATE, heard(CHINESE, "zh", 1.2)),
        (DropReason.SPEAKING_RATE, heard(CHINESE, "zh", 9.0)),
        (DropReason.SPEAKING_RATE, heard(JAPANESE, "ja", 14.0)),
        (DropReason.REPETITION, heard("我们今天要讨论" * 6, "zh", 4.7)),
        (DropReason.REPETITION, heard("ขอบคุณครับ" * 12, "th", 12.0)),
        (DropReason.REPETITION, heard("и так далее " * 20, "ru", 12.0)),
        (DropReason.LONG_WORD, heard("The Rechtsschutzversicherungsgesellschaften were the topic.", "en", 12.0)),
        (DropReason.LONG_WORD, heard("Das ist " + "abcdefghijklmnopqrstuvwxyz" * 2 + "zyxwvutsrqponmlkji", "de", 12.0)),
        (DropReason.PHANTOM_PHRASE, heard("Untertitelung des ZDF, 2020.", "de", 12.0)),
        (DropReason.PHANTOM_PHRASE, heard("ご視聴ありがとうございました。", "ja", 6.0)),
        (DropReason.NO_TEXT, heard("。。。", "zh", 4.7)),
    ],
)
def test_what_is_wrong_in_another_script_is_still_dropped(reason, clip):
    assert drop_reason(clip, FilterConfig()) == reason


def test_a_clip_in_a_language_that_its_recogniser_does_not_write_is_dropped():
    foreign = replace(GOOD, text=None, words=None, chars_per_s=None, language="de", asr_model="whisper-tiny.en")
    assert drop_reason(foreign, FilterConfig()) == DropReason.WRONG_LANGUAGE
    assert drop_reason(replace(foreign, asr_model=None), FilterConfig()) is None


@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_ascii_are_those_of_any_text(text):
    assert plain_words(text) == plain_words(f"{text} é")[:-1]
    assert repeatable_units(text) == repeatable_units(f"{text} é")[:-1] == spaced_words(text)


def test_every_filter_on_text_says_what_it_holds_for():
    """A filter that drops a good clip for its text, or for a score of it, is one on text."""
    scores = {"text", "chars_per_s", "compression_ratio", "avg_logprob", "agreement"}
    bad_texts = [bad for _, bad, _ in CASES if scores & set(bad)]
    on_text = {drop_reason(replace(GOOD, **bad), CONFIG) for bad in bad_texts} - {DropReason.NO_SPEECH}
    assert on_text | {DropReason.WRONG_LANGUAGE} == set(TEXT_SCOPES)
    page = (Path(__file__).parents[3] / "ingest/README.md").read_text(encoding="utf-8")
    for reason, scope in TEXT_SCOPES.items():
        assert f"| `{reason}` | {scope} |" in page
