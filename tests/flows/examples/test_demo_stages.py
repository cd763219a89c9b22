"""Stages: done once, continued when stopped, done again when what they depend on changes; and their times."""

from __future__ import annotations

import json

import pytest

from triforce.flows.examples.demo.run import DemoConfig, run_demo
from triforce.flows.examples.demo.stages import Stage, run_stages


@pytest.fixture
def journal(tmp_path):
    """Runs stages named in ``names`` with settings, and says which of them worked."""

    def run(settings: dict[str, object], fail: str | None = None) -> list[str]:
        worked: list[str] = []

        def work(name: str) -> str:
            worked.append(name)
            if name == fail:
                raise KeyboardInterrupt
            (tmp_path / name).write_text("made")
            return f"{name} made"

        stages = [Stage(name, lambda name=name: work(name), value, (name,)) for name, value in settings.items()]
        if fail:
            with pytest.raises(KeyboardInterrupt):
                run_stages(stages, tmp_path, said.append)
        else:
            run_stages(stages, tmp_path, said.append)
        return worked

    said: list[str] = []
    run.said, run.folder = said, tmp_path
    return run


def test_what_is_done_is_skipped_and_what_was_stopped_goes_on(journal):
    settings = {"one": 1, "two": 2, "three": 3}
    assert journal(settings, fail="two") == ["one", "two"]
    assert journal(settings) == ["two", "three"]
    assert journal(settings) == []
    assert journal.said[-1] == "[3/3] three: done before: three made"


def test_a_changed_setting_reruns_it_and_all_after(journal):
    journal({"one": 1, "two": 2, "three": 3})
    assert journal({"one": 1, "two": 20, "three": 3}) == ["two", "three"]


def test_a_missing_artifact_is_made_again(journal):
    journal({"one": 1, "two": 2})
    (journal.folder / "two").unlink()
    assert journal({"one": 1, "two": 2}) == ["two"]


def test_times_add_up_over_runs(journal):
    journal({"one": 1, "two": 2}, fail="two")
    timings = json.loads((journal.folder / "timings.json").read_text())
    assert timings["stages"]["two"]["finished"] is False
    journal({"one": 1, "two": 2})
    timings = json.loads((journal.folder / "timings.json").read_text())
    assert [timings["stages"][name]["runs"] for name in ("one", "two")] == [1, 2]
    assert timings["stages"]["two"]["finished"] is True
    assert timings["total_s"] == pytest.approx(sum(stage["wall_s"] for stage in timings["stages"].values()))
    assert timings["machine"]["cores"] >= 1


def test_a_folder_that_was_begun_with_other_speech_is_refused(tmp_path):
    (tmp_path / "speech.json").write_text(json.dumps({"speech": "/home/me/voice"}))
    with pytest.raises(ValueError, match=r"begun with SPEECH=/home/me/voice.*DEMO_FOLDER"):
        run_demo(tmp_path, None, DemoConfig())
