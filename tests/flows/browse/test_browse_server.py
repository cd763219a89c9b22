"""The browse server by HTTP, as its page asks it, and as strangers do."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import tiny_run
import yaml
from loopback_app import running
from mixed_corpus import TITLE, write_heard, write_mixed
from typer.testing import CliRunner

from triforce.flows.browse.server import BrowseConfig, BrowseServer, serve_forever
from triforce.flows.cli.corpus import app
from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.marks import marked_ids
from triforce.ingest.corpus.stats import find_recording
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.takedown import remove
from triforce.tokenize.config import TokenizeConfig


@contextlib.contextmanager
def serving(config: BrowseConfig, key: str | None = None) -> Iterator[str]:
    """The address of a server in a thread."""
    with running(BrowseServer(config).app(key)) as address:
        yield address


@pytest.fixture
def mixed(tmp_path) -> Iterator[tuple[Corpus, httpx.Client]]:
    corpus = write_mixed(tmp_path / "corpus", clips_per_recording=20)
    with serving(BrowseConfig(corpus=corpus.uri)) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield corpus, client


@pytest.fixture(scope="module")
def heard(tmp_path_factory) -> Iterator[tuple[Corpus, httpx.Client]]:
    folder = tmp_path_factory.mktemp("heard")
    corpus = write_heard(folder / "corpus", 4)
    release = tiny_run.write_release(folder / "release", stages=("dvae",))
    places = {"corpus": corpus.uri, "release": release, "tokens": str(folder / "tokens")}
    tiny_run.tokenize_here(TokenizeConfig(**places))
    with serving(BrowseConfig(**places)) as address, httpx.Client(base_url=address, timeout=120) as client:
        yield corpus, client


def listed(client: httpx.Client, **query) -> list[dict]:
    answer = client.post("/api/clips", json=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["clips"]


def test_saved_thresholds_keep_the_hours_that_the_page_showed(mixed, tmp_path):
    corpus, client = mixed
    for clip in listed(client, filters=[{"column": "verdict", "operator": "empty"}], limit=2):
        client.put(f"/api/clips/{clip['clip_id']}/mark", json={"reason": "two people speak"})
    config = {"min_snr_db": 12.0, "max_rate_iqr": 3.0, "languages": ["en", "de"], "min_s": 2.5, "max_s": 25.0}
    shown = client.post("/api/preview", json={"config": config, "border": "min_snr_db"}).json()
    assert 0 < shown["summary"]["num_kept"] < shown["summary"]["num_clips"] == 120
    assert {one["reason"] for one in shown["summary"]["by_reason"]} >= {"marked_wrong", "noisy", "wrong_language"}
    saved = client.post("/api/config", json=config).json()
    assert yaml.safe_load(saved["yaml"]).keys() == FilterConfig.model_fields.keys()
    command = saved["command"].split()
    assert command[:3] == ["triforce", "corpus", "refilter"]

    result = CliRunner().invoke(app, command[2:])
    assert result.exit_code == 0, result.output
    kept = corpus.clips(["duration_s"], kept_only=True)["duration_s"].to_numpy().astype(np.float64)
    assert len(kept) == shown["summary"]["num_kept"]
    assert kept.sum() / 3600 == pytest.approx(shown["summary"]["kept_h"])

    about = client.get("/api/about").json()  # opened again, it begins with what was saved
    assert about["config"] == FilterConfig(**config).model_dump(mode="json")
    assert about["summary"]["num_kept"] == len(kept)
    reasons = {one["reason"]: one["num_clips"] for one in about["summary"]["by_reason"]}
    stored = listed(client, filters=[{"column": "drop_reason", "operator": "is", "value": "noisy"}], limit=500)
    assert len(stored) == reasons["noisy"]


def test_marks_are_made_and_taken_back(mixed):
    corpus, client = mixed
    clip_id = listed(client)[5]["clip_id"]
    source = client.get(f"/api/clips/{clip_id}").json()["clip"]["source"]
    assert client.put(f"/api/clips/{clip_id}/mark", json={"reason": " music "}).json()["mark"]["reason"] == "music"
    assert marked_ids(corpus, source) == {clip_id}
    assert [one["clip_id"] for one in listed(client, filters=[{"column": "marked", "operator": "yes"}])] == [clip_id]
    assert client.get(f"/api/clips/{clip_id}").json()["mark"]["reason"] == "music"
    assert client.put(f"/api/clips/{clip_id}/mark", json={"reason": "x" * 501}).status_code == 400
    assert client.delete(f"/api/clips/{clip_id}/mark").json() == {"mark": None}
    assert marked_ids(corpus, source) == set()
    assert listed(client, filters=[{"column": "marked", "operator": "yes"}]) == []


def test_pages_follow_one_another(mixed):
    _, client = mixed
    query, seen = {"sort": "snr_db", "descending": True, "limit": 50}, []
    for _ in range(3):
        answer = client.post("/api/clips", json=query).json()
        seen += answer["clips"]
        query["after"] = answer["next"]
    assert answer["next"] is None
    assert len({one["clip_id"] for one in seen}) == 120
    scores = [one["scores"]["snr_db"] for one in seen]
    known = [score for score in scores if score is not None]
    assert known == sorted(known, reverse=True)
    assert scores[len(known) :] == [None] * (120 - len(known))


def test_border_clips_change_with_the_threshold(mixed):
    _, client = mixed

    def border(limit: float) -> tuple[list[str], list[str]]:
        config = {"min_snr_db": limit, "max_s": 30, "min_s": 0}
        found = client.post("/api/preview", json={"config": config, "border": "min_snr_db"}).json()["border"]
        assert all(one["scores"]["snr_db"] < limit and one["verdict"] == "noisy" for one in found["outside"])
        assert all(one["scores"]["snr_db"] >= limit and one["verdict"] is None for one in found["inside"])
        return [one["clip_id"] for one in found["inside"]], [one["clip_id"] for one in found["outside"]]

    (inside, outside), (later, dropped) = border(9.9), border(13.0)
    assert inside
    assert set(inside) != set(later)
    assert set(inside) & set(dropped)
    assert set(outside) != set(dropped)


def test_what_is_wrong_is_said(mixed):
    _, client = mixed
    known = listed(client)[0]["clip_id"]
    wrong = (
        ("POST", "/api/clips", {"sort": "text"}, 400, "use a score"),
        ("POST", "/api/clips", {"limit": 5000}, 400, "limit: "),
        ("POST", "/api/clips", {"filters": [{"column": "x", "operator": "is"}]}, 400, "there is none"),
        ("POST", "/api/clips", {"path": "/etc/passwd"}, 400, "path: Extra inputs"),
        ("POST", "/api/preview", {"config": {"min_s": -1}}, 400, "config.min_s: "),
        ("POST", "/api/preview", {"border": "min_x"}, 400, "use one of: min_s"),
        ("POST", "/api/config", {"min_sn": 1}, 400, "min_sn: "),
        ("GET", f"/api/clips/{known}/codes", None, 404, "start with --release"),
        ("GET", f"/api/clips/{known}0", None, 404, "no such clip"),
        ("GET", "/api/clips/..%2f..%2fetc%2fpasswd/media", None, 404, ""),
        ("GET", "/api/clips/..%00-1", None, 404, "no such clip"),
        ("PUT", "/api/clips/..-1/mark", {}, 404, "no such clip"),
        ("GET", "/api/nothing", None, 404, "Not Found"),
        ("DELETE", "/api/clips", None, 405, "Not Allowed"),
    )
    for method, path, body, status, words in wrong:
        answer = client.request(method, path, json=body)
        assert (answer.status_code, words in answer.json()["error"]) == (status, True), (path, answer.text)
    assert client.post("/api/clips", content=b" " * 70_000).status_code == 413
    assert client.post("/api/clips", content=b"{").status_code == 400


def test_a_takedown_while_the_page_is_open_is_told(mixed):
    corpus, client = mixed
    clip_id = listed(client)[0]["clip_id"]
    remove(corpus, [find_recording(corpus, clip_id)])
    assert client.get(f"/api/clips/{clip_id}").status_code == 409
    assert client.get("/api/about").json()["summary"]["num_clips"] == 100
    assert client.get(f"/api/clips/{clip_id}").status_code == 404


def test_sound_comes_in_ranges(heard):
    _, client = heard
    path = f"/api/clips/{listed(client)[0]['clip_id']}/media"
    whole = client.get(path)
    assert (whole.status_code, whole.headers["content-type"], whole.headers["accept-ranges"]) == (
        200,
        "audio/flac",
        "bytes",
    )
    size = len(whole.content)
    for wanted, part in (
        ("bytes=0-99", whole.content[:100]),
        ("bytes=100-", whole.content[100:]),
        ("bytes=-50", whole.content[-50:]),
        (f"bytes={size - 1}-{size + 50}", whole.content[-1:]),
    ):
        answer = client.get(path, headers={"Range": wanted})
        assert (answer.status_code, answer.content) == (206, part), wanted
        start = size - 50 if wanted == "bytes=-50" else int(wanted[6:].split("-")[0])
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/{size}"
    beyond = client.get(path, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    for odd in ("bytes=5-2", "bytes=-0"):
        assert client.get(path, headers={"Range": odd}).status_code == 416
    for other in ("bytes=0-1,5-6", "lines=0-1", "bytes=-"):
        assert client.get(path, headers={"Range": other}).content == whole.content


def test_a_clip_has_its_picture_and_every_column(heard):
    _, client = heard
    entry = listed(client, filters=[{"column": "modality", "operator": "empty"}])[0]
    shown = client.get(f"/api/clips/{entry['clip_id']}").json()
    assert shown["clip"]["words"][0].keys() == {"word", "start_s", "end_s", "probability"}
    assert shown["recording"]["url"].startswith("https://example.org/")
    sound, rate = soundfile.read(io.BytesIO(client.get(f"/api/clips/{entry['clip_id']}/media").content))
    picture = client.get(f"/api/clips/{entry['clip_id']}/picture").json()
    assert (picture["mel"]["num_mels"], picture["mel"]["num_frames"]) == (100, 1 + len(sound) // 256)
    assert len(base64.b64decode(picture["mel"]["data"])) == 100 * picture["mel"]["num_frames"]
    peaks = np.array(picture["peaks"])
    assert len(peaks) == 1200
    assert peaks[:, 1].max() == pytest.approx(100 * sound.max(), abs=1)
    assert peaks[:, 0].min() == pytest.approx(100 * sound.min(), abs=1)
    assert shown["clip"]["duration_s"] == pytest.approx(len(sound) / rate)


def test_codes_come_from_the_shards_and_are_decoded(heard):
    _, client = heard
    entry = listed(client, filters=[{"column": "modality", "operator": "empty"}])[0]
    codes = client.get(f"/api/clips/{entry['clip_id']}/codes").json()
    assert codes["origin"] == "shards"
    frames = 1 + round(entry["scores"]["duration_s"] * 24_000) // 256
    assert codes["mel"]["num_frames"] == frames
    assert len(codes["codes"]) == -(-frames // 4)
    assert max(codes["codes"]) < codes["num_codes"] == 64
    sound, rate = soundfile.read(io.BytesIO(client.get(f"/api/clips/{entry['clip_id']}/decoded").content))
    assert len(sound) / rate == pytest.approx(entry["scores"]["duration_s"], abs=0.02)


def test_pictures_are_shown_as_they_are_and_have_no_sound(heard):
    _, client = heard
    [entry] = listed(client, filters=[{"column": "modality", "operator": "is", "value": "image"}])
    answer = client.get(f"/api/clips/{entry['clip_id']}/media")
    assert (answer.headers["content-type"], answer.content[:4]) == ("image/png", b"\x89PNG")
    assert "has no sound" in client.get(f"/api/clips/{entry['clip_id']}/picture").json()["error"]
    assert "the dVAE is for speech" in client.get(f"/api/clips/{entry['clip_id']}/codes").json()["error"]


def test_without_a_key_only_this_machines_own_page_may_ask(mixed):
    _, client = mixed
    port = client.base_url.port
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"rebound.example:{port}"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://localhost:{port}"},  # the page is at 127.0.0.1
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert client.get("/api/about", headers=headers).status_code == 403, headers
        assert client.post("/api/clips", json={}, headers=headers).status_code == 403, headers
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert client.get("/api/about", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200, host
    page = client.get("/")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in page.headers


def test_with_a_key_others_may_ask_who_have_it(tmp_path):
    corpus = write_mixed(tmp_path / "corpus", clips_per_recording=2)
    with serving(BrowseConfig(corpus=corpus.uri), "k-1234") as address, httpx.Client(base_url=address) as client:
        assert client.get("/").status_code == 200
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic k-1234"},
            {"Cookie": "triforce_browse=x"},
        ):
            assert client.get("/api/about", headers=headers).status_code == 401, headers
        assert (
            client.get("/api/about", headers={"Authorization": "Bearer k-1234", "Host": "a.example"}).status_code == 200
        )
        assert client.post("/api/login", content="wrong").status_code == 401
        assert client.get("/api/about").status_code == 401
        answer = client.post("/api/login", content="k-1234")
        assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
        assert client.get("/api/about").status_code == 200
        assert client.get("/api/about", headers={"Origin": "http://evil.example"}).status_code == 403


def test_another_address_needs_a_key_and_a_corpus_has_to_be_there(tmp_path, monkeypatch):
    monkeypatch.delenv("TRIFORCE_API_KEY", raising=False)
    corpus = write_mixed(tmp_path / "corpus", clips_per_recording=2)
    with pytest.raises(ValueError, match="set TRIFORCE_API_KEY"):
        serve_forever(BrowseConfig(corpus=corpus.uri, host="0.0.0.0"))
    with pytest.raises(ValueError, match="holds no clips"):
        BrowseServer(BrowseConfig(corpus=str(tmp_path / "none")))
    with pytest.raises(ValueError, match="give --release too"):
        BrowseServer(BrowseConfig(corpus=corpus.uri, tokens="x"))
    help_text = CliRunner().invoke(app, ["browse", "--help"]).output
    assert "corpus browse data/corpus" in help_text


def test_titles_are_data(mixed):
    _, client = mixed
    answer = client.post("/api/clips", json={"search": "<script>"})
    assert answer.headers["content-type"] == "application/json"
    assert {one["title"] for one in answer.json()["clips"]} == {TITLE}


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(tmp_path):
    corpus = write_mixed(tmp_path / "corpus", clips_per_recording=2)
    command = [str(Path(sys.executable).with_name("triforce")), "corpus", "browse", corpus.uri, "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "TRIFORCE_API_KEY"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        told = json.loads(process.stdout.readline())
        assert told["config"] == f"{corpus.uri}/filter.yaml"
        address = httpx.URL(told["address"])
        assert address.host == "127.0.0.1"
        assert httpx.get(f"{address}/api/about", timeout=60).json()["summary"]["num_clips"] == 12
        taken = subprocess.run([*command[:-1], str(address.port)], capture_output=True, text=True, env=environment)
        assert (taken.returncode, "give another port" in taken.stderr) == (2, True), taken.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
