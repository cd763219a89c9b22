"""Speaking and reading in a bare environment: the C locale in ASCII, no home or one that cannot be written, spaces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import soundfile
import tiny_run

COMMAND = str(Path(sys.executable).with_name("triforce"))
KEPT = ("PATH", "PYTHONPATH", "COVERAGE_PROCESS_START")


def test_a_bare_environment_speaks_and_reads(tmp_path):
    folder = tmp_path / "a folder"
    release = tiny_run.write_release(folder / "release")
    (folder / "büch.txt").write_bytes("Kapitel 1\r\n\r\nEs war „schön“. Ж\r\n".encode("utf-16"))
    env = {name: os.environ[name] for name in KEPT if name in os.environ} | {"OMP_NUM_THREADS": "1", "LC_ALL": "C"}
    env |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def run(*arguments: str, **more: str) -> str:
        command = [COMMAND, *arguments, "--release", release]
        done = subprocess.run(command, cwd=folder, env=env | more, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    run("speak", "Größe ❤️!", "-o", "größe 1.wav", "--set", "sampling.max_codes=8")
    assert soundfile.info(os.fsencode(folder / "größe 1.wav")).duration > 0.2
    said = run("read", "büch.txt", "--set", "speak.sampling.max_codes=8", "speak.tries=1", HOME="/dev/null/home")
    assert "1 chapters, 3 pieces" in said
    with (folder / "büch.m4b").open("rb") as file, av.open(file) as container:
        assert container.chapters()[0]["metadata"]["title"] == "Kapitel 1"
        assert container.metadata["title"] == "büch"
    assert json.loads((folder / "büch.m4b.work/report.json").read_text("utf-8"))["out"] == "büch.m4b"
