"""Steps of an example: done once, continued when stopped, done again when what they depend on changes; their times."""

from __future__ import annotations

import json

import pytest

from triforce.flows.examples.demo.run import DemoConfig, run_demo
from triforce.flows.examples.timed_steps import Timings, file_hash


@pytest.fixture
def journal(tmp_path):
    """Runs steps named in ``names`` with settings, each made of the one before, and says which of them worked."""

    def run(settings: dict[str, object], fail: str | None = None) -> list[str]:
        worked: list[str] = []
        timings = Timings(tmp_path, list(settings), said.append)

        def make(name: str, value: object) -> str:
            worked.append(name)
            if name == fail:
                raise KeyboardInterrupt
            (tmp_path / name).write_text(f"made of {value}, {before and file_hash(before)}")
            return f"{name} made"

        before = None
        for name, value in settings.items():

            def key(value=value, before=before):
                return [value, before and file_hash(before)]

            if name == fail:
                with pytest.raises(KeyboardInterrupt):
                    timings.stored(name, tmp_path / name, key, lambda name=name, value=value: make(name, value))
                return worked
            timings.stored(name, tmp_path / name, key, lambda name=name, value=value: make(name, value))
            before = tmp_path / name
        return worked

    said: list[str] = []
    run.said, run.folder = said, tmp_path
    return run


def test_what_is_done_is_skipped_and_what_was_stopped_goes_on(journal):
    settings = {"one": 1, "two": 2, "three": 3}
    assert journal(settings, fail="two") == ["one", "two"]
    assert journal(settings) == ["two", "three"]
    assert journal.said[-1] == "[3/3] three: three made (0 s)"
    assert journal(settings) == []
    assert journal.said[-1] == "[3/3] three: done before: three made"


def test_a_changed_setting_reruns_it_and_what_depends_on_it(journal):
    journal({"one": 1, "two": 2, "three": 3})
    assert journal({"one": 1, "two": 20, "three": 3}) == ["two", "three"]


def test_a_missing_artifact_is_made_again(journal):
    journal({"one": 1, "two": 2})
    (journal.folder / "two").unlink()
    assert journal({"one": 1, "two": 2}) == ["two"]


def test_a_key_may_name_what_the_step_itself_makes(tmp_path):
    made = []

    def make() -> str:
        made.append(1)
        (tmp_path / "a").write_text("a")
        (tmp_path / "b").write_text("b")
        return "both"

    def run() -> None:
        timings = Timings(tmp_path, ["one"], lambda _: None)
        timings.stored("one", tmp_path / "a", lambda: (tmp_path / "b").exists(), make)

    run()
    run()
    assert len(made) == 1
    (tmp_path / "b").unlink()
    run()
    assert len(made) == 2


def test_times_add_up_over_runs_and_skipped_steps_take_none(journal):
    journal({"one": 1, "two": 2}, fail="two")
    timings = json.loads((journal.folder / "timings.json").read_text())
    assert timings["stages"]["two"]["finished"] is False
    journal({"one": 1, "two": 2})
    timings = json.loads((journal.folder / "timings.json").read_text())
    assert [timings["stages"][name]["runs"] for name in ("one", "two")] == [1, 2]
    assert timings["stages"]["two"]["finished"] is True
    assert timings["total_s"] == pytest.approx(sum(stage["wall_s"] for stage in timings["stages"].values()))
    assert timings["machine"]["cores"] >= 1


def test_a_folder_that_was_begun_with_other_speech_or_from_another_release_is_refused(tmp_path):
    (tmp_path / "speech.json").write_text(json.dumps({"speech": "/home/me/voice"}))
    with pytest.raises(ValueError, match=r"begun with SPEECH=/home/me/voice, FROM=scratch.*DEMO_FOLDER"):
        run_demo(tmp_path, None, DemoConfig(init_from="scratch"))
    (tmp_path / "speech.json").write_text(json.dumps({"speech": None, "init_from": "/a/release"}))
    with pytest.raises(ValueError, match="begun with the demo speech, FROM=/a/release; go on with the same"):
        run_demo(tmp_path, None, DemoConfig(init_from="scratch"))
    with pytest.raises(FileNotFoundError, match=r"FROM=/nowhere: no gpt/config\.json here .*make demo FROM=scratch"):
        run_demo(tmp_path, None, DemoConfig(init_from="/nowhere"))
