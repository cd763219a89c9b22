"""`triforce reading` as a whole, at three thousandths of its size: every stage meets the real thing."""

import json

import pytest

from triforce.flows.examples.reading.run import ReadingConfig, run_reading


@pytest.mark.slow
def test_a_voice_is_learnt_and_heard_reading_unseen_sentences(tmp_path):
    lines: list[str] = []
    config = ReadingConfig(share=0.003, num_unseen=4, num_read=3, candidates=2, judge="base", threads=2)
    run_reading(tmp_path, config, lines.append)
    found = json.loads((tmp_path / "reading.json").read_bytes())
    assert len(found["rows"]) == 3
    assert found["wer"] > 0.5  # seconds of training: nobody understands it, and the judge says so
    evaluation = json.loads((tmp_path / "evaluation/evaluation.json").read_bytes())
    systems = {system["name"]: system["wer"][0] for system in evaluation["systems"]}
    assert systems["original"] < 0.5 < systems["tts_unseen"]
    assert {"dvae", "diffusion"} < set(systems)
    gpt = json.loads((tmp_path / "release/gpt/config.json").read_bytes())
    assert gpt["layouts"] == ["text>reading"]
    again: list[str] = []
    run_reading(tmp_path, config, again.append)
    assert sum("done before" in line for line in again) == 7
